"""The backend for CPUs."""

from mn_lightning.kernels.cpu.mixture import em_sums, lloyd_sums, mixture_norm
from mn_lightning.kernels.cpu.samples import sample_affine
from mn_lightning.kernels.kmeans import seed_centers

__all__ = ["em_sums", "lloyd_sums", "mixture_norm", "sample_affine", "seed_centers"]
