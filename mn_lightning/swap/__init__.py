"""Replace norm layers in any ``nn.Module``, list them, and load what was saved with them."""

from mn_lightning.layers.refit import (
    copy_mixtures,
    has_mixtures,
    mixture_layers,
    refit_mixtures,
    reset_queues,
    set_sync,
)
from mn_lightning.layers.update import update_norms
from mn_lightning.swap.arguments import NormName
from mn_lightning.swap.candidates import layer_aliases, norm_candidates
from mn_lightning.swap.listing import NormLayer, norm_layers
from mn_lightning.swap.record import swap_settings
from mn_lightning.swap.registry import check_norm_arguments, norm_arguments, norm_builder, register_norm
from mn_lightning.swap.report import SwappedLayer, SwapReport
from mn_lightning.swap.saved import swap_as_recorded, swap_as_saved
from mn_lightning.swap.surgery import swap_norms

__all__ = [
    "NormLayer",
    "NormName",
    "SwapReport",
    "SwappedLayer",
    "check_norm_arguments",
    "copy_mixtures",
    "has_mixtures",
    "layer_aliases",
    "mixture_layers",
    "norm_arguments",
    "norm_builder",
    "norm_candidates",
    "norm_layers",
    "refit_mixtures",
    "register_norm",
    "reset_queues",
    "set_sync",
    "swap_as_recorded",
    "swap_as_saved",
    "swap_norms",
    "swap_settings",
    "update_norms",
]
