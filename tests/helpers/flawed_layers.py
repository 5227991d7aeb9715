"""Layers that lack one property each, to see that its test notices."""

import torch
from helpers.layers import AnyBatchNorm, Case
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable

from mn_lightning import MixtureNorm, ModeGroupNorm, ModeNorm
from mn_lightning.kernels import select


class Float32Output(ModeGroupNorm):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).float()


class LoweredByAutocast(AnyBatchNorm):
    def forward(self, input: Tensor) -> Tensor:
        identity = torch.eye(input.shape[1], dtype=input.dtype)
        return super().forward((input.movedim(1, -1) @ identity).movedim(-1, 1))


class Contiguous(AnyBatchNorm):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).contiguous()


class IgnoresStrides(AnyBatchNorm):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.as_strided(input.shape, torch.empty(input.shape, device="meta").stride()))


class DividesByTheSamples(ModeGroupNorm):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * (len(input) * (1 / len(input)))


class NotPicklable(AnyBatchNorm):
    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.function = lambda x: x


class StateOutsideTheStateDict(AnyBatchNorm):
    calls = 0

    def forward(self, input: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(input) * self.calls


class BufferOnTheCPU(AnyBatchNorm):
    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.register_buffer("count", torch.zeros(1, device="cpu"))


class LooksAtAValue(ModeGroupNorm):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) if input.sum() < 1e9 else input


class KeepsItsParameter(ModeGroupNorm):
    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.kept = (self.bias,)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + self.kept[0].sum()


class DependsOnTheRank(ModeNorm):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + 1e-3 * (distributed.get_rank() if distributed.is_initialized() else 0)


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: object, inputs: object, output: object) -> None:
        pass

    @staticmethod
    @once_differentiable
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return grad


class DifferentiableOnce(ModeGroupNorm):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(_Once.apply(input))


class OtherNumbersOnTheCPU(ModeGroupNorm):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * (1.001 if select._named.get() == "cpu" else 1)


class DrawsFromTheGlobalGenerator(ModeGroupNorm):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + 1e-3 * torch.rand(1)


class CountsEvaluations(AnyBatchNorm):
    def forward(self, input: Tensor) -> Tensor:
        self.num_batches_tracked.add_(1)
        return super().forward(input)


class AlwaysInTheGraph(ModeGroupNorm):
    def forward(self, input: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            return super().forward(input.clone())


class TakesEverything(nn.Module):
    def __init__(self, num_features: int) -> None:
        super().__init__()

    def forward(self, input: Tensor) -> Tensor:
        return input


class NaNGradient(MixtureNorm):
    def forward(self, input: Tensor) -> Tensor:
        y = super().forward(input)
        if y.requires_grad:
            y.register_hook(lambda grad: grad * torch.nan)
        return y


FLAWED = {
    "autocast": LoweredByAutocast,
    "backends": OtherNumbersOnTheCPU,
    "checkpointing": AnyBatchNorm,  # which counts a batch twice
    "compile": LooksAtAValue,
    "copies": NotPicklable,
    "dtype": Float32Output,
    "empty_input": DividesByTheSamples,
    "evaluation": CountsEvaluations,
    "export": LooksAtAValue,
    "functional_call": KeepsItsParameter,
    "memory_format": Contiguous,
    "meta_device": BufferOnTheCPU,
    "no_waiting": LooksAtAValue,
    "refused_input": TakesEverything,
    "repeatable": DrawsFromTheGlobalGenerator,
    "second_derivative": DifferentiableOnce,
    "state_dict": StateOutsideTheStateDict,
    "strides": IgnoresStrides,
    "sync": DependsOnTheRank,
    "torchs_inputs": NaNGradient,
    "transforms": DifferentiableOnce,
    "without_gradients": AlwaysInTheGraph,
}
"""One for each file of ``tests/layers/properties``: the layer that it has to find fault with."""
ROWS = {f"flawed {name}": Case(kind, flaw=name) for name, kind in FLAWED.items()}
