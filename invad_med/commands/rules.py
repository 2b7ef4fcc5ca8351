"""Which rule makes an image's score of an end point best, on trained models.

The rules are those of `invad_med.evaluation.rules`, measured on every data set by its own model: chosen by ``valid``,
whose normal images are the ones that this model's training held out.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from invad_med.data.bmad import BmadDataset, inspect_tree
from invad_med.data.provenance import Provenance
from invad_med.data.slices import ReadError
from invad_med.detection import load_detector
from invad_med.evaluation.models_of import choose_checkpoint, modality_of
from invad_med.evaluation.rules import Measured, Reached, measure_rules, table
from invad_med.evaluation.run import INCOMPLETE
from invad_med.evaluation.truth import read_truth
from invad_med.files import data_digest
from invad_med.training.artefact import SHARED
from invad_med.training.cohort import Cohort, read_cohort

EXAMPLES = """\
  python -m invad_med rules BMAD --models_dir output/all/models
  python -m invad_med rules BMAD --models_dir models --cache_dir features --rows 5
"""


def cohort_of(dataset_dir: Path, provenance: Provenance) -> Cohort:
    """Return the division of a data set that a model was trained with.

    Raises:
        ValueError: the folder is not divided as the model states, or holds other images, so that those it was trained
            on cannot be told.
    """
    stated = {"held_out_fraction": provenance.held_out_fraction, "seed": provenance.seed}
    options = {name: value for name, value in stated.items() if value is not None}
    cohort = read_cohort(dataset_dir, provenance.modality, **options)  # type: ignore[arg-type]
    here, there = (len(cohort.train), len(cohort.held_out)), (provenance.train_images, _held_out(provenance))
    if here != there:
        raise ValueError(
            f"the model states {there[0]} training and {there[1]} held-out normal images, the folder divides into "
            f"{here[0]} and {here[1]}: it was trained on other images or another share, so that those it has seen "
            "cannot be told from those it has not"
        )
    if provenance.data_digest and data_digest([*cohort.train, *cohort.held_out]) != provenance.data_digest:
        raise ValueError(
            "the normal images of the folder are as many as the model was trained with, and others: give the folder "
            "that it was trained on"
        )
    return cohort


def _held_out(provenance: Provenance) -> int | None:
    """Return how many normal images a training held out: for calibration, for selection, or for both at once."""
    calibration, selection = provenance.held_out_images, provenance.selection_images
    if calibration is None:
        return None
    if provenance.cross_fit_folds:  # each image learnt from was held out once, by one of the other trainings
        calibration -= provenance.train_images or 0
    shared = selection is None or provenance.note == SHARED
    return calibration if shared else calibration + (selection or 0)


def measure(
    dataset: BmadDataset, models_dir: str | Path, cache_dir: str | Path | None
) -> dict[tuple[str, str], tuple[tuple[str, ...], Reached]]:
    """Return what every rule reaches on one data set: (timesteps, rule) -> (its parts, figures).

    Raises:
        FileNotFoundError, ValueError: a folder with problems, no model for it or one that was trained on others,
            or a split without both classes.
        ReadError: an image cannot be read.
    """
    if dataset.problems:
        raise ValueError(dataset.refusal())
    modality = modality_of(dataset, None, False, None)
    detector = load_detector(choose_checkpoint(modality.name, None, models_dir, False))
    cohort = cohort_of(dataset.root, detector.provenance)
    truth = read_truth(dataset, "test", modality)
    return measure_rules(detector, cohort.train, cohort.held_out, cohort.abnormal, truth, cache_dir)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take data sets and models."""
    parser.add_argument("dataset_dir", metavar="ROOT", type=Path, help="folder of data sets in BMAD's layout")
    parser.add_argument("--models_dir", metavar="DIR", type=Path, required=True, help="folder of <data set>.pt")
    parser.add_argument("--cache_dir", metavar="DIR", type=Path, help="keep features here")
    parser.add_argument("--rows", type=int, default=20, help="pairs to show (%(default)s)")


def run(options: argparse.Namespace) -> int:
    """Measure every rule on every data set, and print the best."""
    rules: dict[tuple[str, str], Measured] = {}
    left_out: dict[str, str] = {}
    for dataset in tqdm(inspect_tree(options.dataset_dir), unit="data set"):
        name = dataset.root.resolve().name
        try:
            for key, (parts, reached) in measure(dataset, options.models_dir, options.cache_dir).items():
                rules.setdefault(key, Measured(parts)).reached[name] = reached
        except (ValueError, FileNotFoundError, ReadError) as error:
            left_out[name] = str(error)
    if rules:
        print(table(rules, options.rows))
    for name, reason in left_out.items():
        print(f"{name} is left out: {reason}", file=sys.stderr)
    return INCOMPLETE if left_out else 0
