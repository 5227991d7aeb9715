"""The backend for CPUs: loops that numba compiles."""

from mn_lightning.kernels.cpu.activations import knows
from mn_lightning.kernels.cpu.availability import is_available
from mn_lightning.kernels.cpu.fitting import em, fit, lloyd
from mn_lightning.kernels.cpu.mixture import mixture_norm
from mn_lightning.kernels.cpu.queue import all_finite, enqueue
from mn_lightning.kernels.cpu.samples import sample_affine

__all__ = [
    "all_finite",
    "em",
    "enqueue",
    "fit",
    "is_available",
    "knows",
    "lloyd",
    "mixture_norm",
    "sample_affine",
]
