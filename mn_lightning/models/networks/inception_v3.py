"""Inception-V3 for small images."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn
from torchvision.models.inception import BasicConv2d, Inception3

from mn_lightning.models.networks._cifar_network import CIFARNetwork

# The convolutions of each branch, in the order of the forward pass. A branch that only pools has no norm and no name.
# Where a branch forks (2a and 2b, 3a and 3b), both are last, and their outputs together are the branch's output.
_BLOCK_A = {
    "branch1x1": [""],
    "branch5x5": ["_1", "_2"],
    "branch3x3dbl": ["_1", "_2", "_3"],
    "branch_pool": [""],
}
_BLOCK_B = {"branch3x3": [""], "branch3x3dbl": ["_1", "_2", "_3"]}
_BLOCK_C = {
    "branch1x1": [""],
    "branch7x7": ["_1", "_2", "_3"],
    "branch7x7dbl": ["_1", "_2", "_3", "_4", "_5"],
    "branch_pool": [""],
}
_BLOCK_D = {"branch3x3": ["_1", "_2"], "branch7x7x3": ["_1", "_2", "_3", "_4"]}
_BLOCK_E = {
    "branch1x1": [""],
    "branch3x3": ["_1", "_2a", "_2b"],
    "branch3x3dbl": ["_1", "_2", "_3a", "_3b"],
    "branch_pool": [""],
}
_PAPER_NAMES = {
    "inc1/0": ("Mixed_5b", _BLOCK_A),
    "inc1/1": ("Mixed_5c", _BLOCK_A),
    "inc1/2": ("Mixed_5d", _BLOCK_A),
    "red1": ("Mixed_6a", _BLOCK_B),
    "inc2/0": ("Mixed_6b", _BLOCK_C),
    "inc2/1": ("Mixed_6c", _BLOCK_C),
    "inc2/2": ("Mixed_6d", _BLOCK_C),
    "inc2/3": ("Mixed_6e", _BLOCK_C),
    "red2": ("Mixed_7a", _BLOCK_D),
    "inc3/0": ("Mixed_7b", _BLOCK_E),
    "inc3/1": ("Mixed_7c", _BLOCK_E),
}


def _layer_aliases() -> dict[str, list[str]]:
    last: dict[str, list[str]] = {}
    single: dict[str, list[str]] = {}
    for alias, (module, branches) in _PAPER_NAMES.items():
        last[alias] = []
        for i, (branch, convs) in enumerate(branches.items()):
            names = [f"{module}.{branch}{conv}.bn" for conv in convs]
            last[alias] += names[-2:] if convs[-1].endswith("b") else names[-1:]
            single |= {f"{alias}/{i}/{j}": [name] for j, name in enumerate(names)}
    return {**last, **single}


class InceptionV3(CIFARNetwork, Inception3):  # type: ignore[misc]  # torchvision has no types
    """Inception-V3 for 32x32 images, as Kalayeh & Shah (arXiv:1806.02892), Section 4.3, change it.

    It is torchvision's ``Inception3`` (Szegedy et al., arXiv:1512.00567) with the first convolution at stride 1 and
    without the first max pool. The output stride is then 8, and the last map of a 32x32 image is 3x3. To reach that
    size, the three convolutions of the stem that have no padding in torchvision are padded here. It has no auxiliary
    classifier, so training and evaluation return the same. Modules, their initialization, the norms' eps of 0.001 and
    the dropout of 0.5 before the last layer are torchvision's.

    Under ``layers`` of a swap the paper's names are accepted, see ``layer_aliases``. ``inc1/0`` to ``inc1/2``,
    ``red1``, ``inc2/0`` to ``inc2/3``, ``red2``, ``inc3/0`` and ``inc3/1`` each stand for a module: they select the
    last norm in each of its branches, or both last norms of a branch that ends in a fork. ``inc2/0/2/4`` is the fifth
    norm in the third branch of ``inc2/0``. The glob ``inc2/?`` selects the last norms of the whole second block, and
    ``inc2/0/*`` all norms of one module.

    Args:
        in_channels: channels of the images, 3 for CIFAR. They have 15x15 pixels or more, 32x32 in the paper.
        num_classes: outputs of the last layer, 10 or 100 in the paper.
    """

    smallest = 15
    layer_aliases: ClassVar[Mapping[str, Sequence[str]]] = _layer_aliases()

    def __init__(self, in_channels: int = 3, num_classes: int = 10) -> None:
        super().__init__(num_classes, aux_logits=False, init_weights=False)
        self.in_channels = in_channels
        self.Conv2d_1a_3x3 = BasicConv2d(in_channels, 32, kernel_size=3, padding=1)
        self.Conv2d_2a_3x3 = BasicConv2d(32, 32, kernel_size=3, padding=1)
        self.maxpool1 = nn.Identity()
        self.Conv2d_4a_3x3 = BasicConv2d(80, 192, kernel_size=3, padding=1)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):  # as torchvision does with init_weights=True
                nn.init.trunc_normal_(module.weight, std=0.1, a=-2, b=2)

    def _logits(self, images: Tensor) -> Tensor:
        logits: Tensor = Inception3.forward(self, images)
        return logits
