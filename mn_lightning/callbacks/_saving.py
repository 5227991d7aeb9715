"""Run something before the Trainer takes the model's weights for a checkpoint.

``Callback.on_save_checkpoint`` runs after the weights were taken, and not at all with ``save_weights_only``. A hook on
the model's ``state_dict`` would also run when nothing is saved, for example when a callback averages weights in every
step.
"""

from collections.abc import Callable
from typing import Any

from lightning.pytorch import Trainer

_METHOD = "lightning_module_state_dict"
_ACTIONS = "_mn_lightning_before_saving"


def before_saving(trainer: Trainer, action: Callable[[], object]) -> Callable[[], None]:
    """Call ``action`` in all processes before weights are taken for a checkpoint; return what undoes this."""
    strategy: Any = trainer.strategy
    held = vars(strategy)
    if _ACTIONS not in held:
        held[_ACTIONS] = []
        setattr(strategy, _METHOD, _after(held[_ACTIONS], getattr(strategy, _METHOD)))
    held[_ACTIONS].append(action)

    def undo() -> None:
        held[_ACTIONS].remove(action)
        if not held[_ACTIONS]:
            del held[_ACTIONS], held[_METHOD]

    return undo


def _after(actions: list[Callable[[], object]], take: Callable[[], Any]) -> Callable[[], Any]:
    def take_after_actions() -> Any:
        for action in actions:
            action()
        return take()

    return take_after_actions
