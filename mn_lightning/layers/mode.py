"""Mode normalization as a layer: a gate, an affine map and running moments."""

from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mn_lightning import functional as F
from mn_lightning.functional.mode import RunningVariance
from mn_lightning.functional.rows import check_input, check_rows, check_updatable, is_empty, unchanged
from mn_lightning.layers.batch_norm import device_and_dtype, is_synchronized
from mn_lightning.layers.gate import Gate
from mn_lightning.layers.loading import before_loading
from mn_lightning.layers.statistics import KeepsStatistics, statistics_dtype
from mn_lightning.layers.tracing import one_node
from mn_lightning.utils.checks import check_choice, check_counts, check_eps, check_flags, check_momentum
from mn_lightning.utils.distributed import ALONE, all_processes
from mn_lightning.utils.recompute import is_recomputing


class ModeNorm(KeepsStatistics):
    r"""Mode normalization (Deecke, Murray & Bilen, arXiv:1810.05466), a replacement for BatchNorm1d, 2d and 3d.

    A learned gate assigns each sample softly to K modes, and the sample is normalized with the gate-weighted moments of
    its modes (Algorithms 1 and 2):

    .. math:: y_n = \gamma \sum_k g_{nk} \frac{x_n - \mu_k}{\sqrt{\sigma_k^2 + \epsilon}} + \beta, \quad
       g_n = \mathrm{softmax}(W \operatorname{mean}_*(x_n) + b)

    With one mode, or with gates that are the same for all samples, the layer is BatchNorm.

    Args:
        num_features: number of channels C of the input ``(N, C)`` or ``(N, C, *)``.
        n_components: number of modes K.
        eps: added to the variances.
        momentum: weight of the new value in the running moments; ``None`` for their cumulative average.
        running: ``"within"``: the running variance is an average of the batches' unbiased variances, as BatchNorm's;
            ``"total"``: it contains how much the batches' means differ, too, as Algorithm 1 has it. In small batches
            they differ much.
        affine: whether there are γ (``weight``) and β (``bias``).
        sync: under DDP, treat the batches of all processes as one in training, as SyncBatchNorm does.
        device: as in torch's layers.
        dtype: as in torch's layers; computations are in float32 at least.

    Attributes:
        gate: the linear map W, b.
        running_mean: ``(K, C)``.
        running_var: ``(K, C)``, see ``running``.
        track_running_stats: if set to False, the running moments stay as they are.

    Raises:
        ValueError: an argument out of range; input of another rank or channel count; one value per channel in
            training.

    Examples:
        >>> layer = ModeNorm(8, n_components=2)
        >>> layer(torch.randn(16, 8, 4, 4)).shape
        torch.Size([16, 8, 4, 4])
        >>> layer.running_mean.shape
        torch.Size([2, 8])
    """

    statistics = ("running_mean", "running_var")
    weight: nn.Parameter | None
    bias: nn.Parameter | None
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        num_features: int,
        n_components: int = 2,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        running: RunningVariance = "within",
        sync: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_counts("ModeNorm", num_features=num_features, n_components=n_components)
        check_eps("ModeNorm", eps)
        check_flags("ModeNorm", affine=affine, sync=sync)
        check_momentum("ModeNorm", momentum)
        self.label = f"ModeNorm({num_features})"  # in errors; a swap adds the layer's name in the model
        self.num_features = num_features
        self.n_components = n_components
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        check_choice("ModeNorm", "running", running, get_args(RunningVariance))
        self.running = running
        self.sync = sync
        self.gate = Gate(num_features, n_components)
        self.register_parameter("weight", nn.Parameter(torch.empty(num_features)) if affine else None)
        self.register_parameter("bias", nn.Parameter(torch.empty(num_features)) if affine else None)
        for name in self.statistics:
            self.register_buffer(name, torch.empty(n_components, num_features, dtype=statistics_dtype()))
        self.register_buffer("num_batches_tracked", torch.tensor(0, dtype=torch.long))
        self.register_load_state_dict_pre_hook(before_loading)  # type: ignore[no-untyped-call]
        self.reset_parameters()
        self.to(device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        """Set the affine map to the identity, the running moments to 0 and 1, the gates to nearly uniform."""
        self.gate.reset_parameters()
        self.reset_running_stats()
        if self.weight is not None:
            nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def reset_running_stats(self) -> None:
        """Set the running moments to 0 and 1, as BatchNorm's method does."""
        self.running_mean.zero_()
        self.running_var.fill_(1)
        self.num_batches_tracked.zero_()

    @classmethod
    def from_batch_norm(cls, batch_norm: _BatchNorm, **kwargs: Any) -> "ModeNorm":
        """Build the layer that replaces ``batch_norm``.

        With ``batch_norm``'s weight and bias it computes the same in evaluation, until it is trained.

        Args:
            batch_norm: a BatchNorm1d, 2d or 3d, or SyncBatchNorm.
            **kwargs: arguments of the layer; ``eps``, ``momentum``, ``affine``, ``device`` and ``dtype`` are
                ``batch_norm``'s otherwise.
        """
        kwargs.setdefault("eps", batch_norm.eps)
        if "sync" not in kwargs:
            kwargs["sync"] = is_synchronized(batch_norm)
        kwargs.setdefault("momentum", batch_norm.momentum)
        kwargs.setdefault("affine", batch_norm.affine)
        layer = cls(batch_norm.num_features, **(device_and_dtype(batch_norm) | kwargs))
        if batch_norm.running_mean is not None and batch_norm.running_var is not None:
            layer.running_mean.copy_(batch_norm.running_mean)
            layer.running_var.copy_(batch_norm.running_var)
        if batch_norm.num_batches_tracked is not None:
            layer.num_batches_tracked.copy_(batch_norm.num_batches_tracked)
        return layer

    @one_node
    def forward(self, input: Tensor) -> Tensor:
        """Normalize.

        Args:
            input: ``(N, C)`` or ``(N, C, *)``, floating point.

        Returns:
            Tensor of the input's shape, dtype and memory format.

        Raises:
            ValueError: another rank, channel count or dtype; in training, fewer than two values per
                channel.
        """
        check_input(self.label, input, self.num_features)
        processes = all_processes() if self.sync and self.training else ALONE
        if is_empty(input) and processes.size == 1:
            return unchanged(input, self.parameters())
        if self.training and processes.size == 1:
            check_rows(self.label, input)
        track = not self.training or (self.track_running_stats and not is_recomputing())
        momentum: float | Tensor = 0.0 if self.momentum is None else self.momentum
        if self.training and track:
            check_updatable(self.label, input, self.num_batches_tracked)
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                momentum = self.num_batches_tracked.double().reciprocal()
        return F.mode_norm(
            input,
            *self.gate.parameters_for(input),
            self.running_mean if track else None,
            self.running_var if track else None,
            self.weight,
            self.bias,
            training=self.training,
            momentum=momentum,
            eps=self.eps,
            processes=processes,
            running=self.running,
        )

    def extra_repr(self) -> str:
        """Return what distinguishes the layer, in torch's form."""
        return (
            f"{self.num_features}, n_components={self.n_components}, eps={self.eps}, momentum={self.momentum}, "
            f"affine={self.affine}{', sync=True' * self.sync}"
            f"{f', running={self.running!r}' * (self.running != 'within')}"
        )
