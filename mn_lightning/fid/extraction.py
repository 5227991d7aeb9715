"""Extract features from images: each process extracts its share, and all have the sums."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mn_lightning.fid.feature_sums import FeatureSums
from mn_lightning.fid.images import RealImages, ValueRange, generated_bytes
from mn_lightning.fid.real_statistics import RealStatistics
from mn_lightning.utils.checks import describe
from mn_lightning.utils.distributed import Processes
from mn_lightning.utils.restore import buffers_untouched, seed_all

Progress = Callable[[int], object]
"""Called with the number of images that have been extracted since the last call."""


@dataclass
class Generated:
    """The results for all generated images.

    Attributes:
        sums: sums over their features.
        features: ``(N, D)``; N is 0 if they are not kept.
        logits: ``(N, classes)``; N is 0 if the extractor has none.
    """

    sums: FeatureSums
    features: Tensor
    logits: Tensor


@dataclass
class Extraction:
    """Extracts features in all processes together.

    Attributes:
        extractor: maps uint8 images ``(N, C, H, W)`` to features ``(N, D)``, or to a tuple of features and logits.
        device: the extractor's device.
        processes: the processes that share the work.
        batch_size: images at a time.
        seed: of the generated images, and of random numbers that the real data set draws.
        keep_features: whether to keep features in addition to the sums.
    """

    extractor: nn.Module
    device: torch.device
    processes: Processes
    batch_size: int
    seed: int
    keep_features: bool

    def real(self, images: RealImages, total: int, kept: int, progress: Progress) -> RealStatistics | None:
        """Extract the first ``total`` real images, and keep the features of ``kept`` of them.

        Returns:
            The statistics, on the CPU, in process 0; None in the others.
        """
        share = self.processes.share(total)
        # The halves are random, because data sets are often sorted by class.
        in_first_half = torch.from_numpy(np.random.default_rng(0).permutation(total) < total // 2)
        keep = torch.zeros(total, dtype=torch.bool)
        keep[[index * total // kept for index in range(kept)]] = True  # to be compared with later ones

        def extract() -> tuple[FeatureSums, FeatureSums, Tensor]:
            # Every process reads an image, so that a process without a share knows the number of features too.
            seed_all(self.seed, 0)
            probe, _ = self._features(next(images.batches([0])))
            first, second = (FeatureSums.empty(probe.shape[1], self.device) for _ in range(2))
            chosen = [probe[:0]]
            seed_all(self.seed, 0)
            position = share.start
            for batch in images.batches(share) if share else ():
                features, _ = self._features(batch)
                here = slice(position, position + len(batch))
                position = here.stop
                first.update(features[in_first_half[here]])
                second.update(features[~in_first_half[here]])
                chosen.append(features[keep[here]])
                progress(len(batch))
            return first, second, torch.cat(chosen)

        first, second, chosen = self.processes.together(extract)
        first, second = self._of_all(first), self._of_all(second)
        chosen = self.processes.concatenate(chosen) if kept else chosen

        def join() -> RealStatistics | None:
            if self.processes.rank > 0:
                return None
            return RealStatistics((first + second).to("cpu"), first.distance(second).cpu(), chosen.cpu())

        return self.processes.together(join)

    def at(self, images: RealImages, indices: list[int]) -> Tensor:
        """Return the features ``(N, D)`` of the N real images at ``indices``, in this process only."""
        seed_all(self.seed, 0)
        return torch.cat([self._features(batch)[0].cpu() for batch in images.batches(indices)])

    @torch.no_grad()
    def fingerprint(self, shape: tuple[int, int, int]) -> Tensor:
        """Return the features ``(4, D)`` of four fixed noise images, which show what the extractor computes.

        Args:
            shape: ``(C, H, W)`` of the images.
        """
        noise = np.random.default_rng(0).integers(0, 256, (4, *shape), dtype=np.uint8)
        seed_all(self.seed, 0)
        features, _ = self._features(torch.from_numpy(noise))
        return features.cpu()

    def generated(
        self,
        module: nn.Module,
        sample: Callable[[int], Any],
        total: int,
        value_range: ValueRange,
        progress: Progress,
    ) -> Generated:
        """Generate and extract exactly ``total`` images, the same ones in any number of processes.

        The images are made in blocks of ``batch_size``. Block i depends only on the seed, on i and on the weights: the
        random states are seeded before it, and buffers, which layers in training mode change, are restored after it.

        Args:
            module: the model, in the mode in which it will generate.
            sample: returns n images ``(n, C, H, W)``.
            total: number of images, over all processes together.
            value_range: values of black and white in floating-point images.
            progress: called after each block with its number of images.

        Raises:
            ValueError: if ``sample`` returns anything else, or the extractor does not return features.
        """
        blocks = -(-total // self.batch_size)
        share = self.processes.share(blocks)
        training = any(child.training for child in module.modules())
        # A process without blocks generates one too, to know the number of features. In training mode, layers may
        # communicate with other processes (SyncBatchNorm), so all processes generate equally often.
        turns = self.processes.longest_share(blocks) if training else max(len(share), 1)

        def generate(block: int) -> tuple[Tensor, Tensor]:
            """Return features and logits."""
            size = min(self.batch_size, total - block * self.batch_size)
            seed_all(self.seed, block)
            with torch.no_grad(), buffers_untouched(module) if training else nullcontext():
                images = sample(size)
            features, logits = self._features(generated_bytes(images, size, value_range))
            if images.is_floating_point() and not images.isfinite().all():
                features = torch.full_like(features, torch.nan)  # bytes cannot hold these values
            return features, features[:0] if logits is None else logits

        def extract() -> Generated:
            kept: list[tuple[Tensor, Tensor]] = []
            for turn in range(turns):
                features, logits = generate(min(share.start + turn, blocks - 1))
                if turn == 0:
                    sums = FeatureSums.empty(features.shape[1], features.device)
                    kept.append((features[:0], logits[:0]))
                if turn < len(share):
                    sums.update(features)
                    kept.append((features if self.keep_features else features[:0], logits))
                    progress(len(features))
            return Generated(sums, *(torch.cat(parts) for parts in zip(*kept, strict=True)))

        mine = self.processes.together(extract)
        return Generated(
            self._of_all(mine.sums),
            self.processes.concatenate(mine.features),
            self.processes.concatenate(mine.logits),
        )

    @torch.no_grad()
    def _features(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        output = self.extractor(images.to(self.device))
        features, *rest = output if isinstance(output, tuple) else (output,)
        if not isinstance(features, Tensor) or features.dim() != 2 or len(features) != len(images):
            raise ValueError(
                f"{type(self.extractor).__name__} gave {describe(features)} for {len(images)} images; FIDCallback "
                "takes a feature extractor that maps uint8 (N, C, H, W) to (N, D)"
            )
        return features.float(), rest[0] if rest else None

    def _of_all(self, sums: FeatureSums) -> FeatureSums:
        """Add the sums of all processes."""
        total, outer = self.processes.sum(sums.total, sums.outer)
        (count,) = self.processes.sum(sums.count)  # sent separately, because a message has one dtype
        return FeatureSums(total, outer, count)
