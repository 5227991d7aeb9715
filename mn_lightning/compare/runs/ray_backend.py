"""Execute runs as tasks of a Ray cluster, through joblib.

Ray's own backend for joblib gives tasks to a fixed pool of workers in turn. Workers are idle when tasks differ in
length, and everything fails when one worker is lost. Here each run is a Ray task: it waits for free CPUs and GPUs on
any node, and moves to another node if its own is lost.
"""

from collections.abc import Callable
from typing import Any

import ray
from joblib import ParallelBackendBase
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mn_lightning.compare.runs.supervise import LOST

RETRIES = 3
"""How often a run that lost its node is started on another one."""


class RayTasks(ParallelBackendBase):  # type: ignore[misc]
    """Execute joblib's tasks as Ray tasks.

    Args:
        options: of :func:`ray.remote`, such as ``num_cpus``.
        **arguments: of joblib's backend.
    """

    supports_retrieve_callback = True
    supports_return_generator = True

    def __init__(self, options: dict[str, Any] | None = None, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.options = options or {}
        self.parallel: Any = None

    def effective_n_jobs(self, n_jobs: int) -> int:
        """Return at least 2: with one task at a time, joblib would execute it here, and not on the cluster."""
        return max(2, n_jobs)

    def configure(self, n_jobs: int = 1, parallel: Any = None, **_: Any) -> int:
        """Prepare for a call of Parallel."""
        self.parallel = parallel
        return self.effective_n_jobs(n_jobs)

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], None] | None = None) -> Any:
        """Give a task to Ray, and call back at its end."""
        reference = ray.remote(max_retries=RETRIES, **self.options)(_call).remote(func)
        future = reference.future()
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def retrieve_result_callback(self, out: Any) -> Any:
        """Return the result. A task that loses its nodes again and again does not stop other tasks."""
        try:
            return out.result()
        except RayError:
            return [LOST]


def on_every_node(function: Callable[[], str]) -> list[str]:
    """Call a function on each node."""
    remote = ray.remote(num_cpus=0)(_call)
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    strategies = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
    results: list[str] = ray.get(
        [remote.options(scheduling_strategy=strategy).remote(function) for strategy in strategies]
    )
    return results


def _call(function: Callable[[], Any]) -> Any:
    return function()
