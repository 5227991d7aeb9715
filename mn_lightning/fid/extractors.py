"""torch-fidelity's feature extractors, with a clear message if their weights are missing."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

INCEPTION = "inception-v3-compat"
"""torch-fidelity's name for the Inception network of the published FID values."""


class FidelityFeatures(nn.Module):
    """A feature extractor of torch-fidelity, by its registered name, which always stays in evaluation mode.

    Images with one channel are repeated to three. Each extractor resizes images itself: Inception as in the TensorFlow
    graph of the published values, without antialiasing.

    Args:
        name: a key of ``torch_fidelity.registry.FEATURE_EXTRACTORS_REGISTRY``;
            ``torch_fidelity.register_feature_extractor`` adds keys.
        weights_path: file of the weights; None downloads them once, to torch hub's folder. Only numbers are read: a
            file that holds code is refused.
        with_logits: also return class logits, which the Inception score needs; for Inception only.

    Raises:
        ValueError: if ``name`` is not registered, or has no logits.
        RuntimeError: if the weights can be neither read nor downloaded; says which file to put where.
    """

    def __init__(self, name: str = INCEPTION, weights_path: str | None = None, with_logits: bool = False) -> None:
        super().__init__()
        if name not in FEATURE_EXTRACTORS_REGISTRY:
            known = ", ".join(FEATURE_EXTRACTORS_REGISTRY)
            raise ValueError(f"feature_extractor is {name!r}; torch-fidelity has {known}, or give an nn.Module")
        if with_logits and name != INCEPTION:
            raise ValueError(f"feature_extractor {name!r} has no class logits; take {INCEPTION!r} for them")
        self.name = name
        extractor_class = FEATURE_EXTRACTORS_REGISTRY[name]
        layers = [_layer(name, extractor_class), *["logits_unbiased"] * with_logits]
        # CLIP is downloaded as TorchScript, which has an interpreter of its own in torch.
        as_numbers = weights_path is not None or name == INCEPTION
        try:
            with _numbers_only() if as_numbers else nullcontext():
                self.extractor = extractor_class(name, layers, feature_extractor_weights_path=weights_path)
        except Exception as error:  # of network, file system, unpickling or keys: no weights
            raise RuntimeError(_advice(name, weights_path, error)) from error
        self.requires_grad_(False)
        self.eval()

    @property
    def is_torch_fidelitys(self) -> bool:
        """Whether the extractor is torch-fidelity's own, and not one that a user registered."""
        return type(self.extractor).__module__.partition(".")[0] == "torch_fidelity"

    def train(self, mode: bool = True) -> "FidelityFeatures":
        """Stay in evaluation mode."""
        return super().train(False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute features ``(N, D)`` and, if asked for, logits, of uint8 images ``(N, 1 or 3, H, W)``.

        Raises:
            ValueError: another number of channels.
        """
        if images.shape[1] not in (1, 3):
            raise ValueError(
                f"feature_extractor {self.name!r} got images of shape {tuple(images.shape)}; it takes 1 or 3 channels"
            )
        if images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        return tuple(values.flatten(1) for values in self.extractor(images))


@contextmanager
def _numbers_only() -> Iterator[None]:
    """Make torch.load refuse everything but numbers, even if it is called with ``weights_only=False``."""
    variable = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(variable)
    os.environ[variable] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before


def _layer(name: str, extractor_class: type) -> str:
    """Name of the layer whose features the Fréchet distance uses."""
    if name == INCEPTION:
        return "2048"
    try:
        layer: str = extractor_class.get_default_feature_layer_for_metric("fid")  # type: ignore[attr-defined]
    except (AttributeError, NotImplementedError):  # torch-fidelity 0.3 has no defaults
        layer = extractor_class.get_provided_features_list()[-1]  # type: ignore[attr-defined]
    return layer


def _advice(name: str, weights_path: str | None, error: Exception) -> str:
    reason = (" ".join(str(error).split()) or type(error).__name__)[:200]
    if name != INCEPTION:
        source = f"weights_path {weights_path!r}" if weights_path else "the weights that it downloads"
        return f"torch-fidelity cannot make {name!r} from {source} ({reason}); give another weights_path"
    file = URL_INCEPTION_V3.rsplit("/", 1)[-1]
    where = Path(torch.hub.get_dir()) / "checkpoints"
    failed = f"reading weights_path {weights_path!r} failed" if weights_path else "downloading Inception failed"
    return f"{failed} ({reason}); put {file} from {URL_INCEPTION_V3} into {where}, or give its path as weights_path"
