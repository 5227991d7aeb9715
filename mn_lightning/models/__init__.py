"""LightningModules, and networks for them."""

from mn_lightning.models.classifier import ImageClassifier
from mn_lightning.models.classifier_features import ClassifierFeatures
from mn_lightning.models.dcgan import DCGAN
from mn_lightning.models.networks import (
    VGG13,
    CIFARConvNet,
    CIFARDenseNet,
    DCGANDiscriminator,
    DCGANGenerator,
    InceptionV3,
    LeNet,
    NetworkInNetwork,
    ResNet20,
    ResNet56,
    TorchvisionNetwork,
)

__all__ = [
    "DCGAN",
    "VGG13",
    "CIFARConvNet",
    "CIFARDenseNet",
    "ClassifierFeatures",
    "DCGANDiscriminator",
    "DCGANGenerator",
    "ImageClassifier",
    "InceptionV3",
    "LeNet",
    "NetworkInNetwork",
    "ResNet20",
    "ResNet56",
    "TorchvisionNetwork",
]
