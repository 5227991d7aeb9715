"""Check that a finished training has measured its study's metric, and say why not."""

from lightning.pytorch import Trainer

from mn_lightning.compare.runs.run import Run


def why_unmeasured(trainer: Trainer, run: Run) -> str:
    """Say in one line why a run has no value of the study's metric; return an empty text if it has one.

    Args:
        trainer: has trained the run.
        run: the run, with its rows in its folder.
    """
    metric, rows = run.study.metric, run.rows()
    if any(metric in row for row in rows):
        return ""
    said = f"nothing was measured: {metric} has no value, as"
    loop = trainer.fit_loop.epoch_loop
    if not loop.batch_progress.total.completed:
        ends = ("max_epochs", "max_steps", "limit_train_batches")
        zeros = [name for name in ends if getattr(trainer, name) == 0]
        return f"{said} {zeros[0]} is 0" if zeros else f"{said} there were no training batches"
    if not sum(loop.val_loop._max_batches):
        return f"{said} there were no validation batches (limit_val_batches is {trainer.limit_val_batches})"
    if not loop.val_loop.batch_progress.total.completed:
        return (
            f"{said} the training ended after {trainer.current_epoch} epochs and {trainer.global_step} steps, before "
            f"the first validation (check_val_every_n_epoch {trainer.check_val_every_n_epoch}, val_check_interval "
            f"{trainer.val_check_interval})"
        )
    logged = dict.fromkeys(name for row in rows for name in row if name not in ("epoch", "step", "seconds"))
    return f"{said} the run logged {', '.join(logged) or 'nothing'}"
