"""A fit that is killed again and again, and goes on from its last checkpoint.

The moments are random numbers of Python calls since the start of an epoch, of a refit, of an evaluation of FID, or of
saving a checkpoint, and so the same on any machine, however busy.
"""

import json
import os
import random
import signal
import sys
import traceback
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from pathlib import Path
from statistics import median
from typing import Any

import torch
from helpers.tiny import classifier, digits, mixture_callbacks, trainer, weights_of
from helpers.tiny_generator import fid, loader
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop

from mn_lightning import MixtureNorm
from mn_lightning.callbacks import FIDCallback
from mn_lightning.models import ImageClassifier

EPOCHS = 6
PHASES: dict[str, tuple[type, str]] = {
    "epoch": (_TrainingEpochLoop, "run"),
    "refit": (MixtureNorm, "refit"),
    "fid": (FIDCallback, "on_train_epoch_end"),
    "save": (Trainer, "save_checkpoint"),
}
Watch = Callable[[str], AbstractContextManager[None]]


class Painter(ImageClassifier):
    """A classifier whose logits are taken for images."""

    def sample(self, n: int) -> torch.Tensor:
        return self.network(torch.randn(n, 1, 8, 8)).tanh().repeat(1, 7)[:, :64].view(n, 1, 8, 8)


class Saver(ModelCheckpoint):
    """Saves after each step but the last of an epoch.

    Lightning 2.6 loses count in the epoch after such a checkpoint is resumed from: interrupted again in that epoch, the
    fit would start the epoch anew.
    """

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if not trainer.is_last_batch:
            super().on_train_batch_end(trainer, *args)


class Start(Callback):
    """Notes the step that the training starts at."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        (self.folder / "start").write_text(str(trainer.global_step))


def fit(folder: Path) -> None:
    """Train, with a refit and a checkpoint after each step, and FID after each epoch."""
    model = Painter(classifier().network)
    callbacks = mixture_callbacks(refit_iters=10)
    saver = Saver(folder, "{step}", save_last=True, save_top_k=1, every_n_train_steps=1)
    callbacks += [fid(folder.parent, num_samples=32, real=loader()), Start(folder), saver]
    run = trainer(folder, callbacks, max_epochs=EPOCHS, enable_checkpointing=True)
    run.fit(model, digits(), ckpt_path="last")
    torch.save(weights_of(model), folder / "weights.pt")


def watched(watch: Watch) -> None:
    """Have ``watch`` around each occurrence of each phase."""
    for phase, (owner, name) in PHASES.items():
        setattr(owner, name, within(watch, phase, getattr(owner, name)))


def within(watch: Watch, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with watch(phase):
            return function(*args, **kwargs)

    return wrapper


def count_calls(folder: Path) -> None:
    """Train without interruption; save how many calls each phase takes."""
    calls, lengths = 0, defaultdict(list)

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    @contextmanager
    def watch(phase: str) -> Any:
        before = calls
        yield
        lengths[phase].append(calls - before)

    watched(watch)
    sys.setprofile(count)
    fit(folder)
    sys.setprofile(None)
    (folder / "calls.json").write_text(json.dumps({phase: int(median(found)) for phase, found in lengths.items()}))


def fit_until(folder: Path, phase: str, occurrence: int, calls: int) -> None:
    """Train until this many calls into an occurrence of ``phase``, or until its end if it is shorter."""
    left, seen = calls, 0

    def count(*_: Any) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    @contextmanager
    def watch(entered: str) -> Any:
        nonlocal seen
        if entered != phase:
            yield
            return
        if seen == occurrence:
            sys.setprofile(count)
        yield
        if seen == occurrence:
            os.kill(os.getpid(), signal.SIGKILL)
        seen += 1

    watched(watch)
    fit(folder)


def in_a_process(function: Callable[..., None], *args: Any) -> int:
    """A copy of this process, which has imported everything; returns the signal that ended it."""
    child = os.fork()
    if child == 0:
        try:
            function(*args)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "see above"
    return os.WTERMSIG(status)


def main(folder: Path, kills: int) -> list[dict[str, Any]]:
    run, whole = folder / "run", folder / "whole"
    for name in (run, whole):
        name.mkdir()
    in_a_process(count_calls, whole)
    lengths = json.loads((whole / "calls.json").read_text())
    chance = random.Random(0)
    found = []
    for kill in range(kills):
        phase = list(PHASES)[kill % len(PHASES)]
        occurrence = chance.randrange(3) if phase in ("refit", "save") else 0
        moment = phase, occurrence, 1 + chance.randrange(lengths[phase])
        ended_by = in_a_process(fit_until, run, *moment)
        steps = {path.name: torch.load(path, weights_only=True)["global_step"] for path in run.glob("*.ckpt")}
        start = int((run / "start").read_text())
        found.append({"moment": moment, "ended by": ended_by, "start": start, "saved": steps.get("last.ckpt", 0)})
        print(found[-1], steps, flush=True)
    in_a_process(fit, run)
    return found


def run(folder: Path, kills: int) -> None:
    """Write what :func:`main` finds into ``folder``."""
    (folder / "kills.json").write_text(json.dumps(main(folder, kills)))
