"""Train, calibrate and evaluate every data set under a folder: ``python -m invad_med.commands.train_all ROOT``.

One after the other, each as ``configs/train.json`` trains it, then all in one evaluation: one table, one report, one
MLflow parent run. A run that was cut goes on with the same command; a data set that cannot be trained is named at the
end and the others are done.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from invad_med.bundle import run_config
from invad_med.data.bmad import inspect_tree
from invad_med.evaluation.run import INCOMPLETE


def train_and_evaluate(dataset_dir: Path, output_dir: Path, overrides: Sequence[str], evaluate: Sequence[str]) -> int:
    """Run all, and return the exit status: 0, or 3 if some data set could not be trained or evaluated.

    Args:
        dataset_dir: folder of data sets, each named as the table of data sets knows it.
        output_dir: ``models/<data set>.pt``, ``train/<data set>``, ``features`` and ``evaluate`` are made in it.
        overrides: of ``train.json``, such as ``["--steps", "500"]``.
        evaluate: of ``evaluate.json``.
    """
    failed: dict[str, str] = {}
    for tree in inspect_tree(dataset_dir):
        name = tree.root.resolve().name if tree.root != dataset_dir else tree.name
        if tree.problems or tree.modality is None:
            failed[name] = str(tree.problems[0]) if tree.problems else "its name is none of the table of data sets"
            continue
        model = output_dir / "models" / f"{tree.modality.name}.pt"
        if model.exists():
            print(f"{name}: {model} is there already, not trained again", flush=True)
            continue
        given = {"dataset_dir": tree.root, "output_dir": output_dir / "train" / tree.modality.name, "ckpt_path": model}
        status = run_config("train.json", {**given, "cache_dir": output_dir / "features"}, overrides)
        if status:
            failed[name] = f"training ended with status {status}"
    given = {"dataset_dir": dataset_dir, "output_dir": output_dir / "evaluate", "models_dir": output_dir / "models"}
    status = run_config("evaluate.json", {**given, "cache_dir": output_dir / "features"}, evaluate)
    for name, reason in failed.items():
        print(f"{name} was not trained: {reason}", file=sys.stderr)
    return status or (INCOMPLETE if failed else 0)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; what follows ``--train`` or ``--evaluate`` overrides keys of that configuration."""
    parser = argparse.ArgumentParser(
        prog="python -m invad_med.commands.train_all",
        description="Train, calibrate and evaluate every data set under a folder, into one table and one report.",
    )
    parser.add_argument("dataset_dir", type=Path, help="folder of data sets in any of BMAD's layouts")
    parser.add_argument("--output_dir", type=Path, default=Path("output/all"), help="default: %(default)s")
    parser.add_argument("--train", default="", help='keys of train.json in one word: --train "--steps 500"')
    parser.add_argument("--evaluate", default="--baselines True", help='of evaluate.json; default: "%(default)s"')
    options = parser.parse_args(argv)
    return train_and_evaluate(options.dataset_dir, options.output_dir, options.train.split(), options.evaluate.split())


if __name__ == "__main__":
    raise SystemExit(main())
