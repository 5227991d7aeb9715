"""The backend for CPUs: loops that numba compiles."""

from mn_lightning.kernels.autograd import as_base as as_output
from mn_lightning.kernels.cpu.activations import knows
from mn_lightning.kernels.cpu.availability import is_available
from mn_lightning.kernels.cpu.kmeans import seed_centers
from mn_lightning.kernels.cpu.mixture import em_sums, lloyd_sums, mixture_norm
from mn_lightning.kernels.cpu.samples import sample_affine

__all__ = [
    "as_output",
    "em_sums",
    "is_available",
    "knows",
    "lloyd_sums",
    "mixture_norm",
    "sample_affine",
    "seed_centers",
]
