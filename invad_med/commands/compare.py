"""Compare two evaluations of the same images: RUN_A - RUN_B of every figure, with a paired interval and a verdict.

Both are output folders of evaluate.json with the same data, split, resamples and seed; what differs is the model.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from invad_med.evaluation.tables import verdict
from invad_med.metrics.bootstrap import Figure, paired_difference

EXAMPLES = """\
  python -m invad_med compare output/a output/b
  python -m invad_med compare output/a output/b --score paper
"""


def compare_runs(run_a: str | Path, run_b: str | Path, score: str = "calibrated") -> pd.DataFrame:
    """Return a - b of every figure of every data set that both runs have, with the paired 95 % interval.

    Args:
        run_a, run_b: output folders of configs/evaluate.json.
        score: which score of both.

    Raises:
        ValueError: no data set in common, or one whose images, groups or draws differ.
    """
    rows = []
    for file_a in sorted(Path(run_a).glob("*/replicates.npz")):
        file_b = Path(run_b) / file_a.parent.name / file_a.name
        if not file_b.is_file():
            continue
        with np.load(file_a) as a, np.load(file_b) as b:
            if str(a["cohort"]) != str(b["cohort"]):
                raise ValueError(
                    f"{file_a.parent.name}: the runs differ in images, masks, groups, split or draws and cannot be "
                    "paired; evaluate both with the same data, --split, --resamples and --seed"
                )
            for key in a.files:
                kind, _, name = key.partition("/")
                if kind == score and key in b.files and not name.endswith("threshold"):
                    first, second = (Figure(float(x[key][0]), None, None) for x in (a, b))
                    d = paired_difference(first, second, a[key][1:], b[key][1:])
                    rows.append((file_a.parent.name, name, d.value, d.low, d.high, verdict(d)))
    if not rows:
        raise ValueError(f"{run_a} and {run_b} have no figure of the score {score!r} on a common data set")
    return pd.DataFrame(rows, columns=["dataset", "figure", "difference", "low", "high", "verdict"])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take two runs and a score."""
    parser.add_argument("run_a", metavar="RUN_A", type=Path, help="output folder of evaluate.json")
    parser.add_argument("run_b", metavar="RUN_B", type=Path, help="another, on the same images")
    parser.add_argument("--score", default="calibrated", help="which score of both (%(default)s)")


def run(options: argparse.Namespace) -> int:
    """Print the differences."""
    try:
        table = compare_runs(options.run_a, options.run_b, options.score)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table.to_string(index=False, float_format="%.4f"))
    return 0
