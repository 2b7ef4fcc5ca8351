"""Compare two runs on the same images, paired: ``python -m invad_med.commands.compare RUN_A RUN_B``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from invad_med.evaluation.tables import verdict
from invad_med.metrics.bootstrap import Figure, paired_difference


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
                    f"{file_a.parent.name}: the runs differ in images, groups, split or draws and cannot be paired; "
                    "evaluate both with the same data, --split, --resamples and --seed"
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


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m invad_med.commands.compare", description="Compare two runs.")
    parser.add_argument("run_a", type=Path, help="output folder of configs/evaluate.json")
    parser.add_argument("run_b", type=Path, help="another, on the same images")
    parser.add_argument("--score", default="calibrated", help="default: %(default)s")
    options = parser.parse_args(argv)
    print(compare_runs(options.run_a, options.run_b, options.score).to_string(index=False, float_format="%.4f"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
