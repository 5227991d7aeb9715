"""The papers' optimizers and learning rates, as arguments of an :class:`~mn_lightning.models.ImageClassifier`.

In YAML they are named by their path: ``optimizer: mn_lightning.models.recipes.kalayeh_shah``. They are made for
CIFAR-10 and a hundred epochs. On small data such as the digits, ``kalayeh_shah`` diverges within an epoch.
"""

from collections.abc import Iterable

from torch import nn
from torch.optim import SGD, RMSprop
from torch.optim.lr_scheduler import MultiStepLR, StepLR


def kalayeh_shah(parameters: Iterable[nn.Parameter]) -> RMSprop:
    """Make the optimizer of Kalayeh & Shah, Section 4.2: RMSprop, learning rate 0.01, momentum 0.9, weight decay 1e-4.

    Examples:
        >>> kalayeh_shah(nn.Linear(2, 3).parameters()).defaults["lr"]
        0.01
    """
    return RMSprop(parameters, lr=0.01, momentum=0.9, weight_decay=1e-4)


def kalayeh_shah_schedule(optimizer: RMSprop) -> StepLR:
    """Make its schedule: the learning rate times 0.93 every two epochs.

    Examples:
        >>> kalayeh_shah_schedule(kalayeh_shah(nn.Linear(2, 3).parameters())).gamma
        0.93
    """
    return StepLR(optimizer, step_size=2, gamma=0.93)


def deecke(parameters: Iterable[nn.Parameter]) -> SGD:
    """Make the optimizer of Deecke et al., Section 4.2: SGD, learning rate 0.1, momentum 0.9, weight decay 1e-4.

    Examples:
        >>> deecke(nn.Linear(2, 3).parameters()).defaults["lr"]
        0.1
    """
    return SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-4)


def deecke_schedule(optimizer: SGD) -> MultiStepLR:
    """Make its schedule: the learning rate times 0.1 after 65 and after 80 epochs, of a hundred.

    Examples:
        >>> sorted(deecke_schedule(deecke(nn.Linear(2, 3).parameters())).milestones)
        [65, 80]
    """
    return MultiStepLR(optimizer, milestones=[65, 80], gamma=0.1)
