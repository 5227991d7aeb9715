"""Statistics of the real images: sums over their features, in memory and on disk."""

import glob
import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mn_lightning.fid.feature_sums import FeatureSums
from mn_lightning.fid.images import PIPELINE
from mn_lightning.utils.files import replacing

_FORMAT = "mn_lightning real statistics 2"
_WITHOUT_FINGERPRINT = "mn_lightning real statistics 1"
_TOLERANCE = 1e-3
"""Largest relative difference of fingerprints between devices and precisions of matrix products."""


@dataclass(frozen=True)
class RealStatistics:
    """Statistics of the features ``(N, D)`` of the real images.

    Attributes:
        sums: over all N images.
        floor: Fréchet distance between two random halves of the images, float64 ``()``.
        kept: float32 ``(M, D)``, features of evenly spaced images for metrics that need more than sums; M may be 0.
    """

    sums: FeatureSums
    floor: Tensor
    kept: Tensor


def cache_key(digest: Tensor, extractor: nn.Module, **settings: Any) -> str:
    """Return a text that changes with the data, the extractor's structure and weights, and the settings.

    An extractor can change without changing this key, because its code and plain attributes are not hashed. The
    fingerprint in :class:`StatisticsCache` covers that.

    Args:
        digest: of the images' content, int64.
        extractor: hashed as its ``repr`` and its state dict.
        **settings: other values, with a stable ``repr``.
    """
    text = repr((_WITHOUT_FINGERPRINT, digest.tolist(), repr(extractor), sorted(settings.items())))
    key = hashlib.blake2b(text.encode())
    for name, value in extractor.state_dict().items():
        if isinstance(value, Tensor):
            key.update(name.encode())
            _update(key, value)
    return key.hexdigest()[:40]


class StatisticsCache:
    """The files of the statistics of one data set in the features of one extractor.

    A file is found by its key, and used if its fingerprint agrees, because extractors with the same structure and
    weights can still compute different things.

    Args:
        folder: the cache's folder; None stands for one beside torch hub's weights, which follows ``TORCH_HOME`` and
            ``XDG_CACHE_HOME``.
        name: part of the file's name, for people who look into the folder.
        key: from :func:`cache_key`.
        fingerprint: ``(N, D)``, features of fixed images.
        accepts_old: whether to use a file of version 0.1, which has no fingerprint.
    """

    def __init__(
        self,
        folder: str | None,
        name: str,
        key: str,
        fingerprint: Tensor,
        accepts_old: Callable[[RealStatistics], bool] = lambda statistics: False,
    ) -> None:
        root = Path(torch.hub.get_dir()) / "mn_lightning" if folder is None else Path(folder).expanduser()
        self.path = root / f"{name}-{key}-{_digest({'fingerprint': fingerprint})[:8]}.pt"
        self.key = key
        self.fingerprint = fingerprint
        self.accepts_old = accepts_old
        self._pattern = f"{glob.escape(f'{name}-{key}')}*.pt"

    def save(self, statistics: RealStatistics) -> None:
        """Write the file in one step, so that no other run reads half of it; only warn if it cannot be written."""
        tensors = {**vars(statistics.sums), "floor": statistics.floor, "kept": statistics.kept}
        tensors["fingerprint"] = self.fingerprint
        content = {
            "format": _FORMAT,
            "pipeline": PIPELINE,
            "key": self.key,
            "digest": _digest(tensors),
            "tensors": tensors,
        }
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.path) as partial:
                torch.save(content, partial)
        except (OSError, RuntimeError) as error:
            _warn(f"cannot keep the real statistics ({error}); give a cache_dir that can be written to")

    def load(self) -> RealStatistics | None:
        """Return the statistics from a file with this key and fingerprint; None if there is none.

        A damaged file, or one with other content, is ignored with a warning.
        """
        for path in sorted(self.path.parent.glob(self._pattern)):
            try:
                content = torch.load(path, map_location="cpu", weights_only=True)
                tensors = content["tensors"]
                if (content["key"], content["digest"]) != (self.key, _digest(tensors)):
                    raise ValueError("not what was saved")
                sums = FeatureSums(*(tensors[name] for name in ("total", "outer", "count")))
                statistics = RealStatistics(sums, tensors["floor"], tensors["kept"])
                old = content["format"] == _WITHOUT_FINGERPRINT
                agrees = not old and self._agrees(content)
            except Exception as error:  # torch.load can fail in any way with foreign content
                reason = str(error) if isinstance(error, ValueError) else type(error).__name__
                _warn(f"{path} is damaged or foreign ({reason}); the real statistics are computed again")
                continue
            if agrees or (old and self.accepts_old(statistics)):
                return statistics
        return None

    def _agrees(self, content: dict[str, Any]) -> bool:
        if (content["format"], content["pipeline"]) != (_FORMAT, PIPELINE):
            return False
        return are_features_of_one_extractor(content["tensors"]["fingerprint"], self.fingerprint)


def are_features_of_one_extractor(one: Tensor, other: Tensor) -> bool:
    """Whether features ``(N, D)`` of the same images differ at most by rounding errors."""
    if one.shape != other.shape:
        return False
    return bool((one - other).abs().max() <= _TOLERANCE * one.abs().max())


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=3)


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.blake2b()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        _update(digest, tensors[name])
    return digest.hexdigest()


def _update(digest: "hashlib.blake2b", tensor: Tensor) -> None:
    # As bytes, because NumPy has no bfloat16, and 0-d tensors have no views of another width.
    digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
