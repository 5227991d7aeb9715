"""Networks of the papers, with plain BatchNorm, which can be swapped from outside."""

from mn_lightning.models.networks.cifar_conv_net import CIFARConvNet
from mn_lightning.models.networks.cifar_dense_net import CIFARDenseNet
from mn_lightning.models.networks.cifar_res_net import ResNet20, ResNet56
from mn_lightning.models.networks.dcgan import DCGANDiscriminator, DCGANGenerator
from mn_lightning.models.networks.inception_v3 import InceptionV3
from mn_lightning.models.networks.le_net import LeNet
from mn_lightning.models.networks.network_in_network import NetworkInNetwork
from mn_lightning.models.networks.torchvision_network import TorchvisionNetwork
from mn_lightning.models.networks.vgg import VGG13

__all__ = [
    "VGG13",
    "CIFARConvNet",
    "CIFARDenseNet",
    "DCGANDiscriminator",
    "DCGANGenerator",
    "InceptionV3",
    "LeNet",
    "NetworkInNetwork",
    "ResNet20",
    "ResNet56",
    "TorchvisionNetwork",
]
