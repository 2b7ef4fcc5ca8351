"""Train, calibrate and evaluate every data set under a folder.

One after the other, each as train.json trains it, then all in one evaluation: one table, one report, one MLflow parent
run. A run that was cut goes on with the same command. A model that is there stays only if its training is the one
asked for: one of other keys or other images is refused, the differences are named, and nothing is evaluated. A data
set that cannot be trained is named at the end, the others are done, and the exit status is 3.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from invad_med.bundle import run_config
from invad_med.commands.arguments import add_output_dir, add_root, keys_of
from invad_med.data.bmad import inspect_tree
from invad_med.data.modalities import how_to_state
from invad_med.evaluation.run import INCOMPLETE
from invad_med.options.check import WRONG
from invad_med.training.earlier import why_not_of

EXAMPLES = """\
  python -m invad_med train-all BMAD --output_dir output/all
  python -m invad_med train-all BMAD --train "--preset small --steps 20000" --evaluate "--baselines no"
"""


def train_and_evaluate(dataset_dir: Path, output_dir: Path, overrides: Sequence[str], evaluate: Sequence[str]) -> int:
    """Run all, and return the exit status: 0, 3 if some data set could not be trained or evaluated, 2 for wrong keys.

    Args:
        dataset_dir: folder of data sets, each of another modality, stated by its manifest or its name.
        output_dir: ``models/<modality>.pt``, ``train/<modality>``, ``features`` and ``evaluate`` are made in it.
        overrides: of ``train.json``, such as ``["--steps", "500"]``.
        evaluate: of ``evaluate.json``.
    """
    failed: dict[str, str] = {}
    refused: list[str] = []  # data sets whose model is there and is not the one asked for
    trees = inspect_tree(dataset_dir)
    shown = Counter(tree.modality.name for tree in trees if tree.modality)
    for tree in trees:
        name = tree.root.resolve().name if tree.root != dataset_dir else tree.name
        if tree.problems or tree.modality is None:
            failed[name] = str(tree.problems[0]) if tree.problems else f"nothing says what it shows: {how_to_state()}"
            continue
        if shown[tree.modality.name] > 1:
            failed[name] = f"several data sets show {tree.modality.name}, which has one model: train each alone"
            continue
        model = output_dir / "models" / f"{tree.modality.name}.pt"
        output, there = output_dir / "train" / tree.modality.name, model.exists()
        reason = why_not_of(model, output / "last.pt") if there else None
        if reason:
            failed[name] = reason
            refused.append(name)
            continue
        given = {"dataset_dir": tree.root, "output_dir": output, "ckpt_path": model}
        status = run_config("train.json", {**given, "cache_dir": output_dir / "features"}, overrides)
        if status == WRONG:
            return status  # the same words are as wrong for the next one
        if status:
            failed[name] = f"training ended with status {status}"
            refused += [name] if there else []
    status = 0
    if not refused:
        given = {"dataset_dir": dataset_dir, "output_dir": output_dir / "evaluate", "models_dir": output_dir / "models"}
        status = run_config("evaluate.json", {**given, "cache_dir": output_dir / "features"}, evaluate)
    for name, reason in failed.items():
        print(f"{name} was not trained: {reason}", file=sys.stderr)
    if refused:
        print(
            f"nothing was evaluated: the models of {', '.join(refused)} in {output_dir / 'models'} are of other "
            'trainings; give another --output_dir, or --train "--resume False" to train all anew',
            file=sys.stderr,
        )
    return status or (INCOMPLETE if failed else 0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take the folder, where results go, and keys of both configurations."""
    add_root(parser)
    add_output_dir(parser, "output/all", "models and report")
    parser.add_argument(
        "--train",
        type=keys_of("train.json", "dataset_dir", "output_dir", "ckpt_path"),
        default="",
        metavar='"KEYS"',
        help='keys of train.json in one word: --train "--steps 500"',
    )
    parser.add_argument(
        "--evaluate",
        type=keys_of("evaluate.json", "dataset_dir", "output_dir", "models_dir"),
        default="--baselines True",
        metavar='"KEYS"',
        help='keys of evaluate.json in one word ("%(default)s")',
    )


def run(options: argparse.Namespace) -> int:
    """Train and measure."""
    return train_and_evaluate(options.dataset_dir, options.output_dir, options.train, options.evaluate)
