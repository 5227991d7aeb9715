"""State dicts, to be compared."""

from torch import Tensor


def in_one_order(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Sort the components of mixtures: a refit follows the order of the one before, which only one of two runs had."""
    orders = {
        name.removesuffix("means"): value[:, 0].argsort()
        for name, value in state.items()
        if name.endswith("mixture_means")
    }
    return {
        name: next((value[order] for prefix, order in orders.items() if name.startswith(prefix)), value)
        for name, value in state.items()
    }
