"""Callbacks for ``Trainer(callbacks=[...])``."""

from mn_lightning.callbacks.current_statistics import CurrentStatisticsCallback
from mn_lightning.callbacks.fid import FIDCallback
from mn_lightning.callbacks.gmm_refit import GMMRefitCallback
from mn_lightning.callbacks.mixture_monitor import MixtureMonitor
from mn_lightning.callbacks.norm_swap import NormSwapCallback
from mn_lightning.callbacks.queue_reset import QueueResetCallback
from mn_lightning.callbacks.random_state import RandomStateCallback
from mn_lightning.callbacks.sample_grid import SampleGridCallback
from mn_lightning.callbacks.update_norms import UpdateNormsCallback

__all__ = [
    "CurrentStatisticsCallback",
    "FIDCallback",
    "GMMRefitCallback",
    "MixtureMonitor",
    "NormSwapCallback",
    "QueueResetCallback",
    "RandomStateCallback",
    "SampleGridCallback",
    "UpdateNormsCallback",
]
