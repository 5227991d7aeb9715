"""The normalizations as pure functions, in the manner of :mod:`torch.nn.functional`.

Inputs have shape ``(N, C, *)``, L is the product of ``*`` (1 for fully connected layers), and one row is one C-vector:
there are M = N·L rows. Everything is computed in float32 at least, in float64 for float64 input, also under
autocast, and returned in the input's dtype and memory format.

Equations 1-39 are those of Kalayeh & Shah (arXiv:1806.02892), Algorithms 1-3 those of Deecke, Murray & Bilen
(arXiv:1810.05466).
"""

from mn_lightning.functional.fisher import fisher_vector
from mn_lightning.functional.mixture import fit_mixture, mixture_moments, mixture_norm
from mn_lightning.functional.mode import mode_norm
from mn_lightning.functional.mode_group import mode_group_norm
from mn_lightning.functional.rows import Granularity
from mn_lightning.kernels.types import Activation, Affine, Scale

__all__ = [
    "Activation",
    "Affine",
    "Granularity",
    "Scale",
    "fisher_vector",
    "fit_mixture",
    "mixture_moments",
    "mixture_norm",
    "mode_group_norm",
    "mode_norm",
]
