"""torch-fidelity's extractors: the same features, through the file of the weights; and advice where there is none."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch_fidelity
from helpers import tiny_generator  # noqa: F401 (registers tiny-features)
from helpers.random_inception import save_random_inception
from helpers.tiny import trainer
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from mn_lightning.callbacks import FIDCallback
from mn_lightning.fid import extractors
from mn_lightning.fid.extractors import FidelityFeatures


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_random_inception(tmp_path_factory.mktemp("weights") / "inception.pth"))


def images(count: int, seed: int) -> Tensor:
    coarse = torch.randn(count, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    smooth = nn.functional.interpolate(coarse, size=32, mode="bicubic")
    return ((smooth * (50 + 10 * seed)) + 128).clamp(0, 255).to(torch.uint8)


def test_inception_is_torch_fidelitys(weights: str) -> None:
    theirs = FeatureExtractorInceptionV3(
        "x", ["2048", "logits_unbiased"], feature_extractor_weights_path=weights
    ).eval()
    ours = FidelityFeatures(weights_path=weights, with_logits=True)
    nn.Sequential(ours).train()
    assert not any(module.training for module in ours.modules())
    pair = images(2, 1)
    for mine, other in zip(ours(pair), theirs(pair), strict=True):
        assert torch.equal(mine, other)
    gray = pair[:, :1]
    assert torch.equal(ours(gray)[0], theirs(gray.expand(-1, 3, -1, -1))[0])
    assert [tuple(x.shape) for x in ours(gray)] == [(2, 2048), (2, 1008)]


def test_weights_of_another_network_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(
        RuntimeError, match=r"reading weights_path .*other.pth' failed .*put weights-inception"
    ) as caught:
        FidelityFeatures(weights_path=str(path))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


def test_other_names() -> None:
    with pytest.raises(ValueError, match="is 'vgg'; torch-fidelity has inception-v3-compat"):
        FidelityFeatures("vgg")
    with pytest.raises(ValueError, match="'tiny-features' has no class logits"):
        FidelityFeatures("tiny-features", with_logits=True)
    extractor = FidelityFeatures("tiny-features")
    assert extractor(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))[0].shape == (2, 6)


class Command:
    """Is unpickled as a call."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["inception-v3-compat", "vgg16"])
def test_a_file_of_weights_brings_no_code(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, trace = tmp_path / "weights.pth", tmp_path / "executed"
    torch.save({"Conv2d_1a_3x3.conv.weight": Command(trace)}, file)
    with pytest.raises(RuntimeError, match="weights_path") as caught:
        FidelityFeatures(name, weights_path=str(file))
    assert "\n" not in str(caught.value)
    assert not trace.exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
    torch.load(file, weights_only=False)  # what it would have done
    assert trace.exists()


@pytest.mark.parametrize("channels", [2, 4])
def test_other_numbers_of_channels_are_refused(channels: int) -> None:
    with pytest.raises(
        ValueError, match=rf"'tiny-features' got images of shape \(2, {channels}, 8, 8\); it takes 1 or 3"
    ):
        FidelityFeatures("tiny-features")(torch.zeros(2, channels, 8, 8, dtype=torch.uint8))


class Replay(LightningModule):
    def __init__(self, fake: Tensor) -> None:
        super().__init__()
        self.fake, self.position = fake, 0
        self.weight = nn.Parameter(torch.zeros(()))

    def sample(self, n: int) -> Tensor:
        self.position += n
        return self.fake[self.position - n : self.position]

    def training_step(self, batch: Any) -> Tensor:
        return self.weight * 0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


class Plain(Dataset[Tensor]):
    def __init__(self, content: Tensor) -> None:
        self.content = content

    def __len__(self) -> int:
        return len(self.content)

    def __getitem__(self, index: int) -> Tensor:
        return self.content[index]


@pytest.mark.slow
def test_fid_is_torch_fidelitys(weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From end to end, in a Trainer; with the Inception score. The floor is known from the same features.

    Inception's 192 features of an earlier layer stand for its 2,048, which are compared above: torch-fidelity would
    need half a minute for the eigenvalues.
    """
    monkeypatch.setattr(extractors, "_layer", lambda *_: "192")
    real, fake = images(6, 1), images(12, 2)
    callback = FIDCallback(
        num_samples=12, weights_path=weights, batch_size=8, cache_dir=str(tmp_path), metrics=["fid", "isc"]
    )
    fit = trainer(tmp_path, [callback], max_epochs=1)
    with pytest.warns(UserWarning, match="fid of 12 generated and 6 real images in 192 features is biased"):
        fit.fit(Replay(fake), DataLoader(TensorDataset(real), batch_size=6))
    theirs = torch_fidelity.calculate_metrics(
        input1=Plain(fake),
        input2=Plain(real),
        fid=True,
        feature_layer_fid="192",
        cuda=False,
        verbose=False,
        save_cpu_ram=True,
        feature_extractor_weights_path=weights,
    )["frechet_inception_distance"]
    assert float(fit.callback_metrics["fid"]) == pytest.approx(theirs, rel=1e-3)
    assert theirs > 0.1
    assert float(fit.callback_metrics["isc"]) >= 1
    assert {"fid/best", "fid/steps_to_best", "isc/std"} <= set(fit.callback_metrics)
