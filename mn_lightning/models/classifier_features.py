"""A trained classifier as a feature extractor."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as v2

_PREFIX = "network."


class ClassifierFeatures(nn.Module):
    """The penultimate activations of a trained :class:`~mn_lightning.models.ImageClassifier`.

    Inception's features say little about images such as digits or clothes. For these,
    ``FIDCallback(feature_extractor=ClassifierFeatures(...))`` logs a Fréchet distance in the features of a classifier
    of such images, as ``fd_classifier``. Values can only be compared with values from the same checkpoint.

    Args:
        checkpoint: file that a Trainer saved for an ``ImageClassifier``.
        network: the network that the classifier was trained with, which the checkpoint does not hold. Its last
            ``nn.Linear`` takes the features.
        mean: mean of the intensities in [0, 1], one for each channel of the images that the classifier was trained on.
        std: their standard deviation, likewise.
        image_size: height and width to which images are resized bilinearly; None leaves them as they are.

    Attributes:
        name: ``"classifier"``, for the names under which FIDCallback logs.
        num_features: number D of features.

    Raises:
        ValueError: if ``mean`` and ``std`` are not for 1 or 3 channels, ``network`` has no ``nn.Linear``, or the
            checkpoint is missing, damaged, or of another network.
    """

    name = "classifier"

    def __init__(
        self,
        checkpoint: str,
        network: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        image_size: int | None = None,
    ) -> None:
        super().__init__()
        if len(mean) != len(std) or len(mean) not in (1, 3):
            raise ValueError(
                f"ClassifierFeatures got {len(mean)} means and {len(std)} deviations; it takes one for each of the 1 "
                "or 3 channels that the classifier was trained on"
            )
        linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
        if not linear:
            raise ValueError(
                f"ClassifierFeatures got {type(network).__name__} without nn.Linear; it takes one with a linear head"
            )
        _load(network, Path(checkpoint).expanduser())
        self.network = network
        self.mean = list(mean)
        self.std = list(std)
        self.image_size = image_size
        self.num_features = linear[-1].in_features
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "ClassifierFeatures":
        """Stay in evaluation mode."""
        return super().train(False)

    def extra_repr(self) -> str:
        """Return the settings, as they are shown in the module's ``repr``."""
        return f"mean={self.mean}, std={self.std}, image_size={self.image_size}"

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Compute the features ``(N, D)`` of uint8 images ``(N, 1 or 3, H, W)``.

        Raises:
            ValueError: another dtype or shape.
        """
        if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] not in (1, 3):
            raise ValueError(
                f"ClassifierFeatures got {images.dtype} of shape {tuple(images.shape)}; it takes uint8 "
                "(N, 1 or 3, H, W)"
            )
        pixels = v2.to_dtype(images, torch.float32, scale=True)
        if pixels.shape[1] != len(self.mean):
            pixels = v2.rgb_to_grayscale(pixels) if len(self.mean) == 1 else v2.grayscale_to_rgb(pixels)
        if self.image_size is not None:
            pixels = v2.resize(pixels, [self.image_size, self.image_size], antialias=True)
        return self._penultimate(v2.normalize(pixels, self.mean, self.std))

    def _penultimate(self, pixels: Tensor) -> Tensor:
        seen: list[Tensor] = []
        last = [module for module in self.network.modules() if isinstance(module, nn.Linear)][-1]
        # Removed at once, because a hook on a module would be copied and pickled with it.
        handle = last.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        try:
            self.network(pixels)
        finally:
            handle.remove()
        return seen[-1].flatten(1)


def _load(network: nn.Module, checkpoint: Path) -> None:
    try:
        content: Any = torch.load(checkpoint, map_location="cpu", weights_only=True)
        weights = {
            name.removeprefix(_PREFIX): value
            for name, value in content["state_dict"].items()
            if name.startswith(_PREFIX)
        }
        network.load_state_dict(weights)
    except (OSError, EOFError, RuntimeError, KeyError, TypeError, AttributeError, pickle.UnpicklingError) as error:
        reason = (" ".join(str(error).split()) or type(error).__name__)[:200]
        raise ValueError(
            f"ClassifierFeatures cannot read {checkpoint} into {type(network).__name__} ({reason}); give a checkpoint "
            "of an ImageClassifier, and its network with the same norms"
        ) from error
