"""A trained network leaves Lightning: torch.export and ONNX."""

import io

import pytest
import torch
from helpers.tiny import classifier, digits, network, trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from packaging.version import Version
from torch import Tensor, nn

from mn_lightning.callbacks import GMMRefitCallback, NormSwapCallback, QueueResetCallback
from mn_lightning.checkpoints import load_from_checkpoint
from mn_lightning.models import ImageClassifier

NORMS = ["mixture", "mode", "mode_group"]
# torch 2.6 fails on addcmul of a dynamic size.
DYNAMIC = Version(torch.__version__) >= Version("2.7")
SHAPES = ({0: torch.export.Dim("batch", min=1)},) if DYNAMIC else None
COUNTS = (1, 7) if DYNAMIC else (4,)


@pytest.fixture(scope="module", params=[*NORMS, "fused mixture"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    """The network of a checkpoint, to be evaluated."""
    folder = tmp_path_factory.mktemp("trained")
    fused = request.param.startswith("fused")
    swap = NormSwapCallback("all", request.param.split()[-1], fuse_activation=fused)
    saver = ModelCheckpoint(folder, "last", save_weights_only=True)
    callbacks = [swap, GMMRefitCallback(), QueueResetCallback(), saver]
    trainer(folder, callbacks, enable_checkpointing=True, max_epochs=1).fit(classifier(), digits())
    return load_from_checkpoint(ImageClassifier, folder / "last.ckpt", network=network()).network.eval()


def images(count: int) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(count))


def test_exported(trained: nn.Module) -> None:
    program = torch.export.export(trained, (images(4),), dynamic_shapes=SHAPES, strict=False)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for count in COUNTS:
        torch.testing.assert_close(loaded(images(count)), trained(images(count)), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not DYNAMIC, reason="onnxruntime refuses some of what torch 2.6 exports")
def test_in_onnx(trained: nn.Module) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    program = torch.onnx.export(trained, (images(4),), dynamo=True, dynamic_shapes=SHAPES, verbose=False)
    file = io.BytesIO()
    program.save(file)
    assert len(file.getvalue()) < 2**20  # no queue in it
    session = runtime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    for count in COUNTS:
        (found,) = session.run(None, {session.get_inputs()[0].name: images(count).numpy()})
        expected = trained(images(count)).detach()
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-4)
