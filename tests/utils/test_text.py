"""What a person reads of an error or a value."""

import pytest
import torch
from torch import nn

from mn_lightning.utils.text import shown, what_happened

WORKER = (
    "Caught ValueError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
    '  File "x.py", line 3, in f\n    raise ValueError("a bad image")\nValueError: a bad image\n'
)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RuntimeError("it broke\nin two lines"), "RuntimeError: it broke"),
        (RuntimeError("\n\n  it broke\n"), "RuntimeError: it broke"),
        (ValueError("these are wrong:\n  a\n  b"), "ValueError: these are wrong: a"),
        (ValueError(WORKER), "ValueError: a bad image"),
        (ValueError(), "ValueError"),
        (KeyError("x"), "KeyError: 'x'"),
        (SystemExit(3), "SystemExit: 3"),
    ],
)
def test_what_happened(error: BaseException, line: str) -> None:
    assert what_happened(error) == line


def test_what_happened_to_weights() -> None:
    with pytest.raises(RuntimeError) as caught:
        nn.Linear(2, 2).load_state_dict({"weight": torch.zeros(2, 2)})
    line = 'RuntimeError: Error(s) in loading state_dict for Linear: Missing key(s) in state_dict: "bias".'
    assert what_happened(caught.value) == line


def test_values() -> None:
    itself: list[object] = []
    itself.append(itself)
    assert shown("a\nb") == "'a\\nb'"
    assert shown(itself) == "[[...]]"
    assert shown(10**5000) == "<int>"
    assert len(shown(list(range(1000)))) <= 80
