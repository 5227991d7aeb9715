"""Norms as a whole on a GPU, in a few launches each; :mod:`~mn_lightning.kernels.triton.norms` is the way in."""
