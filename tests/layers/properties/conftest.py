"""Every test here is run for each row of the table in ``helpers/layers.py``.

A file that says ``COSTLY = True`` marks all rows as slow but the first of each class of layers.
"""

import pytest
from helpers import layers


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" not in metafunc.fixturenames:
        return
    first = layers.one_of_each_kind()
    rows = layers.OURS | (layers.TORCHS if getattr(metafunc.module, "WITH_TORCH", False) else {})
    if getattr(metafunc.function, "one_of_each_kind", False):
        rows = first
    slow = () if not getattr(metafunc.module, "COSTLY", False) else rows.keys() - first.keys()
    marked = [
        pytest.param(case, id=name, marks=[pytest.mark.slow] if name in slow else []) for name, case in rows.items()
    ]
    metafunc.parametrize("case", marked)
