"""Choose on which machines runs execute, how many at the same time, and with which share of a machine."""

import logging
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import joblib
import torch

from mn_lightning.compare.runs.supervise import Slot
from mn_lightning.compare.study.study import StudyError

if TYPE_CHECKING:
    from distributed import Client

Backend = Literal["local", "ray", "dask"]
ALONE = 1
"""The default number of runs at the same time."""

CORES_OF_A_RUN = 2
"""CPU cores for each run, with ``--jobs auto`` and without a GPU."""

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True)
class Request:
    """The options about machines.

    Attributes:
        jobs: runs at the same time; None for as many as there is room for.
        gpus_per_job: GPUs of each run, or its share of one.
        backend: this machine, or the engine of a cluster.
        address: of the cluster.
    """

    jobs: int | None = ALONE
    gpus_per_job: float | None = None
    backend: Backend = "local"
    address: str | None = None


@dataclass(frozen=True)
class Engine:
    """What executes runs.

    Attributes:
        label: its description for people.
        jobs: runs at the same time.
        joblib: arguments of :func:`joblib.parallel_config`.
        environment: environment variables for the runs' processes.
        slots: shares of this machine, one for each of ``jobs``; none on a cluster.
        on_every_worker: calls a function on each worker and returns the results; None on this machine.
    """

    label: str
    jobs: int
    joblib: dict[str, Any]
    environment: dict[str, str]
    slots: tuple[Slot, ...] = ()
    on_every_worker: Callable[[Callable[[], str]], list[str]] | None = field(default=None, compare=False)


@contextmanager
def connect(request: Request) -> Iterator[Engine]:
    """Yield the requested engine, and close the connection to its cluster at the end.

    Raises:
        StudyError: there is no such engine, or it does not have the requested resources.
    """
    if request.backend == "local":
        if request.address is not None:
            raise StudyError(f"--address {request.address} is for a cluster; give --backend ray or --backend dask too")
        yield local_engine(request, sorted(_cores()), _visible_gpus())
    elif request.backend == "ray":
        with _ray(request) as engine:
            yield engine
    else:
        with _dask(request) as engine:
            yield engine


# --- this machine -------------------------------------------------------------------------------------------------


def local_engine(request: Request, cores: list[int], gpus: list[str]) -> Engine:
    """Divide this machine among runs.

    Each run gets cores of its own. Its number of threads is the same for any number of jobs: with another number, sums
    are rounded differently, and results would depend on ``--jobs``. It is ``OMP_NUM_THREADS``, or the number of all
    cores.

    Args:
        request: the options about machines.
        cores: those that this process may use.
        gpus: names as in ``CUDA_VISIBLE_DEVICES``.

    Raises:
        StudyError: there are not enough GPUs.
    """
    share = request.gpus_per_job
    if share is None and gpus and request.jobs != ALONE:
        share = 1.0
    if share is not None and not gpus:
        raise StudyError(f"--gpus_per_job {share:g} is given, and this machine has no GPU; leave it out")
    places = [] if share is None else _gpu_places(gpus, share)
    jobs = request.jobs or len(places) or max(1, len(cores) // CORES_OF_A_RUN)
    if share is not None and jobs > len(places):
        raise StudyError(
            f"--jobs {jobs} with {share:g} GPU for each needs more than the {len(gpus)} of this machine; take --jobs "
            f"{len(places)}, or a smaller --gpus_per_job"
        )
    threads = os.environ.get("OMP_NUM_THREADS") or str(len(cores))
    environment = {**dict.fromkeys(_THREADS, threads), "MKL_DYNAMIC": "FALSE"}
    slots = tuple(
        Slot(tuple(_share_of(cores, number, jobs)), places[number] if places else None) for number in range(jobs)
    )
    return Engine("this machine", jobs, {"backend": "loky", "n_jobs": jobs}, environment, slots)


def _gpu_places(gpus: list[str], share: float) -> list[str]:
    """Return the GPUs for each slot."""
    if share >= 1:
        if share != int(share):
            raise StudyError(f"--gpus_per_job {share:g} is given; above 1 it takes whole numbers")
        each = int(share)
        return [",".join(gpus[i : i + each]) for i in range(0, len(gpus) - each + 1, each)]
    on_one = math.floor(1 / share + 1e-9)
    return [gpu for gpu in gpus for _ in range(on_one)]


def _share_of(cores: list[int], number: int, jobs: int) -> list[int]:
    """Return the cores of a slot, in shares as equal as possible; if cores are fewer than slots, slots share them."""
    start, end = number * len(cores) // jobs, (number + 1) * len(cores) // jobs
    return cores[start : max(end, start + 1)]


def _cores() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _visible_gpus() -> list[str]:
    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",")[:count] if visible else [str(number) for number in range(count)]


# --- clusters -----------------------------------------------------------------------------------------------------


def _jobs_and_cores(request: Request, nodes: list[tuple[int, float]]) -> tuple[int, int]:
    """Return how many runs a cluster executes at the same time, and how many cores each run gets.

    Args:
        request: the options about machines.
        nodes: CPUs and GPUs of each node.

    Raises:
        StudyError: the cluster has too few CPUs or GPUs.
    """
    share = request.gpus_per_job or 0.0
    by_gpu = sum(math.floor(gpus / share + 1e-9) for _, gpus in nodes) if share else None
    jobs = request.jobs or (max(1, sum(cpus for cpus, _ in nodes) // CORES_OF_A_RUN) if by_gpu is None else by_gpu)
    if by_gpu is not None and (jobs > by_gpu or not jobs):
        raise StudyError(
            f"--gpus_per_job {share:g} leaves place for {by_gpu} runs on the cluster; take fewer --jobs, or a smaller "
            "--gpus_per_job"
        )
    cores = max(1, sum(cpus for cpus, _ in nodes) // jobs)
    while cores > 1 and sum(cpus // cores for cpus, _ in nodes) < jobs:
        cores -= 1
    places = sum(cpus // cores for cpus, _ in nodes)
    if places < jobs:
        raise StudyError(f"--jobs {jobs} is given; the cluster has {places} CPUs, one for each run; take fewer jobs")
    return jobs, cores


def _cluster_environment(cores: int) -> dict[str, str]:
    return dict.fromkeys(_THREADS, os.environ.get("OMP_NUM_THREADS") or str(cores))


@contextmanager
def _ray(request: Request) -> Iterator[Engine]:
    try:
        import ray
    except ImportError:
        raise StudyError("--backend ray needs Ray; pip install 'mn-lightning[ray]'") from None
    from mn_lightning.compare.runs.ray_backend import RayTasks, on_every_node

    address = request.address or "auto"
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise StudyError(f"no Ray cluster answers at {address}: {' '.join(str(error).split())}") from error
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        jobs, cores = _jobs_and_cores(request, [(int(node.get("CPU", 0)), node.get("GPU", 0.0)) for node in nodes])
        joblib.register_parallel_backend("mn_lightning_ray", RayTasks)
        options = {"num_cpus": cores, "num_gpus": request.gpus_per_job or 0}
        config = {"backend": "mn_lightning_ray", "n_jobs": jobs, "options": options}
        label = f"a Ray cluster of {len(nodes)} nodes"
        yield Engine(label, jobs, config, _cluster_environment(cores), on_every_worker=on_every_node)
    finally:
        ray.shutdown()


@contextmanager
def _dask(request: Request) -> Iterator[Engine]:
    try:
        from distributed import Client
    except ImportError:
        raise StudyError("--backend dask needs Dask; pip install 'mn-lightning[dask]'") from None
    from mn_lightning.compare.runs.dask_backend import DaskTasks

    if request.address is None:
        raise StudyError("--backend dask takes the scheduler's --address, such as tcp://host:8786")
    try:
        client = Client(request.address, timeout=20, set_as_default=False)
    except (OSError, ValueError) as error:
        raise StudyError(f"no Dask scheduler answers at {request.address}: {' '.join(str(error).split())}") from error
    with client:
        workers = _dask_workers(client)
        nodes = [(worker["nthreads"], worker["resources"].get("GPU", 0.0)) for worker in workers]
        jobs, cores = _jobs_and_cores(request, nodes)
        joblib.register_parallel_backend("mn_lightning_dask", DaskTasks)
        config: dict[str, Any] = {"backend": "mn_lightning_dask", "n_jobs": jobs, "client": client}
        if request.gpus_per_job:
            config["resources"] = {"GPU": request.gpus_per_job}
        label = f"a Dask cluster of {len(workers)} workers"
        environment = _cluster_environment(cores)
        yield Engine(label, jobs, config, environment, on_every_worker=lambda f: list(client.run(f).values()))


def _dask_workers(client: "Client") -> list[dict[str, Any]]:
    try:
        client.wait_for_workers(1, timeout=20)
    except TimeoutError:
        raise StudyError("the Dask scheduler has no worker; start one with dask worker ADDRESS") from None
    return list(client.scheduler_info(n_workers=-1)["workers"].values())
