"""The Fréchet distance during a training: when it is measured, where it is logged, what a checkpoint keeps."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mn_lightning.callbacks._trainer import (
    averages_at_the_end,
    check_behind_averages,
    is_last_epoch,
    is_new_fit,
    is_validation_of_fit,
    log_now,
    progress_bar,
    saved_weights,
    saves_by,
    training_data,
    training_steps,
)
from mn_lightning.callbacks.update_norms import freshen
from mn_lightning.fid.evaluation import METRICS, Evaluation
from mn_lightning.fid.extractors import INCEPTION, FidelityFeatures
from mn_lightning.fid.images import RealImages, generated_bytes
from mn_lightning.utils.checks import check_at_least, check_choice
from mn_lightning.utils.distributed import all_processes
from mn_lightning.utils.restore import seed_all, untouched

FAST_DEV_RUN_SAMPLES = 8


class FIDCallback(Callback):
    """Measure the Fréchet distance (FID) of a generator's images to real ones while it trains, or of a checkpoint.

    Works for any LightningModule with a method ``sample(n)`` that returns n images ``(n, C, H, W)``, as bytes or with
    values in ``value_range``. An evaluation runs after every ``every_n_steps`` generator steps or ``every_n_epochs``
    epochs, at the end of the training, and before a ``ModelCheckpoint`` that monitors one of the values saves: each
    file is named and ranked by the distance of the weights in it. (With ``train_time_interval``, the time of saving is
    not known in advance.) Generator steps are read from the module's ``generator_steps``, or else from
    ``trainer.global_step``, which counts the steps of all optimizers. If a module steps optimizers that Lightning does
    not see, batches are counted.

    The measured weights are those that a checkpoint holds: with ``EMAWeightAveraging`` or another ``WeightAveraging``,
    the averaged ones. Such a callback has to come before this one.

    It logs ``fid``, ``fid/best`` and ``fid/steps_to_best``: to the loggers once for each evaluation, and for
    ``ModelCheckpoint(monitor="fid")`` and ``EarlyStopping``, which see the last value at all times. The first
    evaluation has to come before they look. With another extractor than Inception the name is ``fd_<name>`` in place of
    ``fid`` (and ``kd_<name>`` in place of ``kid``), with the extractor's own ``name`` or its class name in lower case.

    In ``Trainer.validate`` and ``Trainer.test`` the values are measured once and logged with the others. For a module
    without a validation or test step, use ``mn-lightning fid`` or :meth:`measure`.

    Stale mixtures are refitted first. An evaluation does not change the training: modes, buffers and random states are
    restored. The module draws latents from torch's (or NumPy's) global random state, which is seeded for each block of
    ``batch_size`` images. So every evaluation of the same weights makes the same images, with any number of processes.
    Under DDP the buffers, such as BatchNorm's running statistics, are those of process 0. On the same images the value
    equals ``torch_fidelity.calculate_metrics(fid=True)``.

    Args:
        every_n_steps: evaluate whenever the generator steps reach a multiple of this.
        every_n_epochs: evaluate at the end of every epoch whose number is a multiple of this. If neither is given,
            evaluate after every epoch.
        num_samples: images to generate, over all processes together.
        real: DataLoader or folder of the real images; None takes the Trainer's training data. Each image of the
            loader's dataset counts once, as the dataset gives it: switch random augmentation off.
        value_range: values of black and white in real and generated floating-point images. Generated images may exceed
            it by less than the distance from black to white; they are clamped then.
        feature_extractor: name of one of torch-fidelity's extractors, or a module that maps uint8 images
            ``(N, C, H, W)`` to features ``(N, D)``.
        weights_path: file with the named extractor's weights, from which only numbers are read; None downloads them.
        metrics: ``"fid"``, and if wanted ``"kid"`` and ``"isc"`` (Inception score), each with its ``/std``.
        batch_size: images generated and extracted at a time.
        sample_method: name of the method that generates.
        train_mode: generate in the module's training mode, as some GAN code does, and not in evaluation mode.
        log_floor: log ``fid/floor`` at the start: the distance between two random halves of the real images.
        seed: of the latents, and of the subsets for KID and Inception score.
        cache_dir: folder for the statistics of the real images; None takes one beside torch hub's weights. The
            statistics are found again by the content of the images and by the extractor's features of four fixed
            images.

    Attributes:
        best: the lowest distance so far.
        steps_to_best: the generator steps at which the lowest distance was reached.
        values: the values that the last evaluation logged.
        evaluated_at: the generator steps at the last evaluation since the training's start; -1 before the first.
        seconds: time of all evaluations since the training's start.

    Raises:
        ValueError: an argument is out of range; in ``setup``, the module has no ``sample_method``, or a callback that
            averages weights comes after this one; at the start of the training, real images have another shape, type or
            range; in an evaluation, generated images do.
        RuntimeError: in ``setup``, if the weights can be neither read nor downloaded; says which file to put where.

    Examples:
        >>> from lightning.pytorch.callbacks import ModelCheckpoint
        >>> fid = FIDCallback(every_n_steps=1000, num_samples=10_000)
        >>> trainer = Trainer(callbacks=[fid, ModelCheckpoint(monitor="fid", mode="min")], logger=False)

        With features of your own, if Inception knows little about such images:

        >>> features = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 64))  # uint8 (N, 1, 28, 28) to (N, 64)
        >>> FIDCallback(feature_extractor=features).name
        'fd_sequential'
    """

    def __init__(
        self,
        every_n_steps: int | None = None,
        every_n_epochs: int | None = None,
        num_samples: int = 10_000,
        real: DataLoader[Any] | str | Path | None = None,
        value_range: tuple[float, float] = (-1.0, 1.0),
        feature_extractor: nn.Module | str = INCEPTION,
        weights_path: str | None = None,
        metrics: Sequence[str] = ("fid",),
        batch_size: int = 100,
        sample_method: str = "sample",
        train_mode: bool = False,
        log_floor: bool = False,
        seed: int = 0,
        cache_dir: str | None = None,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("every_n_steps", 1 if every_n_steps is None else every_n_steps, 1),
            ("every_n_epochs", 1 if every_n_epochs is None else every_n_epochs, 1),
            ("num_samples", num_samples, 2),
            ("batch_size", batch_size, 1),
            ("seed", seed, 0),
        ):
            check_at_least("FIDCallback", name, value, least)
        for metric in metrics:
            check_choice("FIDCallback", "metrics", metric, METRICS)
        if "fid" not in metrics:
            raise ValueError(f"FIDCallback got metrics={list(metrics)}; 'fid' has to be among them")
        if "isc" in metrics and feature_extractor != INCEPTION:
            raise ValueError(f"FIDCallback got metrics={list(metrics)}; 'isc' needs feature_extractor={INCEPTION!r}")
        if not -math.inf < value_range[0] < value_range[1] < math.inf:
            raise ValueError(
                f"FIDCallback got value_range={value_range}; it takes the values of black and white, two finite "
                "numbers of which black is the smaller one"
            )
        if weights_path is not None and not isinstance(feature_extractor, str):
            raise ValueError("FIDCallback got weights_path and a module; weights_path is for a named extractor")
        self.every_n_steps = every_n_steps
        self.every_n_epochs = 1 if every_n_steps is None and every_n_epochs is None else every_n_epochs
        self.num_samples = num_samples
        self.real = real
        self.value_range = value_range
        self.feature_extractor = feature_extractor
        self.weights_path = weights_path
        self.metrics = tuple(metrics)
        self.batch_size = batch_size
        self.sample_method = sample_method
        self.train_mode = train_mode
        self.log_floor = log_floor
        self.seed = seed
        self.cache_dir = cache_dir
        self.best = float("inf")
        self.steps_to_best = 0
        self._evaluation: Evaluation | None = None
        self.values: dict[str, float] = {}
        self.evaluated_at = -1
        self.seconds = 0.0
        self._steps_seen = 0

    @property
    def name(self) -> str:
        """The name of the distance in the logs: ``fid``, or ``fd_`` and the extractor's name."""
        return "fid" if self.feature_extractor == INCEPTION else f"fd_{self._extractor_name}"

    @property
    def state_key(self) -> str:
        """Tells the states of several extractors in one trainer apart in a checkpoint."""
        return self._generate_state_key(name=self.name)

    def state_dict(self) -> dict[str, Any]:
        """Return the best distance and its steps; the real statistics are cached on disk instead."""
        return {"best": self.best, "steps_to_best": self.steps_to_best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the checkpoint was saved."""
        self.best = state_dict["best"]
        self.steps_to_best = state_dict["steps_to_best"]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start from zero; make the extractor before anything is trained, so that missing weights are noticed now."""
        if stage == "predict":
            return
        if is_new_fit(trainer, stage):
            self.best, self.steps_to_best = float("inf"), 0
        if stage == "fit":
            check_behind_averages(trainer, self)
        if not callable(getattr(pl_module, self.sample_method, None)):
            raise ValueError(
                f"FIDCallback got sample_method={self.sample_method!r}; {type(pl_module).__name__} has no such method, "
                "give the name of one that returns n images"
            )
        self._evaluation = all_processes().together(lambda: self._make_evaluation(trainer))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Get the statistics of the real images, from the cache or by computing them."""
        self._steps_seen = training_steps(trainer)
        self.values, self.evaluated_at, self.seconds = {}, -1, 0.0
        evaluation, fast = self._ready_evaluation, _is_fast_dev_run(trainer)
        images = all_processes().together(lambda: self._real_images(trainer))
        evaluation.prepare(images, pl_module.device, self.cache_dir, first=FAST_DEV_RUN_SAMPLES if fast else None)
        if self.log_floor:
            log_now(trainer, {f"{self.name}/floor": evaluation.floor()})
        if not fast:
            evaluation.warn_of_bias()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Evaluate if the generator steps have reached a multiple of ``every_n_steps``, or a checkpoint is due."""
        steps, before = training_steps(trainer), self._steps_seen
        self._steps_seen = steps
        # Steps are the same in all processes, and so is this decision.
        due = self.every_n_steps and steps // self.every_n_steps > before // self.every_n_steps
        if due or self._is_saved_by(trainer, "on_train_batch_end"):
            self._evaluate(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate if the epoch ends with this validation, or a checkpoint is due: checkpoint callbacks run next."""
        if not is_validation_of_fit(trainer):
            return
        due = trainer.is_last_batch and self._is_due(trainer)
        if self._in_any_process(trainer, due or self._is_saved_by(trainer, "on_validation_end")):
            with torch.inference_mode(False), torch.no_grad():  # the extractor has to survive the validation
                self._evaluate(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate after every ``every_n_epochs``-th epoch and after the last one, before checkpoint callbacks run."""
        due = self._is_due(trainer) or self._is_saved_by(trainer, "on_train_epoch_end")
        if self._in_any_process(trainer, due):
            self._evaluate(trainer, pl_module, after_epoch=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate if something else has ended the training, or weights have just been averaged."""
        if averages_at_the_end(trainer):
            self.evaluated_at = -1
        self._evaluate(trainer, pl_module, after_epoch=True)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the weights that ``Trainer.validate`` evaluates."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            pl_module.log_dict(self.measure(trainer, pl_module))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the weights that ``Trainer.test`` evaluates."""
        pl_module.log_dict(self.measure(trainer, pl_module))

    def measure(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, float]:
        """Measure the module as it is, and log nothing. All processes must call it, after :meth:`setup`.

        Args:
            trainer: the module's trainer; it has the training data if ``real`` was not given.
            pl_module: the module that generates.

        Returns:
            ``fid`` and the other metrics by name.

        Raises:
            ValueError: there are no real images, or images have another shape, type or range.
        """
        evaluation = self._ready_evaluation
        with torch.inference_mode(False), torch.no_grad():  # tensors made in inference mode could not be used later
            images = all_processes().together(lambda: self._real_images(trainer))
            evaluation.prepare(images, pl_module.device, self.cache_dir)
            evaluation.warn_of_bias()
            with self._generating(trainer, pl_module) as sample:
                self.values = evaluation.measure(pl_module, sample, pl_module.device)
        return self.values

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Free the memory."""
        self._evaluation = None

    def examples(self, trainer: Trainer, pl_module: LightningModule, n: int) -> Tensor:
        """Generate the first images that an evaluation measures, uint8 ``(n, C, H, W)``; all processes must call it.

        This does not change the training either.

        Args:
            trainer: the module's trainer.
            pl_module: the module that generates.
            n: number of images, at most ``batch_size``.
        """
        # A whole block, because in training mode every image depends on the others.
        size = min(self.batch_size, self._ready_evaluation.num_samples)
        with self._generating(trainer, pl_module) as sample, torch.no_grad():
            seed_all(self.seed, 0)
            return generated_bytes(sample(size), size, self.value_range)[:n]

    @property
    def _extractor_name(self) -> str:
        if isinstance(self.feature_extractor, str):
            return self.feature_extractor
        name = getattr(self.feature_extractor, "name", None)
        return name if isinstance(name, str) else type(self.feature_extractor).__name__.lower()

    def _is_due(self, trainer: Trainer) -> bool:
        due = self.every_n_epochs is not None and (trainer.current_epoch + 1) % self.every_n_epochs == 0
        return due or is_last_epoch(trainer)

    def _is_saved_by(self, trainer: Trainer, hook: str) -> bool:
        return saves_by(trainer, tuple(self._names.values()), hook)

    def _in_any_process(self, trainer: Trainer, due: bool) -> bool:
        # A request to stop may reach some processes before others.
        return trainer.strategy.reduce_boolean_decision(due, all=False)

    @property
    def _names(self) -> dict[str, str]:
        """The name of each metric in the logs."""
        names = {"fid": self.name, "kid": "kid" if self.name == "fid" else f"kd_{self._extractor_name}", "isc": "isc"}
        return {metric: names[metric] for metric in self.metrics}

    @property
    def _ready_evaluation(self) -> Evaluation:
        assert self._evaluation is not None, "setup has made it"
        return self._evaluation

    def _make_evaluation(self, trainer: Trainer) -> Evaluation:
        if isinstance(self.feature_extractor, str):
            with_logits = "isc" in self.metrics
            extractor: nn.Module = FidelityFeatures(self.feature_extractor, self.weights_path, with_logits)
        else:
            extractor = self.feature_extractor.requires_grad_(False).eval()
        samples = min(self.num_samples, FAST_DEV_RUN_SAMPLES) if _is_fast_dev_run(trainer) else self.num_samples
        return Evaluation(
            extractor,
            self._names,
            samples,
            self.value_range,
            self.batch_size,
            self.seed,
            lambda total, title: progress_bar(trainer, total, title, unit="image"),
        )

    def _real_images(self, trainer: Trainer) -> RealImages:
        source: Any = training_data(trainer) if self.real is None else self.real
        if source is None:
            raise ValueError("FIDCallback has no real images, as there is no training data; give a folder as `real`")
        images = RealImages(source, self.value_range, self.batch_size)
        if len(images) < 4:
            raise ValueError(f"there are {len(images)} real images; FIDCallback takes 4 or more")
        return images

    def _evaluate(self, trainer: Trainer, module: LightningModule, after_epoch: bool = False) -> None:
        steps = training_steps(trainer)
        if steps == self.evaluated_at:
            return
        started = time.monotonic()
        self.evaluated_at = steps
        with self._generating(trainer, module) as sample:
            values = self._ready_evaluation.measure(module, sample, module.device)
        if values[self.name] < self.best:
            self.best, self.steps_to_best = values[self.name], steps
        values |= {f"{self.name}/best": self.best, f"{self.name}/steps_to_best": float(self.steps_to_best)}
        self.values = values
        log_now(trainer, values, after_epoch)
        self.seconds += time.monotonic() - started

    @contextmanager
    def _generating(self, trainer: Trainer, module: LightningModule) -> Iterator[Callable[[int], Tensor]]:
        """Yield the function that generates n images, and restore everything after its use."""

        def sample(n: int) -> Tensor:
            with trainer.precision_plugin.forward_context():
                images: Tensor = getattr(module, self.sample_method)(n)
            return images

        freshen(trainer, module)
        with saved_weights(trainer, module):
            freshen(trainer, module)  # an average gets statistics of its own if there is a callback that takes them
            with untouched(module, module.device):
                if not self.train_mode:
                    module.eval()
                all_processes().copy_buffers(module)
                yield sample


def _is_fast_dev_run(trainer: Trainer) -> bool:
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]
