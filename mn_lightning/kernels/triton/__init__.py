"""Norms as a whole on a GPU, in one launch forward and one backward.

:mod:`~mn_lightning.kernels.triton.norms` is the way in.
"""
