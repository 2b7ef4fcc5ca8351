"""Log an evaluation that is on disk but in no store; `invad_med.commands.log_again` is its command."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from invad_med.tracking.log import log_run
from invad_med.tracking.record import RunRecord
from invad_med.tracking.store import Store

COMMAND = "python -m invad_med log-again"  # what a user types who is told that nothing was logged


def log_again(output_dir: str | Path, tracking_uri: str | None = None, experiment_name: str | None = None) -> str:
    """Log what an evaluation left behind as it would have been logged then, and return the parent run's id.

    Args:
        output_dir: of the evaluation; it holds ``evaluation.json``.
        tracking_uri: where to; as the evaluation was given it if None.
        experiment_name: as the evaluation was given it if None.

    Raises:
        FileNotFoundError, ValueError: there is no such record, or it is damaged.
        TrackingError: the address holds a password, the store fails, or the experiment was deleted.
    """
    folder = Path(output_dir)
    record = RunRecord.read(folder)
    if experiment_name is not None:
        record = dataclasses.replace(record, experiment_name=experiment_name)
    store = Store.choose(tracking_uri or record.tracking_uri, folder)
    store.ask(record.experiment_name)
    return log_run(record, folder, store)
