"""Fits of several processes that hold the parameters between them."""

from pathlib import Path
from typing import Any

from helpers.trainer_cases import fit
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from mn_lightning.models import ImageClassifier


class Sharded(ImageClassifier):
    """Shards each layer, swapped ones too: the swap comes before ``configure_model``."""

    def configure_model(self) -> None:
        assert self.device_mesh is not None
        mesh = self.device_mesh["data_parallel"]
        for layer in self.network:
            if any(True for _ in layer.parameters()):
                fully_shard(layer, mesh=mesh)
        fully_shard(self.network, mesh=mesh)


def sharded_fits(rank: int, folder: Path, norms: list[str]) -> dict[str, Any]:
    found = {}
    for norm in norms:
        strategy = ModelParallelStrategy(
            data_parallel_size=2,
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            process_group_backend="gloo",
        )
        swap = {} if norm == "mode_group" else {"sync": True}
        found[norm] = fit(
            rank, folder / norm, 2, norm, swap, strategy=strategy, model_class=Sharded, precision="32-true"
        )
        state = found[norm]["state"]
        found[norm]["sharded"] = sorted(name for name, value in state.items() if isinstance(value, DTensor))
        found[norm]["state"] = {name: whole(value) for name, value in state.items()}
    return found


def whole(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value
