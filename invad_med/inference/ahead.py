"""What one thread makes while another uses it: decoding and networks beside writing."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

T = TypeVar("T")
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
