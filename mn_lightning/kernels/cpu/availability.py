"""Whether loops can be compiled here."""

import importlib
import warnings
from functools import cache


@cache
def is_available() -> bool:
    """Whether numba can be imported: a Python or NumPy may be newer than it knows. Warns once where it can't."""
    try:
        importlib.import_module("mn_lightning.kernels.cpu.compile")
    except Exception as error:  # numba raises what it likes, not only ImportError
        warnings.warn(
            f"numba cannot be imported ({error}): the norms compute with torch's operations, which takes longer. "
            "Install a numba that knows this Python and NumPy.",
            stacklevel=2,
        )
        return False
    return True
