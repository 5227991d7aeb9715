from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid, save_image

from mn_lightning.callbacks._trainer import training_steps
from mn_lightning.callbacks.update_norms import freshen
from mn_lightning.utils.checks import check_at_least
from mn_lightning.utils.restore import untouched


class SampleGridCallback(Callback):
    """Show how a generator gets on: a grid of its samples, always of the same latents.

    The grid is made every so many steps of the generator, and at the end of the training, in evaluation mode and from
    refitted mixtures. Modes, buffers and random states are put back: the training is the same with and without this
    callback.

    It is written to ``samples/STEP.png`` in the trainer's log folder, and given to loggers that take images: those
    whose ``experiment`` has ``add_image`` (TensorBoard), or which have ``log_image`` themselves (Weights & Biases).

    Args:
        every_n_steps: steps between two grids: of the generator, if the module counts them as ``generator_steps``, and
            of the trainer's ``global_step`` otherwise.
        num_samples: images in the grid.
        nrow: images in a row of the grid.
        seed: decides the latents.

    Raises:
        ValueError: a number below 1, or a negative seed.
        TypeError: in ``setup``, if the LightningModule has no method ``sample(n, generator)``.

    Examples:
        >>> trainer = Trainer(callbacks=[SampleGridCallback(every_n_steps=200, num_samples=16, nrow=4)], logger=False)
    """

    def __init__(self, every_n_steps: int = 1000, num_samples: int = 64, nrow: int = 8, seed: int = 0) -> None:
        super().__init__()
        for name, value in (("every_n_steps", every_n_steps), ("num_samples", num_samples), ("nrow", nrow)):
            check_at_least("SampleGridCallback", name, value, 1)
        check_at_least("SampleGridCallback", "seed", seed, 0)
        self.every_n_steps = every_n_steps
        self.num_samples = num_samples
        self.nrow = nrow
        self.seed = seed
        self._last = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that there is something to draw."""
        if not callable(getattr(pl_module, "sample", None)):
            raise TypeError(
                f"SampleGridCallback got a {type(pl_module).__name__} without sample; it takes a LightningModule whose "
                "sample(n, generator) returns images (n, C, H, W) in [-1, 1], add that method"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count from here, which is not 0 for a resumed run."""
        self._last = training_steps(trainer)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """Draw a grid if it is time for one."""
        # One batch can be several steps: the multiple may have been passed rather than met.
        if training_steps(trainer) // self.every_n_steps > self._last // self.every_n_steps:
            self._draw(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the last grid."""
        if training_steps(trainer) > self._last:
            self._draw(trainer, pl_module)

    def _draw(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._last = training_steps(trainer)
        # All processes sample and ask for the folder, either of which can wait for the others; one writes.
        freshen(trainer, pl_module)
        with untouched(pl_module, pl_module.device):
            pl_module.eval()
            generator = torch.Generator().manual_seed(self.seed)
            images: Tensor = cast(Any, pl_module).sample(self.num_samples, generator=generator)
        folder = Path(trainer.log_dir or trainer.default_root_dir) / "samples"
        if not trainer.is_global_zero:
            return
        grid = make_grid(images.float().cpu(), self.nrow, normalize=True, value_range=(-1, 1))
        folder.mkdir(parents=True, exist_ok=True)
        save_image(grid, folder / f"{self._last:06d}.png")
        for logger in trainer.loggers:
            experiment: Any = getattr(logger, "experiment", None)
            if hasattr(experiment, "add_image"):
                experiment.add_image("samples", grid, self._last)
            elif hasattr(logger, "log_image"):
                logger.log_image("samples", [to_pil_image(grid)], step=self._last)
