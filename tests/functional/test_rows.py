"""What is refused, in one line."""

import pytest
import torch
from helpers.functional_cases import NORMS, apply, cast, parameters
from torch import Tensor

from mn_lightning import functional as F

pytestmark = pytest.mark.usefixtures("backend")


@pytest.mark.parametrize("name", [*NORMS, "fit"])
@pytest.mark.parametrize(
    ("x", "given", "accepted"),
    [
        (torch.randn(3), "(3,)", "(N, C)"),
        (torch.randn(()), "()", "(N, C)"),
        (torch.zeros(4, 3, dtype=torch.long), "torch.int64", "floating point"),
        (torch.zeros(4, 3, dtype=torch.bool), "torch.bool", "floating point"),
        (torch.zeros(4, 3, dtype=torch.complex64), "torch.complex64", "floating point"),
    ],
)
def test_wrong_input(name: str, x: Tensor, given: str, accepted: str) -> None:
    def call() -> object:
        if name == "fit":
            return F.fit_mixture(x, 2, 2, torch.tensor(0))
        return apply(name, x, cast(parameters(name, 3, True), torch.float32))

    with pytest.raises(ValueError, match="it takes") as error:
        call()
    message = str(error.value)
    assert "\n" not in message
    assert given in message
    assert accepted in message
