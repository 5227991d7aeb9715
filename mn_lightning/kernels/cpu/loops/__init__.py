"""Loops over an activation, compiled by numba: each says what its equation says, once for each layout in memory.

In the modules ``*_planes`` the L numbers of a sample's channel lie side by side; in ``*_rows``, a row's channels do.
Both have the same functions. They are imported on first use, because they import numba.

numba compiles a loop again when the file has changed that the loop is in. Whoever changes ``common.py``, ``gates.py``
or ``mixture.py``, from which the other files take functions, has to delete ``__pycache__`` here.
"""
