"""What the fork server imports, and has its compiled loops loaded for.

Nothing here runs a backward pass: after one, torch lets no process be forked on a machine with a GPU.
"""

import torch

import mn_lightning.compare.command
import mn_lightning.compare.runs.train  # noqa: F401
from mn_lightning import MixtureNorm, ModeNorm

torch.set_num_threads(1)
for layer in (MixtureNorm(3), ModeNorm(3)):
    layer(torch.randn(16, 3, 4, 4))
