"""The backend for CPUs: loops that numba compiles."""

from mn_lightning.kernels.cpu.activations import knows
from mn_lightning.kernels.cpu.availability import is_available
from mn_lightning.kernels.cpu.fitting import em, fit, lloyd
from mn_lightning.kernels.cpu.mixture import fit_and_normalize
from mn_lightning.kernels.cpu.queue import all_finite, enqueue
from mn_lightning.kernels.cpu.samples import sample_affine

__all__ = [
    "all_finite",
    "em",
    "enqueue",
    "fit",
    "fit_and_normalize",
    "is_available",
    "knows",
    "lloyd",
    "sample_affine",
]
