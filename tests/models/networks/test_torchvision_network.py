"""torchvision's networks by name, against the numbers of parameters that torchvision publishes."""

from pathlib import Path

import pytest
import torch
from helpers.network_parts import count_parameters
from torch import Tensor
from torchvision.models import get_model, get_model_weights

from mn_lightning import norm_layers
from mn_lightning.__main__ import main
from mn_lightning.models import TorchvisionNetwork


@pytest.mark.parametrize(
    "name",
    ["resnet18", "googlenet", "densenet121", "vgg11_bn", "mobilenet_v3_small", "squeezenet1_1", "efficientnet_b0"],
)
def test_number_of_parameters_is_the_published_one(name: str) -> None:
    published = get_model_weights(name)["IMAGENET1K_V1"].meta["num_params"]
    with torch.device("meta"):
        assert count_parameters(TorchvisionNetwork(name)) == published


def test_number_of_classes() -> None:
    with torch.device("meta"):
        whole, small = TorchvisionNetwork("resnet18"), TorchvisionNetwork("resnet18", num_classes=10)
        assert small(small.example_input_array).shape == (2, 10)
    assert count_parameters(whole) - count_parameters(small) == 513 * 990


@pytest.mark.parametrize("name", ["googlenet", "inception_v3", "squeezenet1_0", "swin_v2_t"])
def test_training_returns_logits_alone(name: str, recwarn: pytest.WarningsRecorder) -> None:
    with torch.device("meta"):
        network = TorchvisionNetwork(name, num_classes=5)
        logits = network(network.example_input_array)
    assert isinstance(logits, Tensor)
    assert logits.shape == (2, 5)
    assert not [warning for warning in recwarn if "initialization" in str(warning.message)]
    if name in ("googlenet", "inception_v3"):  # every norm is used, none is left in an auxiliary classifier
        with torch.device("meta"):
            assert all(layer.input_shape for layer in norm_layers(network, network.example_input_array))


@pytest.fixture
def store_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts random weights where torchvision's are after a download."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)

    def store(name: str) -> dict[str, Tensor]:
        with torch.device("meta"):
            arguments = {"init_weights": False} if name == "googlenet" else {}
            shapes = get_model(name, **arguments).state_dict()
        weights = {key: torch.rand(value.shape).to(value.dtype) for key, value in shapes.items()}
        torch.save(weights, folder / Path(get_model_weights(name)["IMAGENET1K_V1"].url).name)
        return weights

    return store


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("shufflenet_v2_x0_5", "fc"),
        ("squeezenet1_1", "classifier.1"),
        ("googlenet", "fc"),
        ("mobilenet_v3_small", "classifier.3"),
    ],
)
def test_weights_are_loaded_and_the_last_layer_is_new(name: str, head: str, store_weights) -> None:
    stored = store_weights(name)
    network = TorchvisionNetwork(name, num_classes=6, weights="IMAGENET1K_V1").network
    loaded = network.state_dict()
    own = {f"{head}.weight", f"{head}.bias"}
    assert {key for key in stored if not key.startswith("aux")} == set(loaded)
    for key, value in loaded.items():
        assert (value.shape[0] == 6) if key in own else torch.equal(value, stored[key]), key
    size = 224 if name == "googlenet" else 64
    assert network.train()(torch.randn(2, 3, size, size)).shape == (2, 6)


def test_weights_for_as_many_classes_are_taken_whole(store_weights) -> None:
    stored = store_weights("squeezenet1_1")
    loaded = TorchvisionNetwork("squeezenet1_1", weights="DEFAULT").network.state_dict()
    assert all(torch.equal(value, stored[key]) for key, value in loaded.items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet19"}, "name='resnet19'; the nearest .* 'resnet18'"),
        ({"name": "fcn_resnet50"}, "name='fcn_resnet50'; the nearest"),  # segments
        (
            {"name": "resnet18", "weights": "V1"},
            "weights='V1'; for resnet18 it takes None or one of IMAGENET1K_V1, DEFA",
        ),
    ],
)
def test_wrong_arguments(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        TorchvisionNetwork(**arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "shape", "least"), [("resnet18", (2, 1, 32, 32), 1), ("vgg11_bn", (2, 3, 31, 32), 32)]
)
def test_wrong_input(name: str, shape: tuple[int, ...], least: int) -> None:
    with torch.device("meta"):
        network = TorchvisionNetwork(name)
        with pytest.raises(ValueError, match=rf"it takes \(N, 3, H, W\) with H and W >= {least}") as error:
            network(torch.zeros(shape))
    assert f"TorchvisionNetwork('{name}') got input of shape {shape}" in str(error.value)


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    network = ["--model.network", "TorchvisionNetwork", "--model.network.name", "resnet18"]
    main(["layers", "--model", "ImageClassifier", *network])
    printed = capsys.readouterr().out
    assert printed.count("BatchNorm2d") == 20
    assert "network.network.layer4.1.bn2" in printed
    assert "512×7×7" in printed
