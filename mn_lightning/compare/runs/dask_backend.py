"""Execute runs as tasks of a Dask cluster, through joblib."""

from collections.abc import Callable
from typing import Any

from joblib._dask import DaskDistributedBackend

from mn_lightning.compare.runs.supervise import LOST


class DaskTasks(DaskDistributedBackend):  # type: ignore[misc]
    """Joblib's backend for Dask, in which a task that loses its workers again and again does not stop other tasks."""

    def effective_n_jobs(self, n_jobs: int) -> Any:
        """Return at least 2: with one task at a time, joblib would execute it here, and not on the cluster."""
        return max(2, super().effective_n_jobs(n_jobs))

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], None] | None = None) -> Any:
        """Give a task to Dask, and call back at its end; joblib's own backend calls back only if there is no error."""
        future = super().submit(func, callback)

        def call_back(ended: Any) -> None:
            if callback is not None and ended.exception() is not None:
                callback(LOST)

        future.add_done_callback(call_back)
        return future

    def retrieve_result_callback(self, out: Any) -> Any:
        """Return the result."""
        return [LOST] if out is LOST else super().retrieve_result_callback(out)
