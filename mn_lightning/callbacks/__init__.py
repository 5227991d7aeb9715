from mn_lightning.callbacks.gmm_refit import GMMRefitCallback
from mn_lightning.callbacks.norm_swap import NormSwapCallback
from mn_lightning.callbacks.queue_reset import QueueResetCallback

__all__ = ["GMMRefitCallback", "NormSwapCallback", "QueueResetCallback"]
