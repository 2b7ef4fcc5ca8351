"""Workers as tasks of Ray, which starts them where there is room; whether one is lost is our affair, not Ray's.

Ray repeats the work of a lost worker without limit unless it is told not to, and its checkpoints and writers know less
of what is done than our shards: so a task is never repeated by Ray, and what is done is what is committed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from invad_med.shards.executors import End, said_of
from invad_med.shards.worker import Job, work

try:
    import ray
    from ray.exceptions import RayError, RayTaskError
except ImportError as error:
    raise ImportError('--executor ray needs Ray: pip install "invad-med[ray]"') from error


@contextmanager
def cluster(workers: int) -> Iterator[None]:
    """Connect to the cluster that ``RAY_ADDRESS`` names, or start one on this machine, and leave it at the end.

    Args:
        workers: how many find room on this machine.

    Raises:
        ConnectionError: the cluster is not there.
    """
    address = os.environ.get("RAY_ADDRESS")
    cores, dashboard = (None, None) if address else (workers, False)
    ray.init(address, num_cpus=cores, include_dashboard=dashboard, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield
    except RayError as error:
        raise ConnectionError(f"Ray cannot be reached any more ({type(error).__name__})") from None
    finally:
        ray.shutdown()


class Task:
    """A worker that is a task of Ray.

    Args:
        job: what it works at; the working folder and the images lie on storage that all machines see.
        threads: for its networks.
    """

    def __init__(self, job: Job, threads: int) -> None:
        self._end = ray.remote(num_cpus=1, max_retries=0)(_task).remote(job, threads)

    def end(self) -> End | None:
        """See `invad_med.shards.executors.Worker`."""
        ready, _ = ray.wait([self._end], timeout=0)
        if not ready:
            return None
        try:
            return End(error=ray.get(self._end))
        except RayTaskError as error:
            return End(error=f"a worker failed ({type(error.cause).__name__})")
        except RayError as error:
            return End(lost=type(error).__name__)

    def stop(self) -> None:
        """See `invad_med.shards.executors.Worker`."""
        ray.cancel(self._end)


def _task(job: Any, threads: int) -> str:
    """Work; return why nothing can be scored, or nothing."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    try:
        work(job)
        return ""
    except Exception as error:
        return said_of(error)
