"""Mixture normalization as a layer: parameters, the stored mixture, and the queue of recent batches."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mn_lightning.functional.mixture import fit_mixture, mixture_moments, normalize
from mn_lightning.functional.rows import (
    GRANULARITIES,
    Granularity,
    check_input,
    check_rows,
    check_updatable,
    is_empty,
    unchanged,
)
from mn_lightning.kernels.types import AFFINES, SCALES, Affine, FitOptions, Mixture, NormOptions, Scale
from mn_lightning.layers.activation import out_of_place
from mn_lightning.layers.alignment import aligned
from mn_lightning.layers.batch_norm import device_and_dtype, is_synchronized
from mn_lightning.layers.loading import before_loading, mixture_fault
from mn_lightning.layers.queue import BatchQueue, RowsPerBatch, rows_to_keep
from mn_lightning.layers.statistics import KeepsStatistics, statistics_dtype
from mn_lightning.layers.tracing import one_node
from mn_lightning.utils.checks import check_at_least, check_choice, check_counts, check_eps, check_flags, is_number
from mn_lightning.utils.distributed import ALONE, all_processes
from mn_lightning.utils.recompute import is_recomputing


class MixtureNorm(KeepsStatistics):
    r"""Mixture normalization (Kalayeh & Shah, arXiv:1806.02892), a replacement for BatchNorm1d, 2d and 3d.

    In training, a Gaussian mixture is fitted to the rows (C-vectors) of every batch, and each row is normalized with
    the moments of the components that it belongs to (Eq. 34):

    .. math:: \hat x_i = \sum_k \frac{\nu_k(x_i)}{\sqrt{\lambda_k}} \frac{x_i - \mu_k}{\sqrt{\sigma_k^2 + \epsilon}},
       \quad y_i = \gamma \hat x_i + \beta

    In evaluation, a stored mixture takes the place of the batch's. :meth:`refit` fits it to a queue of recent
    batches; it is a single Gaussian until then. Call :meth:`refit` before you evaluate and :meth:`reset_queue` at the
    start of an epoch, or let ``GMMRefitCallback`` and ``QueueResetCallback`` do it.

    With one component the layer computes what BatchNorm computes in training.

    Args:
        num_features: number of channels C of the input ``(N, C)`` or ``(N, C, *)``.
        n_components: number of components K.
        em_iters: iterations of the fit in training, Lloyd's and EM's together.
        eps: added to the variances.
        affine: ``"output"``: γ and β after the normalization, BatchNorm's ``weight`` and ``bias``; ``"component"``:
            Eq. 37, β added to the means and γ = exp(``log_weight``) multiplying the variances; ``None``: neither.
        granularity: ``"layer"`` fits one mixture to C-vectors, ``"channel"`` fits C mixtures to numbers, at a multiple
            of the cost.
        scale: ``"sqrt"`` divides by √λ_k as published; ``"unit"`` leaves that out, so that hard assignments keep
            unit variance.
        activation: elementwise function (or module) applied to each component's output (Eq. 38); of a module with
            ``inplace=True``, a copy without it.
        queue_size: number of recent batches kept for :meth:`refit`.
        queue_decay: a batch of age a (0 is the newest) gives ``queue_decay ** a`` of its rows to :meth:`refit`.
        queue_rows_per_batch: rows kept of each batch; ``"auto"`` keeps up to 1,024, as many as keep the queue within
            48 MiB; ``None`` keeps all, in buffers that grow: ``AveragedModel`` cannot copy these.
        fit_rows: fit to this many rows of each batch in training, drawn at random, which costs less; posteriors and
            moments are those of all rows either way. ``None``, as published, fits to all of them.
        refit_iters: iterations of the fit in :meth:`refit`; ``None`` for ``em_iters``, so that evaluation normalizes by
            a mixture like those of the training. More make another one, which the network has not been trained with.
        min_weight: a component with a smaller share of the rows is dropped, its rows go to the others.
        sync: under DDP, treat the batches of all processes as one in training, as SyncBatchNorm does.
        device: as in torch's layers.
        dtype: as in torch's layers; computations are in float32 at least.

    Attributes:
        mixture_weights: λ of the stored mixture, ``(K,)``, or ``(K, C)`` per channel; 0 for a component not in use.
        mixture_means: μ, ``(K, C)``.
        mixture_variances: σ², ``(K, C)``.
        num_batches_tracked: number of batches seen in training; the random choices of the fit are a function of it.
        track_running_stats: if set to False, no batch is counted or queued, and the stored mixture stays as it is.

    Raises:
        ValueError: an argument out of range; input of another rank or channel count; one row only in training.
        RuntimeError: in ``load_state_dict``, a stored mixture that is none.

    Examples:
        >>> layer = MixtureNorm(8, n_components=3, em_iters=2)
        >>> y = layer(torch.randn(16, 8, 4, 4))  # fits a mixture to the batch, and queues it
        >>> y.shape, layer.stale
        (torch.Size([16, 8, 4, 4]), True)
        >>> layer.refit()  # fits the mixture that evaluation uses
        True
        >>> layer.eval()(torch.randn(1, 8, 4, 4)).shape
        torch.Size([1, 8, 4, 4])
    """

    statistics = ("mixture_weights", "mixture_means", "mixture_variances")
    weight: nn.Parameter | None
    log_weight: nn.Parameter | None
    bias: nn.Parameter | None
    mixture_weights: Tensor
    mixture_means: Tensor
    mixture_variances: Tensor
    num_batches_tracked: Tensor
    _looked_at: tuple[int, int] | None = None
    _warned = False

    def __init__(
        self,
        num_features: int,
        n_components: int = 3,
        em_iters: int = 2,
        eps: float = 1e-5,
        affine: Affine | None = "output",
        granularity: Granularity = "layer",
        scale: Scale = "sqrt",
        activation: Callable[[Tensor], Tensor] | None = None,
        queue_size: int = 20,
        queue_decay: float = 0.9,
        queue_rows_per_batch: RowsPerBatch = "auto",
        fit_rows: int | None = None,
        refit_iters: int | None = None,
        min_weight: float = 0.01,
        sync: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_counts(
            "MixtureNorm",
            num_features=num_features,
            n_components=n_components,
            em_iters=em_iters,
            queue_size=queue_size,
        )
        self.label = f"MixtureNorm({num_features})"  # in errors; a swap adds the layer's name in the model
        self.num_features = num_features
        self.n_components = n_components
        self.em_iters = em_iters
        self.eps = eps
        self.affine = affine
        self.granularity = granularity
        self.scale = scale
        self.activation = None if activation is None else out_of_place(activation)
        self.queue_decay = queue_decay
        self.fit_rows = fit_rows
        self.refit_iters = refit_iters
        self.min_weight = min_weight
        self.sync = sync

        self._check_settings()
        self._register_parameters()
        self._register_mixture()
        rows_per_batch = rows_to_keep(queue_rows_per_batch, num_features, queue_size)
        self.queue = BatchQueue(num_features, queue_size, rows_per_batch)
        self.register_load_state_dict_pre_hook(before_loading)  # type: ignore[no-untyped-call]
        self.reset_parameters()
        self.to(device=device, dtype=dtype)

    def _check_settings(self) -> None:
        """Refuse what the formulas cannot take; the counts are checked before they size anything."""
        if self.affine is not None:
            check_choice("MixtureNorm", "affine", self.affine, AFFINES)
        check_choice("MixtureNorm", "granularity", self.granularity, GRANULARITIES)
        check_choice("MixtureNorm", "scale", self.scale, SCALES)
        check_eps("MixtureNorm", self.eps)
        check_flags("MixtureNorm", sync=self.sync)
        if not is_number(self.queue_decay) or not 0 < self.queue_decay <= 1:
            raise ValueError(f"MixtureNorm got queue_decay={self.queue_decay!r}; it takes 0 < queue_decay <= 1")
        if not is_number(self.min_weight) or not 0 <= self.min_weight < 1:
            raise ValueError(f"MixtureNorm got min_weight={self.min_weight!r}; it takes 0 <= min_weight < 1")
        if self.fit_rows is not None:
            check_at_least("MixtureNorm", "fit_rows", self.fit_rows, self.n_components, "None")
        if self.refit_iters is not None:
            check_at_least("MixtureNorm", "refit_iters", self.refit_iters, 1, "None")

    def _register_parameters(self) -> None:
        """γ is ``weight`` after the normalization and ``log_weight`` in the variances; β is ``bias`` in both."""
        gamma = {"output": "weight", "component": "log_weight"}
        present = () if self.affine is None else (gamma[self.affine], "bias")
        for name in ("weight", "log_weight", "bias"):
            parameter = nn.Parameter(torch.empty(self.num_features)) if name in present else None
            self.register_parameter(name, parameter)

    def _register_mixture(self) -> None:
        """One Gaussian until the first refit, see :meth:`reset_parameters`."""
        shape = (self.n_components, self.num_features)
        dtype = statistics_dtype()
        weights_shape = shape if self.granularity == "channel" else shape[:1]
        self.register_buffer("mixture_weights", torch.empty(weights_shape, dtype=dtype))
        self.register_buffer("mixture_means", torch.empty(shape, dtype=dtype))
        self.register_buffer("mixture_variances", torch.empty(shape, dtype=dtype))
        self.register_buffer("num_batches_tracked", torch.tensor(0, dtype=torch.long))

    def reset_parameters(self) -> None:
        """Set the affine map to the identity and the stored mixture to the standard normal; empty the queue."""
        self.set_gaussian(torch.zeros(self.num_features), torch.ones(self.num_features))
        self.num_batches_tracked.zero_()
        self.reset_queue()
        if self.weight is not None:
            nn.init.ones_(self.weight)
        if self.log_weight is not None:
            nn.init.zeros_(self.log_weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    @torch.no_grad()
    def set_gaussian(self, mean: Tensor, variance: Tensor) -> None:
        """Store a mixture of one Gaussian with ``mean`` and ``variance``, both ``(C,)``."""
        self.mixture_weights.zero_()
        self.mixture_weights[0] = 1
        self.mixture_means.copy_(mean)
        self.mixture_variances.copy_(variance)

    @classmethod
    def from_batch_norm(cls, batch_norm: _BatchNorm, **kwargs: Any) -> "MixtureNorm":
        """Build the layer that replaces ``batch_norm``.

        With ``batch_norm``'s weight and bias it computes the same in evaluation, until it is refitted.

        Args:
            batch_norm: a BatchNorm1d, 2d or 3d, or SyncBatchNorm.
            **kwargs: arguments of the layer; ``eps``, ``device`` and ``dtype`` are ``batch_norm``'s otherwise.

        Examples:
            >>> batch_norm = nn.BatchNorm2d(8).eval()
            >>> layer = MixtureNorm.from_batch_norm(batch_norm, n_components=4).eval()
            >>> x = torch.randn(2, 8, 4, 4)
            >>> torch.allclose(layer(x), batch_norm(x), atol=1e-5)
            True
        """
        kwargs.setdefault("eps", batch_norm.eps)
        if "sync" not in kwargs:
            kwargs["sync"] = is_synchronized(batch_norm)
        kwargs.setdefault("affine", "output" if batch_norm.affine else None)
        layer = cls(batch_norm.num_features, **(device_and_dtype(batch_norm) | kwargs))
        if batch_norm.running_mean is not None and batch_norm.running_var is not None:
            layer.set_gaussian(batch_norm.running_mean, batch_norm.running_var)
        return layer

    @property
    def mixture(self) -> Mixture:
        """The stored mixture: weights ``(K,)`` or ``(K, C)``, means and variances ``(K, C)``."""
        return Mixture(self.mixture_weights, self.mixture_means, self.mixture_variances)

    @property
    def stale(self) -> bool:
        """Whether batches were queued after the last refit: the stored mixture does not know them."""
        return self.queue.stale

    @one_node
    def forward(self, input: Tensor) -> Tensor:
        """Normalize.

        Args:
            input: ``(N, C)`` or ``(N, C, *)``, floating point.

        Returns:
            Tensor of the input's shape, dtype and memory format.

        Raises:
            ValueError: another rank, channel count or dtype; in training, fewer than two rows.
        """
        check_input(self.label, input, self.num_features)
        processes = all_processes() if self.sync and self.training else ALONE
        if is_empty(input) and processes.size == 1:
            return unchanged(input, self.parameters())
        mixture: Mixture | FitOptions = self.mixture
        tracked = self.training and self.track_running_stats and not is_recomputing()
        if self.training:
            if processes.size == 1:
                check_rows(self.label, input)
            if tracked:
                check_updatable(self.label, input, self.num_batches_tracked)
                self.num_batches_tracked.add_(1)
            step = self.num_batches_tracked
            mixture = FitOptions(self.n_components, self.em_iters, step, self.fit_rows)
        elif not self._warned and not torch.compiler.is_compiling():
            self._warn_if_stale()
        weight = self.weight if self.log_weight is None else self.log_weight.exp()
        affine = self.affine or "output"
        options = NormOptions(self.training, self.eps, affine, self.scale, self.activation, self.min_weight)
        y, finite = normalize(input, mixture, weight, self.bias, options, self.granularity, processes)
        if tracked:
            self.queue.push(input, step, finite)
        return y

    def _warn_if_stale(self) -> None:
        """Say so once; layers of one model say the same, so one is shown.

        A look at the queue waits for the device. So there is one when its count was written to: by a batch, or from
        outside, as averages of weights write into the copy that they keep.
        """
        pushes = self.queue.pushes
        if _has_no_value(pushes) or self._looked_at == (written := (id(pushes), pushes._version)):
            return
        self._looked_at = written
        self._warned = self.stale
        if self._warned:
            warnings.warn(
                "MixtureNorm evaluates with a mixture from before its last training batches; call "
                "mn_lightning.refit_mixtures(model) before you evaluate (for an average of weights, "
                "update_norms(average, batches)), or train with GMMRefitCallback",
                stacklevel=2,
            )

    @torch.no_grad()
    def refit(self) -> bool:
        """Fit the stored mixture to the queue.

        Components come in the order of those of the mixture before, so that an average of mixtures over a training,
        as exponential moving averages of weights take it, is one of like components.

        Under torch.distributed, to the queues of all processes, whatever ``sync`` is: every process must call it, and
        all end with the same mixture.

        Returns:
            Whether the mixture is new. With fewer than two rows it stays as it is; so it does, with a warning, if the
            rows are so large that their variance is not finite.
        """
        processes = all_processes()
        rows = self.queue.draw(self.queue_decay, self.num_batches_tracked)
        # A common step, because all must make the same random choices.
        count, step = processes.sum(torch.tensor(len(rows), device=rows.device), self.num_batches_tracked)
        if count < 2:
            return False
        options = (self.eps, self.granularity)
        iterations = self.em_iters if self.refit_iters is None else self.refit_iters
        fitted = fit_mixture(rows, self.n_components, iterations, step, *options, processes)
        stored = mixture_moments(rows, fitted, *options, self.min_weight, processes)
        self.queue.mark_fitted()
        if not all(value.isfinite().all() for value in stored):
            warnings.warn(
                f"{self.label} was not refitted, and keeps its mixture: the values of its recent "
                "batches are too large for a finite variance; look for what makes them so large, or standardize the "
                "data",
                stacklevel=2,
            )
            return False
        if (self.mixture_weights > 0).sum(0).max() > 1:
            stored = aligned(stored, self.mixture)
        for buffer, value in zip(self.mixture, stored, strict=True):
            buffer.copy_(value)
        return True

    def reset_queue(self) -> None:
        """Empty the queue; the stored mixture stays."""
        self.queue.reset()

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        fault = mixture_fault(state_dict.get(f"{prefix}mixture_{name}") for name in Mixture._fields)
        if fault:
            error_msgs.append(
                f"{prefix}mixture has {fault}; a mixture takes finite values, weights >= 0 that add up to 1 and "
                "variances >= 0: the file was changed or damaged, load another."
            )
            return
        # What is queued was made by the weights that are being replaced: a refit must not mix the two.
        self.reset_queue()
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def extra_repr(self) -> str:
        """Return what distinguishes the layer, in torch's form."""
        text = f"{self.num_features}, n_components={self.n_components}, em_iters={self.em_iters}, eps={self.eps}"
        defaults: dict[str, Any] = {"affine": "output", "granularity": "layer", "scale": "sqrt", "activation": None}
        defaults |= {"fit_rows": None, "sync": False}
        for name, default in defaults.items():
            value = getattr(self, name)
            if value != default and not isinstance(value, nn.Module):
                text += f", {name}={value!r}"
        return text


def _has_no_value(tensor: Tensor) -> bool:
    """Whether a number must not be asked for: of tracers, transforms and inference mode, or while a graph is made."""
    return (
        type(tensor) is not Tensor
        or tensor.is_meta
        or tensor.is_inference()
        or torch._C._are_functorch_transforms_active()
        or torch._C._is_tracing()
        or torch._C._len_torch_dispatch_stack() > 0
        or (tensor.is_cuda and torch.cuda.is_current_stream_capturing())
    )
