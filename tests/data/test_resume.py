"""A resumed training sees the images of one that was not interrupted."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.data_files import WRITERS, trust_files, write_image_folder
from lightning import LightningDataModule, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from torch import Tensor, nn

from mn_lightning.data import ImageFolderDataModule, MultiTaskDataModule


class Recorder(BoringModel):
    """Notes the images it is given, epoch by epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 2)
        self.seen: dict[int, list[Tensor]] = {}

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        self.seen.setdefault(self.current_epoch, []).append(batch[0])
        return self.layer(torch.zeros(1, 1)).sum()


def multi_task(root: Path, num_workers: int) -> LightningDataModule:
    names = ("MNIST", "SVHN")
    return MultiTaskDataModule(names, str(root), batch_size=16, augment=True, num_workers=num_workers, download=False)


def image_folder(root: Path, num_workers: int) -> LightningDataModule:
    return ImageFolderDataModule(str(root), batch_size=4, image_size=28, num_workers=num_workers)


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("make", [multi_task, image_folder])
def test_resumed(
    make: Callable[[Path, int], LightningDataModule],
    num_workers: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("MNIST", "SVHN"):
        WRITERS[name](tmp_path, 40, 8)
    trust_files(tmp_path, monkeypatch)
    write_image_folder(tmp_path)

    def fit(max_epochs: int, checkpoint: Path | None = None) -> dict[int, Tensor]:
        model = Recorder()
        trainer = Trainer(
            max_epochs=max_epochs,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
        )
        trainer.fit(model, datamodule=make(tmp_path, num_workers), ckpt_path=checkpoint)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        return {epoch: torch.cat(images) for epoch, images in model.seen.items()}

    whole = fit(3)
    assert len({images.numpy().tobytes() for images in whole.values()}) == 3
    fit(2)
    resumed = fit(3, tmp_path / "last.ckpt")
    assert resumed.keys() == {2}
    assert torch.equal(resumed[2], whole[2])
