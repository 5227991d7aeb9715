"""The place in the training data where a resumed run goes on."""

from typing import Any


def restore_place(trainer: Any) -> None:
    """Give the training loader its state from the checkpoint, if Lightning has kept it back, and correct it.

    Lightning gives it when it makes the loader. Where ``configure_optimizers`` asks for
    ``trainer.estimated_stepping_batches``, the loader is made before the checkpoint is read and never gets the state: a
    run that is resumed in the middle of an epoch then takes the epoch's first batches once more.

    A checkpoint that was saved in the middle of a step, as after an error, counts the step's batch as used up. The
    loader gives it again, as the step is made again.

    Args:
        trainer: Lightning's, when the training starts.
    """
    loop = trainer.fit_loop
    if loop._combined_loader_states_to_load and loop._combined_loader is not None:
        loop._combined_loader._load_state_dicts(loop._combined_loader_states_to_load)
        loop._combined_loader_states_to_load = []
    progress = loop.epoch_loop.batch_progress.current
    for loader in loop._combined_loader.flattened if loop._combined_loader is not None else ():
        if progress.ready > progress.processed and hasattr(loader, "give_again"):
            loader.give_again(progress.processed)
