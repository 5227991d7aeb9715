"""Runs on a Ray cluster of two nodes and on a Dask cluster of two workers, one of which is killed in mid-run.

Both clusters are started here, on the loopback device.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.cluster_cases import (
    checkpoint,
    environment,
    processes_of_runs,
    start,
    wait_until,
    write_waiting_study,
)
from helpers.forked import kill_group

pytestmark = [pytest.mark.slow, pytest.mark.processes, pytest.mark.clusters, pytest.mark.timeout(1800)]


def finish_with_a_lost_node(arguments: list[str], kill_the_second: Any, printed: str) -> None:
    """Two runs on two nodes; one node is lost, and its run goes on from its checkpoint on the other."""
    write_waiting_study()
    process = start("--jobs", "2", *arguments)
    try:
        wait_until(lambda: checkpoint("A").exists() and checkpoint("B").exists())
        assert len(processes_of_runs()) == 2
        kill_the_second()
        wait_until(lambda: len(processes_of_runs()) == 1)
        Path("go").touch()
        assert process.wait(800) == 0, Path("printed.txt").read_text()
    finally:
        kill_group(process)
    assert printed in Path("printed.txt").read_text()
    logs = [Path(f"studies/mine/runs/{name}/seed-0/log.txt").read_text() for name in "AB"]
    assert sum("Restoring states from the checkpoint" in log for log in logs) == 1
    for name in "AB":
        folder = Path(f"studies/mine/runs/{name}/seed-0")
        assert json.loads((folder / "outcome.json").read_text())["status"] == "finished"
        assert len((folder / "metrics.csv").read_text().splitlines()) == 3
    assert not list(Path("studies/mine").glob(".*"))
    wait_until(lambda: not processes_of_runs(), 10)


@pytest.fixture(scope="module")
def dask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list["subprocess.Popen[bytes]"]]]:
    """A scheduler's address, and two workers."""
    pytest.importorskip("dask.distributed")
    module = [sys.executable, "-m", "distributed.cli"]
    folder = tmp_path_factory.mktemp("dask")
    address_file = folder / "scheduler.json"
    log = (folder / "log.txt").open("ab")
    options: dict[str, Any] = {
        "env": environment(),
        "cwd": folder,
        "start_new_session": True,
        "stdout": log,
        "stderr": log,
    }
    scheduler = [f"{module[2]}.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    worker = [f"{module[2]}.dask_worker", "--scheduler-file", str(address_file), "--nthreads", "1", "--no-nanny"]
    started = [
        subprocess.Popen([*module[:2], *scheduler, "--scheduler-file", str(address_file)], **options),
        *(subprocess.Popen([*module[:2], *worker, "--no-dashboard"], **options) for _ in range(2)),
    ]
    try:
        wait_until(address_file.exists)
        yield json.loads(address_file.read_text())["address"], started[1:]
    finally:
        for process in started:
            kill_group(process)
        log.close()


def test_a_signal_ends_a_run_on_a_cluster(dask: tuple[str, list["subprocess.Popen[bytes]"]]) -> None:
    write_waiting_study(("A",))
    process = start("--jobs", "2", "--backend", "dask", "--address", dask[0])
    try:
        wait_until(checkpoint("A").exists)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        kill_group(process)
    wait_until(lambda: not processes_of_runs(), 15)


def test_a_folder_that_workers_do_not_share_is_said(dask: tuple[str, list["subprocess.Popen[bytes]"]]) -> None:
    """A worker on a machine that has another folder in that place: nothing is trained."""
    from mn_lightning.compare.runs.engines import Request, connect
    from mn_lightning.compare.runs.jobs import probe
    from mn_lightning.compare.study.study import StudyError

    with connect(Request(1, None, "dask", dask[0])) as engine:
        assert engine.on_every_worker is not None
        shared = Path("shared").absolute()
        shared.mkdir()
        probe(engine, shared)
        assert not list(shared.iterdir())
        answers: Any = engine.on_every_worker
        elsewhere = Path("elsewhere").absolute()
        elsewhere.mkdir()

        def without_the_folder(function: Any) -> list[str]:
            (question,) = elsewhere.iterdir()
            question.unlink()
            return list(answers(function))

        object.__setattr__(engine, "on_every_worker", without_the_folder)
        with pytest.raises(StudyError, match=r"elsewhere is not on storage that all workers share .*No such file"):
            probe(engine, elsewhere)


def test_a_dask_cluster_that_loses_a_worker(dask: tuple[str, list["subprocess.Popen[bytes]"]]) -> None:
    """The last test with this cluster, which has one worker then."""
    address, workers = dask
    arguments = ["--backend", "dask", "--address", address]
    finish_with_a_lost_node(arguments, lambda: kill_group(workers[1]), "a Dask cluster of 2 workers shares")


@pytest.fixture
def ray() -> Iterator[tuple[str, Any]]:
    """A cluster's address, and a function that kills the second node."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    before = dict(os.environ)
    os.environ.update(environment(RAY_DISABLE_IMPORT_WARNING="1"))
    # Ray takes 127.0.0.1 for a name of the machine's other address.
    options = {"num_cpus": 1, "node_ip_address": "127.0.0.2", "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={**options, "object_store_memory": 100_000_000})
    try:
        second = cluster.add_node(num_cpus=1, node_ip_address="127.0.0.2", object_store_memory=100_000_000)
        cluster.wait_for_nodes()
        yield cluster.address, lambda: cluster.remove_node(second, allow_graceful=False)
    finally:
        cluster.shutdown()
        os.environ.clear()
        os.environ.update(before)


def test_a_ray_cluster_that_loses_a_node(ray: tuple[str, Any]) -> None:
    address, kill = ray
    finish_with_a_lost_node(["--backend", "ray", "--address", address], kill, "a Ray cluster of 2 nodes shares")
