"""Train a model whose thresholds rest on all normal images of a data set, by K more trainings.

Trains as train.json does, then once more for each of K parts of the images learnt from, without that part
(whole groups) and with the rule and inversion that the first chose. The model is the first; every normal image, scored
by the network that did not learn from it, is a reference of its p-values and thresholds. The scores of K + 1 networks
are comparable, each standardised on its own training images, but not exactly exchangeable. A run that was cut goes on
with the same command; a training that is there with other keys is refused, and the differences are named.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from invad_med.bundle import run_config
from invad_med.commands.arguments import add_output_dir, keys_of
from invad_med.files import whole_file
from invad_med.networks.checkpoints import read_checkpoint
from invad_med.scoring.studies import StudyCalibration

EXAMPLES = """\
  python -m invad_med cross-fit BMAD/Brain --output_dir output/brain --folds 5
  python -m invad_med cross-fit BMAD/Brain --train "--steps 500 --cache_dir 'my cache'"
"""
_STUDIES = "studies._extra_state"
_SCORE = "calibration._extra_state"  # what a checkpoint's references are of


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

    def train(name: str, keys: Sequence[str] = ()) -> int:
        given = {"dataset_dir": dataset_dir, "output_dir": output_dir / name, "ckpt_path": output_dir / f"{name}.pt"}
        return run_config("train.json", {**given, "cache_dir": output_dir / "features"}, [*overrides, *keys])

    status = train("whole")
    if status:
        return status
    whole = read_checkpoint(output_dir / "whole.pt")
    names = [f"fold-{k}" for k in range(1, folds + 1)]
    for k, name in enumerate(names, 1):
        status = train(name, ["--fold", f"{k}/{folds}", *score_keys(whole)])
        if status:
            return status
    model = pool_references(whole, [read_checkpoint(output_dir / f"{name}.pt") for name in names])
    path = output_dir / f"{model['_extra_state']['modality']}.pt"
    with whole_file(path) as partial:
        torch.save(model, partial)
    count = model["_extra_state"]["held_out_images"]
    print(f"model written to {path}: {count} normal images support rates from {1 / (count + 1):.2g} on")
    return 0


def score_keys(state: Mapping[str, Any]) -> list[str]:
    """Return keys of ``train.json`` that fix the score to that of a calibrated detector's state dict.

    A training that chose its own rule and inversion would leave references of another score.
    """
    score = state[_SCORE]
    timesteps = json.dumps(score["timesteps"]).replace("null", "None")
    return ["--rule", score["score"], "--inferer#timesteps", timesteps, "--other_timesteps", "[]"]


def pool_references(whole: dict[str, Any], others: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return a calibrated detector's state dict whose references are those of several, ascending, patients too.

    Args:
        whole: state dict of the detector to keep.
        others: state dicts calibrated for the same score, each on other normal images.

    Raises:
        ValueError: one is calibrated for another score.
    """
    for state in others:
        if state[_SCORE] != whole[_SCORE]:
            raise ValueError(
                f"references of {state[_SCORE]} are no references of {whole[_SCORE]}: the trainings must have one rule "
                "and one inversion"
            )
    pooled = dict(whole)
    for name in ("calibration.reference", "calibration.map_reference"):
        pooled[name] = torch.cat([state[name] for state in (whole, *others)]).sort().values
    studies = [StudyCalibration() for _ in (whole, *others)]
    for part, state in zip(studies, (whole, *others), strict=True):
        part.take_state(state.get(_STUDIES, {}))  # trained earlier: none
    pooled[_STUDIES] = studies[0].pool(studies[1:]).to_state()
    held_out = len(pooled["calibration.reference"])
    pooled["_extra_state"] = whole["_extra_state"] | {"held_out_images": held_out, "cross_fit_folds": len(others)}
    return pooled


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take the data set, where models go, K, and keys of the trainings."""
    parser.add_argument("dataset_dir", metavar="DATASET", type=Path, help="one data set in BMAD's layout")
    add_output_dir(parser, "output/cross_fit", "models")
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
