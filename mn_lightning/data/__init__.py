"""LightningDataModules for the experiments of the two papers."""

from mn_lightning.data.digits import DigitsDataModule
from mn_lightning.data.folder import ImageFolderDataModule
from mn_lightning.data.multitask import MultiTaskDataModule
from mn_lightning.data.vision import TorchvisionDataModule

__all__ = ["DigitsDataModule", "ImageFolderDataModule", "MultiTaskDataModule", "TorchvisionDataModule"]
