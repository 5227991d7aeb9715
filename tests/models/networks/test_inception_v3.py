"""Inception-V3 against Section 4.3 of Kalayeh & Shah (arXiv:1806.02892) and against torchvision's."""

import pytest
import torch
from helpers.network_parts import count_parameters, map_shapes
from torch import fx, nn
from torchvision.models import Inception_V3_Weights, inception_v3
from torchvision.models.inception import BasicConv2d

from mn_lightning import ModeNorm, swap_norms
from mn_lightning.models import ImageClassifier, InceptionV3

# Section 4.3: three blocks of 3, 4 and 2 layers, with a grid reduction between them.
PAPER_ORDER = [
    "inc1/0",
    "inc1/1",
    "inc1/2",
    "red1",
    "inc2/0",
    "inc2/1",
    "inc2/2",
    "inc2/3",
    "red2",
    "inc3/0",
    "inc3/1",
]
MODULES = [f"Mixed_{name}" for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")]


@pytest.fixture
def network() -> InceptionV3:
    with torch.device("meta"):
        return InceptionV3()


def swapped(network: nn.Module, *layers: str) -> list[str]:
    return [line.name for line in swap_norms(network, layers, "mode")]


def test_the_last_map_is_3x3_and_the_stride_8(network: InceptionV3) -> None:
    stem = ["Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "maxpool1", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "maxpool2"]
    assert map_shapes(network, stem) == [(32, 32), (32, 32), (64, 32), (64, 32), (80, 32), (192, 32), (192, 15)]
    assert map_shapes(network, MODULES) == [
        *[(256, 15), (288, 15), (288, 15)],
        *[(768, 7)] * 5,
        *[(1280, 3), (2048, 3), (2048, 3)],
    ]
    strides = [
        (name, module.stride)
        for name, module in network.named_modules()
        if isinstance(module, (nn.Conv2d, nn.MaxPool2d)) and module.stride not in (1, (1, 1))
    ]
    # The pools inside the grid reductions are functions; the reductions halve the map in each branch.
    assert strides == [
        ("maxpool2", 2),
        ("Mixed_6a.branch3x3.conv", (2, 2)),
        ("Mixed_6a.branch3x3dbl_3.conv", (2, 2)),
        ("Mixed_7a.branch3x3_2.conv", (2, 2)),
        ("Mixed_7a.branch7x7x3_4.conv", (2, 2)),
    ]


@pytest.mark.parametrize("num_classes", [10, 100])
def test_number_of_parameters(num_classes: int) -> None:
    # torchvision publishes 27,161,264 for 1,000 classes. Of these, the auxiliary classifier has a 1x1 convolution from
    # 768 to 128 channels, a 5x5 one to 768 channels, both with norms, and a linear layer.
    published = Inception_V3_Weights.IMAGENET1K_V1.meta["num_params"]
    auxiliary = (768 * 128 + 2 * 128) + (128 * 768 * 25 + 2 * 768) + 769 * 1000
    with torch.device("meta"):
        network = InceptionV3(num_classes=num_classes)
    assert count_parameters(network) == published - auxiliary - 2049 * (1000 - num_classes)


def test_all_but_the_stem_is_torchvisions(network: InceptionV3) -> None:
    with torch.device("meta"):
        theirs = inception_v3(init_weights=False, aux_logits=False, num_classes=10)
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    assert shapes == {name: value.shape for name, value in theirs.state_dict().items()}
    changed = [name for name, module in theirs.named_modules() if repr(module) != repr(network.get_submodule(name))]
    stem = ["Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_4a_3x3"]
    assert set(changed) == {"", "maxpool1", *stem, *(f"{name}.conv" for name in stem)}


def test_initialization_is_torchvisions() -> None:
    network = InceptionV3()
    layers = [module for module in network.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    assert len(layers) == 95
    for layer in layers:
        assert layer.weight.std().item() == pytest.approx(0.1, rel=0.1)
        assert layer.weight.mean().abs() < 0.02


@pytest.mark.parametrize(
    ("layers", "count"),
    [
        # Table 4's settings; Figure 6 shows the components of "10 mixture normalization modules" for MN-4.
        (["red1", "red2"], 4),
        (["red1", "red2", "inc3/0"], 10),
        (["inc2/0", "inc3/0"], 10),
        (["inc2/1", "inc3/0"], 10),  # Table 6
        (["inc2/0/2/4"], 1),
        (["inc2/?"], 16),
        (["inc?/?"], 4 * (3 + 4) + 6 * 2),
        (["red?"], 4),
        (["inc2/0/*"], 10),
        (["inc2/0", "Mixed_6b.branch1x1"], 4),
        (["Mixed_7b.*"], 9),
    ],
)
def test_the_papers_names_work_as_layers(network: InceptionV3, layers: list[str], count: int) -> None:
    names = swapped(network, *layers)
    assert len(names) == count
    assert all(isinstance(network.get_submodule(name), ModeNorm) for name in names)


def test_the_papers_names_work_inside_a_lightning_module(network: InceptionV3) -> None:
    model = ImageClassifier(network)
    assert swapped(model, "red2") == ["network.Mixed_7a.branch3x3_2.bn", "network.Mixed_7a.branch7x7x3_4.bn"]
    assert swapped(model, "network.inc2/0/2/4") == ["network.Mixed_6b.branch7x7dbl_5.bn"]
    report = swap_norms(model, ["red2", "inc2/0/2/4"], "mode")
    assert (len(report), len(report.unchanged)) == (0, 3)


def test_the_layer_of_figure_5(network: InceptionV3) -> None:
    """The fifth norm in the third branch of the first layer in the second block, which has 192 channels."""
    assert InceptionV3.layer_aliases["inc2/0/2/4"] == ["Mixed_6b.branch7x7dbl_5.bn"]
    assert network.get_submodule("Mixed_6b.branch7x7dbl_5.bn").num_features == 192


def test_aliases_have_the_papers_order() -> None:
    assert list(InceptionV3.layer_aliases)[: len(PAPER_ORDER)] == PAPER_ORDER


class _ConvTracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, BasicConv2d)


@pytest.mark.parametrize(("alias", "module"), list(zip(PAPER_ORDER, MODULES, strict=True)))
def test_aliases_follow_the_branches_of_torchvisions_forward_pass(
    network: InceptionV3, alias: str, module: str
) -> None:
    nodes = list(_ConvTracer().trace(network.get_submodule(module)).nodes)
    convs = [node for node in nodes if node.op == "call_module"]
    above: dict[fx.Node, set[fx.Node]] = {}  # the convolutions that each node depends on
    for node in nodes:
        above[node] = {conv for source in node.all_input_nodes for conv in above[source] | ({source} & set(convs))}
    last = [conv for conv in convs if all(conv not in above[other] for other in convs)]
    aliases = InceptionV3.layer_aliases
    assert aliases[alias] == [f"{module}.{conv.target}.bn" for conv in last]

    single = {name: layers for name, layers in aliases.items() if name.startswith(f"{alias}/")}
    assert list(single.values()) == [[f"{module}.{conv.target}.bn"] for conv in convs]
    starts = [name for name, conv in zip(single, convs, strict=True) if not above[conv]]
    assert starts == [f"{alias}/{i}/0" for i in range(len(starts))]
    numbers = [tuple(map(int, name.split("/")[-2:])) for name in single]
    assert numbers == sorted(numbers)
    assert [j for i, j in numbers if i == 0] == list(range(sum(i == 0 for i, _ in numbers)))


def test_training_and_evaluation_return_the_same_kind() -> None:
    network = InceptionV3()
    images = torch.randn(2, 3, 15, 15)
    assert network(images).shape == network.eval()(images).shape == (2, 10)
