"""Measure how far a model's images are from the real ones: from two sets of images to the numbers to log."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mn_lightning.fid.extraction import Extraction, Generated, Progress
from mn_lightning.fid.extractors import FidelityFeatures
from mn_lightning.fid.feature_sums import inception_score, kernel_distance
from mn_lightning.fid.images import RealImages, ValueRange, content_digest
from mn_lightning.fid.real_statistics import RealStatistics, StatisticsCache, are_features_of_one_extractor, cache_key
from mn_lightning.utils.distributed import all_processes
from mn_lightning.utils.restore import rng_untouched, seed_all

METRICS = ("fid", "kid", "isc")
"""Fréchet distance, kernel distance, Inception score."""

ProgressBar = Callable[[int, str], AbstractContextManager[Progress]]
"""Called with a number of images and a title; gives, in a context, the function that reports progress."""


@dataclass
class Evaluation:
    """Measures generated images against real ones.

    Under torch.distributed all processes share the work, and each process has to call every method. The extractor is on
    the model's device only while it is needed there.

    Attributes:
        extractor: maps uint8 images ``(N, C, H, W)`` to features ``(N, D)``, or to a tuple of features and logits.
        names: names of the values in the logs, by metric: ``"fid"`` and, if wanted, ``"kid"`` and ``"isc"``.
        num_samples: images to generate, over all processes together.
        value_range: values of black and white in generated floating-point images.
        batch_size: images generated and extracted at a time.
        seed: of the generated images, and of the subsets for KID and Inception score.
        progress_bar: shows the progress.
        real: statistics of the real images, in process 0, after :meth:`prepare`.
    """

    extractor: nn.Module
    names: Mapping[str, str]
    num_samples: int
    value_range: ValueRange
    batch_size: int
    seed: int
    progress_bar: ProgressBar
    real: RealStatistics | None = field(default=None, init=False)
    _channels: int = field(default=0, init=False)

    def prepare(
        self, images: RealImages, device: torch.device, cache_dir: str | None, first: int | None = None
    ) -> None:
        """Get the statistics of the real images, from the cache or by computing them.

        Args:
            images: the real images.
            device: the device to extract on; random states of its type are restored.
            cache_dir: folder of the cache, as in :class:`~mn_lightning.fid.real_statistics.StatisticsCache`.
            first: take only this many of the first images, and do not use the cache.
        """
        with rng_untouched(device), self._extraction(device) as extraction:
            self.real = self._statistics(extraction, images, cache_dir, first)
            self._channels, _, _ = extraction.processes.together(images.shape)

    def measure(self, module: nn.Module, sample: Callable[[int], Any], device: torch.device) -> dict[str, float]:
        """Generate images and return their distances from the real ones, the same values in all processes.

        Args:
            module: the model, in the mode in which it will generate.
            sample: returns n images ``(n, C, H, W)``.
            device: the device to extract on.

        Raises:
            ValueError: where :meth:`~mn_lightning.fid.extraction.Extraction.generated` raises it.
        """
        processes = all_processes()
        total, title = self.num_samples, self.names["fid"]
        with self._extraction(device) as extraction, self.progress_bar(total // processes.size, title) as progress:
            generated = extraction.generated(module, self._checked(sample), total, self.value_range, progress)
        return processes.on_rank_zero(lambda: self._compute(generated))

    def floor(self) -> float:
        """Return the distance between two random halves of the real images."""
        return all_processes().on_rank_zero(lambda: float(self._real_statistics.floor))

    def warn_of_bias(self) -> None:
        """Warn if there are so few images that the distance is too large."""
        if all_processes().rank > 0:
            return
        real, features = int(self._real_statistics.sums.count), len(self._real_statistics.sums.total)
        if min(self.num_samples, real) <= features:
            warnings.warn(
                f"{self.names['fid']} of {self.num_samples} generated and {real} real images in {features} features is "
                "biased upwards, because their covariances do not have full rank; take more images than features, or "
                "compare values of equal numbers only",
                stacklevel=2,
            )

    def _checked(self, sample: Callable[[int], Any]) -> Callable[[int], Any]:
        """Make ``sample`` refuse images with other channels than the real ones; gray and RGB can be compared."""

        def sample_and_check(n: int) -> Any:
            images = sample(n)
            channels = images.shape[1] if isinstance(images, Tensor) and images.dim() == 4 else self._channels
            if channels != self._channels and {channels, self._channels} != {1, 3}:
                raise ValueError(
                    f"the model gave images with {channels} channels, the real images have {self._channels}; give "
                    "real images like those that the model makes as `real`"
                )
            return images

        return sample_and_check

    @property
    def _real_statistics(self) -> RealStatistics:
        assert self.real is not None, "process 0 has them since prepare()"
        return self.real

    @contextmanager
    def _extraction(self, device: torch.device) -> Iterator[Extraction]:
        """Yield an extraction on ``device``. Elsewhere, the extractor takes no memory there (torchmetrics #1959)."""
        try:
            extractor = self.extractor.to(device).eval()
            keep = "kid" in self.names
            yield Extraction(extractor, device, all_processes(), self.batch_size, self.seed, keep_features=keep)
        finally:
            self.extractor.to("cpu")

    def _statistics(
        self, extraction: Extraction, images: RealImages, cache_dir: str | None, first: int | None
    ) -> RealStatistics | None:
        processes = extraction.processes
        total = len(images) if first is None else min(first, len(images))
        kept = min(total, self.num_samples) if "kid" in self.names else 0

        def compute() -> RealStatistics | None:
            with self.progress_bar(len(processes.share(total)), "real images") as progress:
                return extraction.real(images, total, kept, progress)

        if first is not None:
            return compute()
        seed_all(self.seed, 0)
        share = processes.share(total)
        digest = processes.together(lambda: content_digest(images.batches(share) if share else (), share))
        (digest,) = processes.sum(digest.to(extraction.device))
        fingerprint = processes.together(lambda: extraction.fingerprint(images.shape()))
        cache = StatisticsCache(
            cache_dir,
            self.names["fid"],
            cache_key(digest, self.extractor, kept=kept),
            fingerprint,
            lambda statistics: self._is_ours(extraction, images, statistics),
        )
        # Only process 0 looks, and tells the others, because each may see other files.
        statistics = processes.together(lambda: cache.load() if processes.rank == 0 else None)
        if not processes.on_rank_zero(lambda: statistics is not None):
            statistics = compute()
            if statistics is not None:
                cache.save(statistics)
        return statistics

    def _is_ours(self, extraction: Extraction, images: RealImages, statistics: RealStatistics) -> bool:
        """Whether structure and weights are enough to identify the extractor, as far as can be known."""
        if isinstance(self.extractor, FidelityFeatures) and self.extractor.is_torch_fidelitys:
            return True
        kept = statistics.kept
        indices = [index * len(images) // len(kept) for index in range(min(4, len(kept)))]
        return bool(indices) and are_features_of_one_extractor(kept[: len(indices)], extraction.at(images, indices))

    def _compute(self, generated: Generated) -> dict[str, float]:
        """Return the values by name; called in process 0 only."""
        real, sums = self._real_statistics, generated.sums
        values = {self.names["fid"]: float(real.sums.to(sums.total.device).distance(sums))}
        if "kid" in self.names:
            name = self.names["kid"]
            seed_all(self.seed, 0)
            kept = real.kept.to(generated.features.device)
            values[name], values[f"{name}/std"] = kernel_distance(kept, generated.features)
        if "isc" in self.names:
            name = self.names["isc"]
            seed_all(self.seed, 0)
            values[name], values[f"{name}/std"] = inception_score(generated.logits)
        return values
