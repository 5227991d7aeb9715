"""What is kept of the real images: sums over their features, in memory and on disk."""

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mn_lightning.fid.feature_sums import FeatureSums
from mn_lightning.utils.files import replacing

_FORMAT = "mn_lightning real statistics 1"


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
    """Return a text that changes with the data, the extractor's structure, its weights, and the settings.

    Args:
        digest: of the images' content, int64.
        extractor: hashed as its ``repr`` and its state dict.
        **settings: values with a stable ``repr``.
    """
    key = hashlib.blake2b(repr((_FORMAT, digest.tolist(), repr(extractor), sorted(settings.items()))).encode())
    for name, value in extractor.state_dict().items():
        if isinstance(value, Tensor):
            key.update(name.encode())
            _update(key, value)
    return key.hexdigest()[:40]


class StatisticsCache:
    """The file of the statistics of one data set in one extractor's features.

    Args:
        folder: where it is; None stands for a folder beside torch hub's weights, which follows ``TORCH_HOME`` and
            ``XDG_CACHE_HOME``.
        name: for people who look into the folder.
        key: of :func:`cache_key`.
    """

    def __init__(self, folder: str | None, name: str, key: str) -> None:
        root = Path(torch.hub.get_dir()) / "mn_lightning" if folder is None else Path(folder).expanduser()
        self.path = root / f"{name}-{key}.pt"
        self.key = key

    def save(self, statistics: RealStatistics) -> None:
        """Write the file in one step, so that no other run reads half of it; only warn where that is impossible."""
        tensors = {**vars(statistics.sums), "floor": statistics.floor, "kept": statistics.kept}
        content = {"format": _FORMAT, "key": self.key, "digest": _digest(tensors), "tensors": tensors}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.path) as partial:
                torch.save(content, partial)
        except (OSError, RuntimeError) as error:
            _warn(f"cannot keep the real statistics ({error}); give a cache_dir that can be written to")

    def load(self) -> RealStatistics | None:
        """Read the file; return None if there is none and, with a warning, if it is damaged or of something else."""
        if not self.path.is_file():
            return None
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
            tensors = content["tensors"]
            saved = content["format"], content["key"], content["digest"]
            if saved == (_FORMAT, self.key, _digest(tensors)):
                sums = FeatureSums(*(tensors[name] for name in ("total", "outer", "count")))
                return RealStatistics(sums, tensors["floor"], tensors["kept"])
            reason = "not what was saved"
        except Exception as error:  # torch.load and a foreign content can fail in any way
            reason = type(error).__name__
        _warn(f"{self.path} is damaged or foreign ({reason}); the real statistics are computed again")
        return None


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=3)


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.blake2b()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        _update(digest, tensors[name])
    return digest.hexdigest()


def _update(digest: "hashlib.blake2b", tensor: Tensor) -> None:
    # As bytes: NumPy has no bfloat16, and a 0-d tensor no view of another width.
    digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
