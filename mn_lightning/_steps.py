"""What counts as a step."""

from lightning.pytorch import Trainer


def training_steps(trainer: Trainer) -> int:
    """Return the optimizer steps of the training so far: the generator's alone, where the module counts those.

    ``trainer.global_step`` counts the steps of all optimizers of a GAN; papers count ``module.generator_steps``.
    """
    steps: int = getattr(trainer.lightning_module, "generator_steps", trainer.global_step)
    return steps
