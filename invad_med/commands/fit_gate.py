"""Give a model that was trained before there were any a limit beyond which images are unfamiliar to it.

Nothing is trained: the limit is fitted on the normal images that the model learnt from and those that were held out,
which must be there. Models that are trained now have one.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import torch

from invad_med.data.provenance import Provenance
from invad_med.data.slices import ReadError
from invad_med.detection import load_detector
from invad_med.features.cached import cached_features
from invad_med.files import data_digest, whole_file
from invad_med.networks.checkpoints import half_precision, read_checkpoint
from invad_med.scoring import Familiarity
from invad_med.scoring.familiarity import LEAST_HELD_OUT, LEAST_TRAIN
from invad_med.training.cohort import Cohort, read_cohort

logger = logging.getLogger(__name__)

EXAMPLES = """\
  python -m invad_med fit-gate models/brain.pt BMAD/Brain
  python -m invad_med fit-gate models/brain.pt BMAD/Brain --output gated/brain.pt --cache_dir features
"""


def fit_gate(model: Path, dataset_dir: Path, output: Path | None = None, cache_dir: Path | None = None) -> Path:
    """Write a checkpoint again, with the limit fitted on its data set; nothing else of it is changed.

    Args:
        model: the checkpoint.
        dataset_dir: what it was trained on, in any of BMAD's layouts.
        output: file to write; ``model`` itself if None.
        cache_dir: folder of cached features, made if need be.

    Returns:
        The file written.

    Raises:
        FileNotFoundError, ValueError: no such checkpoint; the folder holds other images than those it was trained on,
            or too few.
        ReadError: an image cannot be read.
    """
    detector = load_detector(model)
    cohort = _cohort(dataset_dir, detector.provenance)
    images = [*cohort.train, *cohort.held_out]
    raw = cached_features(detector.host, images, cohort.modality, cache_dir)
    gate = Familiarity().fit(raw[: len(cohort.train)], raw[len(cohort.train) :])
    if not gate.fitted:
        raise ValueError(
            f"{len(cohort.train)} training and {len(cohort.held_out)} held-out normal images are too few for a limit: "
            f"at least {LEAST_TRAIN} and {LEAST_HELD_OUT}"
        )
    state = read_checkpoint(model) | half_precision({f"familiarity.{k}": v for k, v in gate.state_dict().items()})
    path = output or model
    with whole_file(path) as partial:
        torch.save(state, partial)
    return path


def _cohort(dataset_dir: Path, stated: Provenance) -> Cohort:
    division = {"held_out_fraction": stated.held_out_fraction, "seed": stated.seed}
    given = {name: value for name, value in division.items() if value is not None}
    cohort = read_cohort(dataset_dir, stated.modality, **given)  # type: ignore[arg-type]
    found = data_digest([*cohort.train, *cohort.held_out])
    if found != stated.data_digest:
        raise ValueError(
            f"the normal images of {dataset_dir} are not those that the model was trained with (digest {found}, not "
            f"{stated.data_digest or 'stated'}): give the folder that it was trained on"
        )
    if len(cohort.train) != stated.train_images:
        logger.warning(
            "%d of the images count as learnt from, while the model states %s: they are divided otherwise, by another "
            "manifest.csv or version",
            len(cohort.train),
            stated.train_images,
        )
    return cohort


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take the model, its data set, and where to write."""
    parser.add_argument("model", metavar="MODEL", type=Path, help="checkpoint of a trained model")
    parser.add_argument("dataset_dir", metavar="DATASET", type=Path, help="what it was trained on, in BMAD's layout")
    parser.add_argument("--output", metavar="FILE", type=Path, help="checkpoint to write (MODEL itself)")
    parser.add_argument("--cache_dir", metavar="DIR", type=Path, help="keep features here")


def run(options: argparse.Namespace) -> int:
    """Fit the limit and write the checkpoint."""
    try:
        path = fit_gate(options.model, options.dataset_dir, options.output, options.cache_dir)
    except (ValueError, ReadError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"model written to {path}: images beyond its limit will be listed as unfamiliar")
    return 0
