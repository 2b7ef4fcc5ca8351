"""An error that a user can do something about ends a run with its sentence, not with what lies between.

MONAI says of any error that a component "failed to instantiate", and names the cause in the middle of its traceback.
"""

from __future__ import annotations

import sys
from types import TracebackType

_MEANT = (ValueError, OSError, ImportError)  # what this package raises on purpose


def tell_errors() -> None:
    """Let this process end with one sentence where this package raised the error on purpose, else as ever."""
    sys.excepthook = _tell


def _tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, _MEANT) and _raised_here(cause.__traceback__):
        print(f"error: {cause}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def _raised_here(trace: TracebackType | None) -> bool:
    module = ""
    while trace is not None:
        module, trace = str(trace.tb_frame.f_globals.get("__name__")), trace.tb_next
    return module.partition(".")[0] == __name__.partition(".")[0]
