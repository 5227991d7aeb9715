"""Two nodes on one machine, started as on a cluster: torchrun once on each."""

import os
from pathlib import Path

import pytest
import torch
from helpers.forked import FORKING, TESTS, Forked, kill_group, path_of_tests
from helpers.trainer_cases import fit
from torch.distributed import run as torchrun

pytestmark = [pytest.mark.slow, pytest.mark.processes]


def test_two_nodes_train_as_one_process(tmp_path: Path) -> None:
    # A file instead of a port: nothing else on the machine can have taken it.
    argv = [
        *("torchrun", "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d"),
        *("--rdzv-conf", "store_type=file", f"--rdzv-endpoint={tmp_path / 'rendezvous'}", "--local-addr=127.0.0.1"),
        *(*FORKING, str(TESTS / "helpers" / "node_case.py"), str(tmp_path)),
    ]
    environment = {
        **os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "PYTHONPATH": path_of_tests()
    }  # fmt: skip
    logs = [tmp_path / f"node{node}.log" for node in range(2)]
    nodes = [Forked(torchrun.main, argv=argv, log=log, environment=environment) for log in logs]
    try:
        codes = [node.wait(240) for node in nodes]
    finally:
        for node in nodes:
            kill_group(node)
    assert codes == [0, 0], "".join(log.read_text()[-2000:] for log in logs)
    alone = fit(0, tmp_path / "alone")["state"]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name, value in alone.items():
        assert torch.equal(first[name], second[name]), name
        if "mixture_" not in name:  # the queues hold other rows of the batches
            torch.testing.assert_close(first[name], value, rtol=1e-4, atol=1e-4, msg=name)
