"""What each process of two torchrun "nodes" runs: ``torchrun ... node_case.py FOLDER``."""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from helpers.trainer_cases import fit


def main(folder: Path) -> None:
    rank = int(os.environ["RANK"])
    torch.set_num_threads(1)
    found: dict[str, Any] = fit(rank, folder / str(rank), 2, swap={"sync": True}, torchrun=True, num_nodes=2)
    torch.save(found["state"], folder / f"{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
