"""A call in a process of its own: codecs that end their process on damaged data must not end the run.

The child is a fork, so that nothing is imported or sent there; what the call returns or raises comes back. Where there
is no fork (Windows) the call is made here.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import pickle
import signal
import threading
from collections.abc import Callable
from typing import Any

FAILED = "the codec broke off"
_LONGEST = 600.0  # seconds


def apart(call: Callable[[], Any]) -> Any:
    """Return what ``call`` returns, or raise what it raises, without its being able to end this process.

    Args:
        call: without arguments; what it returns is copied from one process to the other.

    Raises:
        RuntimeError: its process ended before it returned, or lasted ten minutes; or it raised what cannot be copied.
    """
    if not hasattr(os, "fork"):
        return call()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        _answer(call, read, write)
    os.close(write)
    stop = threading.Timer(_LONGEST, os.kill, (child, signal.SIGKILL))
    stop.start()
    try:
        with os.fdopen(read, "rb") as answers:
            answer = answers.read()
    finally:
        stop.cancel()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)
    if not answer.endswith(b"."):  # the last byte of a pickle that is whole
        raise RuntimeError(FAILED)
    good, value = pickle.loads(answer)
    if not good:
        raise value
    return value


def _answer(call: Callable[[], Any], read: int, write: int) -> None:
    """Make the call in the child, write its outcome as a pickle, and end without what Python does at its end."""
    try:
        for number in (signal.SIGTERM, signal.SIGINT):  # the parent's handlers are not the child's
            with contextlib.suppress(ValueError):  # in a thread none can be set
                signal.signal(number, signal.SIG_DFL)
        faulthandler.disable()
        os.close(read)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)  # codecs say there that they break off
        with os.fdopen(write, "wb") as out:
            out.write(_outcome(call))
    finally:
        os._exit(0)


def _outcome(call: Callable[[], Any]) -> bytes:
    try:
        return pickle.dumps((True, call()), protocol=5)
    except Exception as error:
        try:
            content = pickle.dumps((False, error))
            pickle.loads(content)
            return content
        except Exception:
            return pickle.dumps((False, RuntimeError(str(error))))
    except BaseException as error:  # of codecs in Rust: no Exception
        return pickle.dumps((False, RuntimeError(type(error).__name__)))
