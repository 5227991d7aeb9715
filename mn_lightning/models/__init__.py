"""LightningModules and the networks they take."""

from mn_lightning.models.classifier import ImageClassifier
from mn_lightning.models.networks import CIFARConvNet

__all__ = ["CIFARConvNet", "ImageClassifier"]
