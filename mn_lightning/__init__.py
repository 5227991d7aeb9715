"""Mixture normalization and mode normalization in place of BatchNorm, for any PyTorch or Lightning model."""

from typing import TYPE_CHECKING

from mn_lightning.utils.lazy import lazy_names

if TYPE_CHECKING:
    from mn_lightning.layers import MixtureNorm, ModeGroupNorm, ModeNorm
    from mn_lightning.layers.refit import refit_mixtures, reset_queues
    from mn_lightning.layers.update import update_norms
    from mn_lightning.swap.listing import norm_layers
    from mn_lightning.swap.registry import register_norm
    from mn_lightning.swap.report import SwapReport
    from mn_lightning.swap.surgery import swap_norms

    __version__: str

__all__ = [
    "MixtureNorm",
    "ModeGroupNorm",
    "ModeNorm",
    "SwapReport",
    "norm_layers",
    "refit_mixtures",
    "register_norm",
    "reset_queues",
    "swap_norms",
    "update_norms",
]

# `mn-lightning --help` and `--version` answer at once, as torch is imported with the first of these names.
__getattr__ = lazy_names(
    __name__,
    {
        "MixtureNorm": "layers",
        "ModeGroupNorm": "layers",
        "ModeNorm": "layers",
        "SwapReport": "swap.report",
        "norm_layers": "swap.listing",
        "refit_mixtures": "layers.refit",
        "register_norm": "swap.registry",
        "reset_queues": "layers.refit",
        "swap_norms": "swap.surgery",
        "update_norms": "layers.update",
        "__version__": "utils.version",
    },
    packages=["functional", "gmm", "kernels", "layers", "swap", "utils"],
)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
