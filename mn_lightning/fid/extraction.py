"""From images to features, each rank its share."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mn_lightning.fid.feature_sums import FAKE_STATES, REAL_STATES, FeatureSums
from mn_lightning.fid.images import RealImages, ValueRange, to_bytes
from mn_lightning.fid.ranks import Ranks
from mn_lightning.fid.real_statistics import RealStatistics
from mn_lightning.utils.restore import buffers_untouched, seed_all

Progress = Callable[[int], object]
"""Called with the number of images that have been extracted since the last call."""


@dataclass
class Generated:
    """What is known of all generated images.

    Attributes:
        sums: in torchmetrics' places for generated images.
        features: ``(N, D)``; N is 0 if they are not kept.
        logits: ``(N, classes)``; N is 0 if the extractor gives none.
    """

    sums: FeatureSums
    features: Tensor
    logits: Tensor


@dataclass
class Extraction:
    """Extracts features on all ranks together.

    Attributes:
        extractor: maps uint8 images ``(N, C, H, W)`` to features ``(N, D)``, or a tuple of features and logits.
        device: where the extractor is.
        ranks: among which the work is shared.
        batch_size: images at a time.
        seed: of the generated images, and of what the real data set draws.
        keep_features: whether to keep features beside the sums.
    """

    extractor: nn.Module
    device: torch.device
    ranks: Ranks
    batch_size: int
    seed: int
    keep_features: bool

    def real(self, images: RealImages, total: int, kept: int, progress: Progress) -> RealStatistics | None:
        """Extract the first ``total`` real images, and keep the features of ``kept`` of them.

        Returns:
            The statistics on rank zero, None elsewhere.
        """
        share = self.ranks.share(total)
        # Sorted data sets are common: the halves are random. They take torchmetrics' two places until they are joined.
        first_half = torch.from_numpy(np.random.default_rng(0).permutation(total) < total // 2)
        keep = torch.zeros(total, dtype=torch.bool)
        keep[[index * total // kept for index in range(kept)]] = True

        def extract() -> tuple[FeatureSums, Tensor]:
            # Every rank reads an image, so that one without a share knows the number of features too.
            seed_all(self.seed, 0)
            probe, _ = self._features(next(images.batches([0])))
            sums, chosen = FeatureSums.like(probe), [probe[:0]]
            seed_all(self.seed, 0)
            position = share.start
            for batch in images.batches(share) if share else ():
                features, _ = self._features(batch)
                here = slice(position, position + len(batch))
                position = here.stop
                sums.update(features[first_half[here]], real=True)
                sums.update(features[~first_half[here]], real=False)
                chosen.append(features[keep[here]])
                progress(len(batch))
            return sums, torch.cat(chosen)

        sums, chosen = self.ranks.together(extract)
        self._add_up(sums, (*REAL_STATES, *FAKE_STATES))
        chosen = self.ranks.concatenate(chosen) if kept else chosen

        def join() -> RealStatistics | None:
            if self.ranks.rank > 0:
                return None
            both = zip(REAL_STATES, FAKE_STATES, strict=True)
            total, outer, count = ((getattr(sums, one) + getattr(sums, other)).cpu() for one, other in both)
            return RealStatistics(total, outer, count, floor=sums.compute().cpu(), kept=chosen.cpu())

        return self.ranks.together(join)

    def generated(
        self,
        module: nn.Module,
        sample: Callable[[int], Any],
        total: int,
        value_range: ValueRange,
        progress: Progress,
    ) -> Generated:
        """Generate and extract exactly ``total`` images, the same ones on any number of ranks.

        Block i of ``batch_size`` images is a function of the seed, i and the weights: it is generated after seeding,
        and, as layers in training mode change, from the buffers that ``module`` has now.

        Args:
            module: the model, in the mode in which it shall generate.
            sample: returns n images ``(n, C, H, W)``.
            total: how many, over all ranks.
            value_range: values of black and white in images of floating point.
            progress: is told of each block.

        Raises:
            ValueError: if ``sample`` gives anything else, or the extractor no features.
        """
        blocks = -(-total // self.batch_size)
        share = self.ranks.share(blocks)
        training = any(child.training for child in module.modules())
        # A rank without images generates one block too, to know the number of features. In training mode, layers may
        # talk to the other ranks (SyncBatchNorm): all generate equally often.
        turns = self.ranks.longest_share(blocks) if training else max(len(share), 1)

        def generate(block: int) -> tuple[Tensor, Tensor]:
            """Return features and logits."""
            size = min(self.batch_size, total - block * self.batch_size)
            seed_all(self.seed, block)
            with torch.no_grad(), buffers_untouched(module) if training else nullcontext():
                images = _checked(sample(size), size)
            features, logits = self._features(to_bytes(images, value_range))
            if images.is_floating_point() and not images.isfinite().all():
                features = torch.full_like(features, torch.nan)  # bytes cannot say so
            return features, features[:0] if logits is None else logits

        def extract() -> Generated:
            kept: list[tuple[Tensor, Tensor]] = []
            for turn in range(turns):
                features, logits = generate(min(share.start + turn, blocks - 1))
                if turn == 0:
                    sums = FeatureSums.like(features)
                    kept.append((features[:0], logits[:0]))
                if turn < len(share):
                    sums.update(features, real=False)
                    kept.append((features if self.keep_features else features[:0], logits))
                    progress(len(features))
            return Generated(sums, *(torch.cat(parts) for parts in zip(*kept, strict=True)))

        result = self.ranks.together(extract)
        self._add_up(result.sums, FAKE_STATES)
        return Generated(result.sums, self.ranks.concatenate(result.features), self.ranks.concatenate(result.logits))

    @torch.no_grad()
    def _features(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        output = self.extractor(images.to(self.device))
        features, *rest = output if isinstance(output, tuple) else (output,)
        if not isinstance(features, Tensor) or features.dim() != 2 or len(features) != len(images):
            raise ValueError(
                f"{type(self.extractor).__name__} gave {_describe(features)} for {len(images)} images; FIDCallback "
                "takes a feature extractor that maps uint8 (N, C, H, W) to (N, D)"
            )
        return features.float(), rest[0] if rest else None

    def _add_up(self, sums: FeatureSums, names: tuple[str, ...]) -> None:
        for name in names:
            setattr(sums, name, self.ranks.sum(getattr(sums, name)))


def _checked(images: Any, size: int) -> Tensor:
    if not isinstance(images, Tensor) or images.dim() != 4 or len(images) != size:
        raise ValueError(f"asked for {size} samples, the model gave {_describe(images)}; it has to give (n, C, H, W)")
    return images


def _describe(value: Any) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
