"""Pictures of a generator's samples during its training."""

import inspect
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid, save_image

from mn_lightning.callbacks._trainer import averages_at_the_end, check_behind_averages, saved_weights, training_steps
from mn_lightning.callbacks.update_norms import freshen
from mn_lightning.fid.images import generated_bytes
from mn_lightning.utils.checks import check_at_least
from mn_lightning.utils.restore import seed_all, untouched

_VALUE_RANGE = (-1.0, 1.0)


class SampleGridCallback(Callback):
    """Show a generator's progress: a grid of its samples, always from the same latents.

    The grid is made after every ``every_n_steps`` steps and at the end of the training, in evaluation mode and with
    refitted mixtures. With ``EMAWeightAveraging`` or another ``WeightAveraging``, it shows the averaged weights, which
    are those that checkpoints hold. Modes, buffers and random states are restored: the training is the same with and
    without this callback.

    The module needs a method ``sample(n)`` or ``sample(n, generator)`` that returns images ``(n, 1 or 3, H, W)``, as
    numbers in [-1, 1] or as bytes. The first form draws its latents from torch's (or NumPy's) global random state,
    which is seeded for it.

    The grid is written to ``samples/STEP.png`` in the trainer's log folder, and given to loggers that take images:
    those whose ``experiment`` has ``add_image`` (TensorBoard), or that have ``log_image`` (Weights & Biases).

    Args:
        every_n_steps: steps between two grids. Steps are the generator's if the module counts them as
            ``generator_steps``, otherwise those of the trainer's ``global_step``.
        num_samples: images in the grid.
        nrow: images in a row of the grid.
        seed: of the latents.

    Raises:
        ValueError: a number is below 1, or the seed is negative; in ``setup``, a callback that averages weights comes
            after this one; when a grid is made, the samples have another shape, dtype or range.
        TypeError: in ``setup``, if the LightningModule has no such method.

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
        self._gives_generator = True

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that there is something to draw."""
        name, sample = type(pl_module).__name__, getattr(pl_module, "sample", None)
        if not callable(sample):
            raise TypeError(
                f"SampleGridCallback got a {name} without sample; it takes a LightningModule whose sample(n) or "
                "sample(n, generator) returns images (n, C, H, W) in [-1, 1], add that method"
            )
        self._gives_generator = _takes(sample, 1, generator=None)
        if not self._gives_generator and not _takes(sample, 1):
            raise TypeError(
                f"SampleGridCallback got a {name} with sample{inspect.signature(sample)}; it takes sample(n) or "
                "sample(n, generator), give the other parameters a default"
            )
        check_behind_averages(trainer, self)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count from the current step, which is not 0 in a resumed run; find out now whether ``sample`` works."""
        self._last = training_steps(trainer)
        self._sample(pl_module, self.num_samples)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """Draw a grid if it is due."""
        # One batch can be several steps, so the multiple may have been passed over.
        if training_steps(trainer) // self.every_n_steps > self._last // self.every_n_steps:
            self._draw(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the last grid, and another one if weights have just been averaged."""
        if training_steps(trainer) > self._last or averages_at_the_end(trainer):
            self._draw(trainer, pl_module)

    def _draw(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._last = training_steps(trainer)
        # All processes sample and ask for the folder, because both can wait for the others; one process writes.
        freshen(trainer, pl_module)
        with saved_weights(trainer, pl_module):
            freshen(trainer, pl_module)  # an average gets statistics of its own, where a callback takes them
            images = self._sample(pl_module, self.num_samples)
        folder = Path(trainer.log_dir or trainer.default_root_dir) / "samples"
        if not trainer.is_global_zero:
            return
        grid = make_grid(images.float() / 255, self.nrow)
        folder.mkdir(parents=True, exist_ok=True)
        save_image(grid, folder / f"{self._last:06d}.png")
        for logger in trainer.loggers:
            experiment: Any = getattr(logger, "experiment", None)
            if hasattr(experiment, "add_image"):
                experiment.add_image("samples", grid, self._last)
            elif hasattr(logger, "log_image"):
                logger.log_image("samples", [to_pil_image(grid)], step=self._last)

    @torch.no_grad()
    def _sample(self, pl_module: Any, n: int) -> Tensor:
        """Return ``n`` images as bytes, on the CPU; the model and the random states are as they were."""
        with untouched(pl_module, pl_module.device):
            pl_module.eval()
            if self._gives_generator:
                images: Tensor = pl_module.sample(n, generator=torch.Generator().manual_seed(self.seed))
            else:
                seed_all(self.seed, 0)
                images = pl_module.sample(n)
        images = generated_bytes(images, n, _VALUE_RANGE).cpu()
        if images.shape[1] not in (1, 3):
            name, channels = type(pl_module).__name__, images.shape[1]
            raise ValueError(f"{name}.sample gave images with {channels} channels; a picture takes 1 or 3")
        return images


def _takes(function: Any, *args: Any, **kwargs: Any) -> bool:
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError:
        return False
    return True
