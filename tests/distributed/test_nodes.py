"""Two nodes on one machine, started as on a cluster: torchrun once on each."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.trainer_cases import fit

pytestmark = [pytest.mark.slow, pytest.mark.processes]
TESTS = Path(__file__).parents[1]


def test_two_nodes_train_as_one_process(tmp_path: Path) -> None:
    # A file instead of a port: nothing else on the machine can have taken it.
    command = [
        sys.executable,
        *("-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d"),
        *("--rdzv-conf", "store_type=file", f"--rdzv-endpoint={tmp_path / 'rendezvous'}", "--local-addr=127.0.0.1"),
        *(str(TESTS / "helpers" / "node_case.py"), str(tmp_path)),
    ]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    paths = [str(TESTS), str(TESTS.parent), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    logs = [(tmp_path / f"node{node}.log").open("w+") for node in range(2)]
    nodes = [subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT) for log in logs]
    try:
        codes = [node.wait(240) for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    for log in logs:
        log.seek(0)
    assert codes == [0, 0], "".join(log.read()[-2000:] for log in logs)
    alone = fit(0, tmp_path / "alone")["state"]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name, value in alone.items():
        assert torch.equal(first[name], second[name]), name
        if "mixture_" not in name:  # the queues hold other rows of the batches
            torch.testing.assert_close(first[name], value, rtol=1e-4, atol=1e-4, msg=name)
