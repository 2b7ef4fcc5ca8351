"""Log an evaluation that is on disk but in no store: ``python -m invad_med.tracking.log_again OUTPUT_DIR``."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from invad_med.evaluation.tracker import TrackingError
from invad_med.tracking.log import log_run
from invad_med.tracking.record import RunRecord
from invad_med.tracking.store import Store

COMMAND = "python -m invad_med.tracking.log_again"
FAILED = 3  # exit status where the store fails


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


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; the status is 3 where the store fails."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="Log an evaluation in MLflow that is not there yet.")
    parser.add_argument("output_dir", type=Path, help="output folder of configs/evaluate.json")
    parser.add_argument("--tracking_uri", help="server or store; default: the evaluation's")
    parser.add_argument("--experiment_name", help="default: the evaluation's")
    options = parser.parse_args(argv)
    try:
        log_again(options.output_dir, options.tracking_uri, options.experiment_name)
    except TrackingError as error:
        print(error, file=sys.stderr)
        return FAILED
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
