"""Memory of a process that runs for weeks."""

from __future__ import annotations

import ctypes
import os

_M_ARENA_MAX = -8  # of glibc's malloc.h


def share_arenas(number: int = 2) -> bool:
    """Let all threads allocate from a few pools, and return whether the C library does so.

    glibc gives new threads pools of their own, up to eight for each core, and a pool keeps what was freed in it: with
    threads for every study and association, memory grows for hours before it stays. To be called before threads start;
    a ``MALLOC_ARENA_MAX`` in the environment is left as it is.
    """
    if "MALLOC_ARENA_MAX" in os.environ or os.name != "posix":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and mallopt(_M_ARENA_MAX, number) == 1
