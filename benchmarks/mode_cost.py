"""What ModeNorm costs beside BatchNorm, where Deecke et al. say it.

They have 5% more runtime for LeNet with K = 6, and less than 1% more parameters for Network in Network with K = 2
(Sections 4.1 and 4.2).

    python -m benchmarks.mode_cost [REPEATS]

Training steps of LeNet in batches of 128, SGD, the two norms in turn in one process: median, and the ratio.
"""

import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

from mn_lightning import swap_norms
from mn_lightning.models import LeNet, NetworkInNetwork

BATCH = 128


def parameters(network: nn.Module) -> int:
    """Count."""
    return sum(parameter.numel() for parameter in network.parameters())


def swapped(network: nn.Module, components: int) -> nn.Module:
    """Give all norms of ``network`` so many modes."""
    swap_norms(network, "all", "mode", n_components=components)
    return network


def step(network: nn.Module, optimizer: torch.optim.Optimizer, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Train one batch, and return the seconds."""
    start = time.perf_counter()
    optimizer.zero_grad()
    F.cross_entropy(network(images), labels).backward()
    optimizer.step()
    return time.perf_counter() - start


def main(repeats: int = 60) -> None:
    """Print parameters and seconds."""
    print(f"{torch.get_num_threads()} CPU threads, torch {torch.__version__}, {repeats} steps each")
    for name, make, components in (("LeNet", LeNet, 6), ("NetworkInNetwork", NetworkInNetwork, 2)):
        plain, modes = parameters(make()), parameters(swapped(make(), components))
        print(f"{name}, K = {components}: {modes - plain} parameters more than {plain}, {(modes - plain) / plain:.2%}")
    torch.manual_seed(0)
    images, labels = torch.randn(BATCH, 3, 32, 32), torch.randint(0, 40, (BATCH,))
    networks = {"BatchNorm": LeNet(), "ModeNorm, K = 6": swapped(LeNet(), 6)}
    optimizers = {name: torch.optim.SGD(network.parameters(), lr=0.01) for name, network in networks.items()}
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    for turn in range(repeats + 5):
        for name, network in networks.items():
            taken = step(network, optimizers[name], images, labels)
            if turn >= 5:
                seconds[name].append(taken)
    for name, values in seconds.items():
        print(f"LeNet, {name}: {1000 * statistics.median(values):.2f} ms a step")
    ratios = [mode / batch for batch, mode in zip(*seconds.values(), strict=True)]
    print(f"median ratio {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
