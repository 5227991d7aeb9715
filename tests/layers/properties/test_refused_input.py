"""Input that a layer does not take is refused in one line that says what was given and what is accepted."""

import pytest
import torch
from helpers.layers import Case


@pytest.mark.parametrize("shape", [(4,), (4, 2), (4, 4, 3, 3), (3, 4)])
def test_input_of_another_shape(case: Case, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="it takes") as error:
        case.make()(torch.randn(shape))
    message = str(error.value)
    assert "\n" not in message
    assert str(shape) in message
    assert "(N, 3) or (N, 3, *)" in message


@pytest.mark.parametrize("training", [True, False])
def test_integer_input(case: Case, training: bool) -> None:
    with pytest.raises(ValueError, match=r"torch.int64; it takes floating point") as error:
        case.make().train(training)(torch.ones(4, 3, dtype=torch.long))
    assert "\n" not in str(error.value)
