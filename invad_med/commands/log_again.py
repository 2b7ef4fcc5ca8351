"""Log in MLflow an evaluation that could not be logged when it was made.

The run is what it would have been then: figures, parameters, tables and report are read from the output folder, and
nothing is measured again. The exit status is 3 where the store fails still.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from invad_med.evaluation.run import INCOMPLETE
from invad_med.evaluation.tracker import TrackingError
from invad_med.tracking.log_again import log_again

EXAMPLES = """\
  python -m invad_med log-again output/evaluate
  python -m invad_med log-again output/evaluate --tracking_uri https://mlflow.example --experiment_name mine
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take the folder of the results, and another place to log them."""
    parser.add_argument("output_dir", metavar="DIR", type=Path, help="output folder of evaluate.json")
    parser.add_argument("--tracking_uri", metavar="URI", help="server or store; default: the evaluation's")
    parser.add_argument("--experiment_name", metavar="NAME", help="default: the evaluation's")


def run(options: argparse.Namespace) -> int:
    """Log it."""
    try:
        log_again(options.output_dir, options.tracking_uri, options.experiment_name)
    except TrackingError as error:
        print(f"error: {error}", file=sys.stderr)
        return INCOMPLETE
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
