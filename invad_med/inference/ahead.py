"""Decoding and networks in one thread, beside writing in another: `ahead` of who asks, `Behind` who hands on."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")
AHEAD = 8  # slices that are scored before those before them are written
_END = object()


def ahead(items: Iterable[T], count: int) -> Generator[T]:
    """Yield ``items`` in order, which a thread of its own goes through up to ``count`` items ahead.

    An error of that thread is raised where its item would come. Left early, the thread stops at its next item.

    Args:
        items: gone through in the thread alone.
        count: at least 1.
    """
    ready: queue.Queue[object] = queue.Queue(count)
    stopped = threading.Event()
    failed: list[BaseException] = []

    def hand_on(item: object) -> None:
        while not stopped.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                hand_on(item)
                if stopped.is_set():
                    return
        except BaseException as error:
            failed.append(error)
        hand_on(_END)

    thread = threading.Thread(target=work, name="ahead", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not _END:
            yield item  # type: ignore[misc]
        if failed:
            raise failed[0]
    finally:
        stopped.set()
        thread.join()


class Behind(Generic[T]):
    """Hands items to a function that a thread of its own calls, in order, up to ``count`` items behind.

    Args:
        take: the function; after an error it is not called again.
        count: at least 1.
    """

    def __init__(self, take: Callable[[T], object], count: int) -> None:
        self._take, self._waiting = take, queue.Queue[object](count)
        self._failed: list[BaseException] = []
        self._thread = threading.Thread(target=self._work, name="behind", daemon=True)
        self._thread.start()

    def put(self, item: T) -> None:
        """Hand on an item.

        Raises:
            BaseException: that the function raised of an earlier one.
        """
        self._waiting.put(item)
        if self._failed:
            raise self._failed[0]

    def close(self) -> None:
        """Wait until all items are taken.

        Raises:
            BaseException: that the function raised.
        """
        self._waiting.put(_END)
        self._thread.join()
        if self._failed:
            raise self._failed[0]

    def _work(self) -> None:
        while (item := self._waiting.get()) is not _END:
            try:
                if not self._failed:
                    self._take(item)  # type: ignore[arg-type]
            except BaseException as error:
                self._failed.append(error)
