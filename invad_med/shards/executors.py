"""Who runs workers: processes of this machine here, Ray in `invad_med.shards.on_ray`; and how they are looked after."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Protocol

from invad_med.shards.lease import holder_of
from invad_med.shards.work import Work
from invad_med.shards.worker import Job, ended_over, free, work

logger = logging.getLogger(__name__)

_LOOK, _WAIT = 0.5, 5.0  # seconds between looks, and before a worker is tried again that had nothing to do
_IN_VAIN = 5  # workers lost in a row, for each that is to run, with nothing done


@dataclass(frozen=True)
class End:
    """How a worker ended.

    Args:
        lost: in a word, how it was lost; empty of one that found nothing left to do, or failed.
        error: why nothing can be scored, or empty.
    """

    lost: str = ""
    error: str = ""


class Worker(Protocol):
    """A worker that was started."""

    def end(self) -> End | None:
        """Return how it ended, None while it works."""

    def stop(self) -> None:
        """End it; what it has in hand is given free."""


class WorkerError(RuntimeError):
    """A worker says why nothing can be scored, or workers end before they score anything."""


def look_after(
    start: Callable[[Job], Worker], job: Job, workers: int, said: Callable[[int], object] = lambda slices: None
) -> None:
    """Keep workers at work until all shards of a job are scored; one that is lost is replaced.

    Shards that another run has in hand are waited for.

    Args:
        start: starts one.
        job: what is to be done.
        workers: how many at once, at least 1.
        said: told now and then how many slices are done, of shards that were not when this began.

    Raises:
        WorkerError: see there.
    """
    place = Work(job.folder)
    shards = place.undone(job.shards)
    running: list[Worker] = []
    in_vain, before, wait = 0, (0, 0), 0.0
    try:
        while undone := place.undone(shards):
            said(_slices(place, shards, undone))
            if len(running) < min(workers, len(undone)) and time.monotonic() >= wait:
                if free(place, undone):
                    running.append(start(job))
                else:
                    wait = time.monotonic() + _WAIT
            time.sleep(_LOOK)
            for worker in list(running):
                if (end := worker.end()) is None:
                    continue
                running.remove(worker)
                if end.error:
                    raise WorkerError(end.error)
                if not end.lost:  # nothing is left that nobody has
                    wait = time.monotonic() + _WAIT
                    continue
                now = len(undone), sum(len(ended_over(place, shard)) for shard in undone)
                in_vain, before = 0 if now != before else in_vain + 1, now
                if in_vain >= _IN_VAIN * workers:
                    raise WorkerError(
                        f"{in_vain} workers in a row were lost with nothing done ({end.lost}): is there memory for "
                        "them? Try fewer"
                    )
                logger.warning("a worker was lost (%s) and is replaced", end.lost)
        said(_slices(place, shards, []))
    finally:
        for worker in running:
            worker.stop()


def _slices(place: Work, shards: list[int], undone: list[int]) -> int:
    """Return how many slices of some shards are done: those of what is scored, and what holders of the others say."""
    left = set(undone)
    done = sum(place.index.slices(shard) for shard in shards if shard not in left)
    in_hand = (holder_of(place.lease(shard)) for shard in undone)
    return done + sum(holder.slices for holder in in_hand if holder)


class Process:
    """A worker that is a process of this machine, which ends with the one that started it.

    Args:
        job: what it works at.
        threads: for the networks of one worker.
    """

    def __init__(self, job: Job, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._words, words = context.Pipe(duplex=False)
        self._error = ""
        self._process = context.Process(target=_child, args=(job, words), name="invad-med worker")
        with _threads(threads):
            self._process.start()
        words.close()

    @property
    def pid(self) -> int | None:
        """Its number."""
        return self._process.pid

    def end(self) -> End | None:
        """See `Worker`."""
        with contextlib.suppress(EOFError, OSError):
            if self._words.poll():
                self._error = self._words.recv()
        code = self._process.exitcode
        if code is None:
            return None
        how = "" if code == 0 or self._error else signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return End(how, self._error)

    def stop(self) -> None:
        """See `Worker`."""
        self._process.terminate()
        self._process.join(30)
        self._process.kill()
        self._process.join()


def _child(job: Job, words: Connection) -> None:
    """Work in a process of its own; say why nothing can be scored, if that is so."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    try:
        work(job)
    except KeyboardInterrupt:  # the parent has it too
        sys.exit(0)
    except Exception as error:
        words.send(said_of(error))
        sys.exit(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(30)
    os._exit(1)


def said_of(error: Exception) -> str:
    """Return an error that ends a run in a sentence; of one that was not meant its class alone, for identity's sake."""
    if isinstance(error, OSError) and error.strerror:
        name = f": {error.filename}" if error.filename else ""
        return f"{error.strerror}{name}"
    if isinstance(error, ValueError | RuntimeError | FileNotFoundError):
        return str(error)
    return f"a worker failed ({type(error).__name__})"


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let processes that are started within use so many threads, unless the user says otherwise."""
    stated = os.environ.get("OMP_NUM_THREADS")
    os.environ.setdefault("OMP_NUM_THREADS", str(count))
    try:
        yield
    finally:
        if stated is None:
            del os.environ["OMP_NUM_THREADS"]
