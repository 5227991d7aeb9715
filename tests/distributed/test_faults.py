"""Processes that die, and what is left."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from killed_case import fit

pytestmark = [pytest.mark.slow, pytest.mark.processes]
TESTS = Path(__file__).parents[1]
KILLS = int(os.environ.get("MN_KILLS", "4"))
"""Twenty in a nightly run."""


def environment() -> dict[str, str]:
    paths = [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
    }


@pytest.mark.timeout(300 + 60 * KILLS)
def test_killed_at_random_moments(tmp_path: Path) -> None:
    chance = random.Random(0)
    command = [sys.executable, str(TESTS / "killed_case.py"), str(tmp_path / "run")]
    steps = []
    for kill in range(KILLS + 1):
        process = subprocess.Popen(
            command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        try:
            assert process.stdout is not None
            assert "starts\n" in iter(process.stdout.readline, "")
            if kill < KILLS:
                # As soon as it has saved once, a moment later: in a step, a refit or a save.
                seen = set((tmp_path / "run").glob("step=*.ckpt"))
                deadline = time.monotonic() + 60
                while set((tmp_path / "run").glob("step=*.ckpt")) == seen and process.poll() is None:
                    assert time.monotonic() < deadline
                    time.sleep(0.001)
                time.sleep(chance.uniform(0, 0.2))
            else:
                assert process.wait(120) == 0
        finally:
            process.kill()
            process.communicate()
        checkpoints = list((tmp_path / "run").glob("*.ckpt"))
        assert checkpoints
        steps.append(max(torch.load(path, weights_only=True)["global_step"] for path in checkpoints))
    assert steps == sorted(steps)
    assert steps[0] < steps[-1]
    expected = fit(tmp_path / "whole")
    for name, value in torch.load(tmp_path / "run" / "weights.pt").items():
        if "mixture_" not in name:  # the queue starts anew in a process
            assert torch.equal(value, expected[name]), name


def test_a_process_that_raises_ends_the_job(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [str(TESTS / "raising_case.py"), str(tmp_path)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "as a user's code may" in done.stderr
