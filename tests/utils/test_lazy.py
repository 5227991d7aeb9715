"""The names of the package, before and after they are used; in a process of its own."""

import subprocess
import sys


def test_names_are_imported_when_they_are_used() -> None:
    code = """
import sys, mn_lightning
assert set(mn_lightning.__all__) <= set(dir(mn_lightning))
assert "torch" not in sys.modules
assert mn_lightning.__version__[0].isdigit()
assert "torch" not in sys.modules
assert mn_lightning.gmm.__name__ == "mn_lightning.gmm"
from mn_lightning import *
assert MixtureNorm is mn_lightning.MixtureNorm is mn_lightning.layers.MixtureNorm
assert set(mn_lightning.__all__) <= set(dir())
try:
    mn_lightning.no_such_name
except AttributeError as error:
    assert str(error) == "module 'mn_lightning' has no attribute 'no_such_name'"
else:
    raise AssertionError
try:
    from mn_lightning import no_such_name
except ImportError:
    pass
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
