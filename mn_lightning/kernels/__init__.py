"""Every pass over all rows of an activation, in one backend for each way to compute it.

:mod:`~mn_lightning.kernels.select` picks the backend. Each backend is a module with the same functions:
``fit``, ``lloyd``, ``em``, ``sample_affine``, ``enqueue`` and ``all_finite``.
:mod:`~mn_lightning.kernels.reference` says what they compute; the others compute the same, faster. MixtureNorm alone is
``mixture_norm`` of rows there, and ``fit_and_normalize`` of an activation in :mod:`~mn_lightning.kernels.cpu`.

Observations ``x`` have shape ``(G, B, M, D)``: G independent mixtures, each of B blocks of M rows with D features.
Blocks let an activation ``(N, C, L)`` be passed as the transposed view ``(1, N, L, C)``, without a copy.
"""
