"""The history of a layer's training, which is kept in checkpoints for pictures."""

from typing import Any, NamedTuple

import torch

from mn_lightning.kernels.types import Mixture

MAX_SNAPSHOTS = 20
"""Number of mixtures to keep: enough to have one within 5% of the training's length from each of its fifths."""

MAX_CHANNELS = 64
"""Number of channels to keep of each mixture: a picture has room for a few."""


class Snapshot(NamedTuple):
    """A layer's mixture in the chosen channels, after an epoch.

    Attributes:
        epoch: number of epochs trained, from 1.
        step: number of optimizer steps trained.
        mixture: weights ``(K,)`` or ``(K, c)``, means and variances ``(K, c)``.
    """

    epoch: int
    step: int
    mixture: Mixture


class History:
    """A layer's numbers after each epoch, and its mixtures at a few moments spread evenly over the training.

    The length of the training is not known in advance. So every mixture is kept at first. When there are more than 20,
    only those of every second epoch are kept, later those of every fifth, tenth, twentieth and so on.

    Attributes:
        steps: optimizer steps at which the numbers were taken.
        values: for each name, as many numbers as ``steps``.
        channels: the channels of the kept mixtures: at most 64, evenly spread over all.
        snapshots: the kept mixtures.

    Examples:
        >>> history = History()
        >>> mixture = Mixture(torch.ones(1), torch.zeros(1, 8), torch.ones(1, 8))
        >>> for epoch in range(1, 41):
        ...     history.record(epoch, 100 * epoch, {"components": 1.0}, mixture)
        >>> len(history.steps), [snapshot.epoch for snapshot in history.snapshots[:4]]
        (40, [2, 4, 6, 8])
    """

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.values: dict[str, list[float]] = {}
        self.channels: list[int] = []
        self.snapshots: list[Snapshot] = []
        self._stride = 1

    def record(self, epoch: int, step: int, values: dict[str, float], mixture: Mixture | None) -> None:
        """Add the numbers and the mixture after ``epoch`` epochs, counted from 1.

        Args:
            epoch: number of epochs trained.
            step: number of optimizer steps trained.
            values: the numbers by name; a name that was not there before gets NaN for the earlier epochs.
            mixture: of all channels; None for a layer without a mixture.
        """
        for name in (*self.values, *values):
            past = self.values.setdefault(name, [float("nan")] * len(self.steps))
            if len(past) == len(self.steps):
                past.append(values.get(name, float("nan")))
        self.steps.append(step)
        if mixture is not None and epoch % self._stride == 0:
            self.channels = self.channels or spread_evenly(mixture.means.shape[1], MAX_CHANNELS)
            self.snapshots.append(Snapshot(epoch, step, _of_channels(mixture, self.channels)))
        while len(self.snapshots) > MAX_SNAPSHOTS:
            self._stride = _next_stride(self._stride)
            self.snapshots = [snapshot for snapshot in self.snapshots if snapshot.epoch % self._stride == 0]

    def state_dict(self) -> dict[str, Any]:
        """Everything, as plain values and tensors that ``torch.load(weights_only=True)`` reads."""
        mixtures = [snapshot.mixture for snapshot in self.snapshots]
        return {
            "steps": torch.tensor(self.steps),
            "names": list(self.values),
            "values": torch.tensor(list(self.values.values()), dtype=torch.float32),
            "channels": torch.tensor(self.channels, dtype=torch.long),
            "stride": self._stride,
            "kept": [(snapshot.epoch, snapshot.step) for snapshot in self.snapshots],
            # Few large tensors, because each tensor adds some hundred bytes to a file.
            "mixtures": [torch.stack(parts) for parts in zip(*mixtures, strict=True)],
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> "History":
        """Restore a history from its :meth:`state_dict`."""
        history = cls()
        history.steps = state["steps"].tolist()
        history.values = dict(zip(state["names"], state["values"].tolist(), strict=True))
        history.channels = state["channels"].tolist()
        mixtures = zip(*state["mixtures"], strict=True)
        history.snapshots = [
            Snapshot(epoch, step, Mixture(*parts)) for (epoch, step), parts in zip(state["kept"], mixtures, strict=True)
        ]
        history._stride = state["stride"]
        return history


def spread_evenly(total: int, most: int) -> list[int]:
    """Return up to ``most`` of the indices 0..total - 1, evenly spaced, the first and the last among them.

    Examples:
        >>> spread_evenly(101, 5)
        [0, 25, 50, 75, 100]
    """
    if total <= most:
        return list(range(total))
    return [round(i * (total - 1) / max(1, most - 1)) for i in range(most)]


def _next_stride(stride: int) -> int:
    """Continue 1, 2, 5, 10, 20, 50: the fifths of a training with a round number of epochs are then kept."""
    first_digit = int(str(stride)[0])
    return {1: 2 * stride, 2: stride * 5 // 2, 5: 2 * stride}[first_digit]


def _of_channels(mixture: Mixture, channels: list[int]) -> Mixture:
    # Copies, because the layer's buffers will change; not views, because a view is saved with its whole base.
    return Mixture(*(t[:, channels].cpu() if t.dim() == 2 else t.detach().cpu().clone() for t in mixture))
