"""Train a model whose thresholds rest on all normal images of a data set, by K more trainings.

Trains as train.json does, then once more for each of K parts of the images learnt from, without that part
(whole groups). The model is the first; every normal image, scored by the network that did not learn from it, is a
reference of its p-values and thresholds. The scores of K + 1 networks are comparable, each standardised on its own
training images, but not exactly exchangeable. A run that was cut goes on with the same command; a training that is
there with other keys is refused, and the differences are named.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from invad_med.bundle import run_config
from invad_med.commands.overrides import overrides as keys_of
from invad_med.files import whole_file
from invad_med.networks.checkpoints import read_checkpoint

EXAMPLES = """\
  python -m invad_med cross-fit BMAD/Brain --output_dir output/brain --folds 5
  python -m invad_med cross-fit BMAD/Brain --train "--steps 500 --cache_dir 'my cache'"
"""


def cross_fit(dataset_dir: Path, output_dir: Path, folds: int, overrides: Sequence[str]) -> int:
    """Train K + 1 models and write the first with the references of all to ``output_dir/<data set>.pt``.

    Args:
        dataset_dir: one data set in BMAD's layout.
        output_dir: ``whole``, ``fold-1`` to ``fold-K`` and ``features`` are made in it.
        folds: K, at least 2, at most the groups of training images.
        overrides: keys of ``train.json``, such as ``["--steps", "500"]``.

    Returns:
        0, or the status of the training that failed.
    """
    parts: dict[str, list[str]] = {"whole": []} | {f"fold-{k}": ["--fold", f"{k}/{folds}"] for k in range(1, folds + 1)}
    for name, fold in parts.items():
        given = {"dataset_dir": dataset_dir, "output_dir": output_dir / name, "ckpt_path": output_dir / f"{name}.pt"}
        status = run_config("train.json", {**given, "cache_dir": output_dir / "features"}, [*overrides, *fold])
        if status:
            return status
    whole, *others = (read_checkpoint(output_dir / f"{name}.pt") for name in parts)
    model = pool_references(whole, others)
    path = output_dir / f"{model['_extra_state']['modality']}.pt"
    with whole_file(path) as partial:
        torch.save(model, partial)
    count = model["_extra_state"]["held_out_images"]
    print(f"model written to {path}: {count} normal images support rates from {1 / (count + 1):.2g} on")
    return 0


def pool_references(whole: dict[str, Any], others: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return a calibrated detector's state dict whose references are those of several, ascending.

    Args:
        whole: state dict of the detector to keep.
        others: state dicts calibrated for the same score, each on other normal images.
    """
    pooled = dict(whole)
    for name in ("calibration.reference", "calibration.map_reference"):
        pooled[name] = torch.cat([state[name] for state in (whole, *others)]).sort().values
    held_out = len(pooled["calibration.reference"])
    pooled["_extra_state"] = whole["_extra_state"] | {"held_out_images": held_out, "cross_fit_folds": len(others)}
    return pooled


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take the data set, where models go, K, and keys of the trainings."""
    parser.add_argument("dataset_dir", metavar="DATASET", type=Path, help="one data set in BMAD's layout")
    parser.add_argument(
        "--output_dir",
        metavar="DIR",
        type=Path,
        default=Path("output/cross_fit"),
        help="for models (%(default)s)",
    )
    parser.add_argument("--folds", metavar="K", type=_folds, default=5, help="trainings without a part (%(default)s)")
    parser.add_argument(
        "--train",
        type=keys_of("train.json", "dataset_dir", "output_dir", "ckpt_path", "fold"),
        default="",
        metavar='"KEYS"',
        help='keys of train.json in one word: --train "--steps 500"',
    )


def run(options: argparse.Namespace) -> int:
    """Train K + 1 models and pool their references."""
    return cross_fit(options.dataset_dir, options.output_dir, options.folds, options.train)


def _folds(word: str) -> int:
    folds = int(word)
    if folds < 2:
        raise argparse.ArgumentTypeError(f"{folds} must be at least 2")
    return folds
