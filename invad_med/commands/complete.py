"""Give a model that was trained before there were any what models have now: a limit of what it knows, and studies.

Nothing is trained: the limit beyond which images are unfamiliar is fitted on the normal images that the model learnt
from and those that were held out, and studies on the patients that calibrate it; all of these must be there. What the
model has already stays as it is. With ``--rule`` what makes score and map of its end points is fitted anew too, by
another rule on the same images.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import numpy as np
import torch

from invad_med.data.bmad import read_dataset
from invad_med.data.copies import copies
from invad_med.data.provenance import Provenance
from invad_med.data.slices import ReadError
from invad_med.detection import AnomalyDetector, load_detector
from invad_med.features.cached import cached_features
from invad_med.features.endpoints import walk_to_noise, walked
from invad_med.files import data_digest, whole_file
from invad_med.networks.checkpoints import half_precision, read_checkpoint
from invad_med.scoring.choice import EndPoints, as_walk, choose
from invad_med.scoring.familiarity import LEAST_HELD_OUT, LEAST_TRAIN
from invad_med.scoring.rules import find_rule
from invad_med.training.candidates import candidate_figures, find_candidates
from invad_med.training.cohort import Cohort, read_cohort
from invad_med.training.features import CohortFeatures, divide_features
from invad_med.training.studies import fit_studies

logger = logging.getLogger(__name__)

EXAMPLES = """\
  python -m invad_med complete models/brain.pt BMAD/Brain
  python -m invad_med complete models/brain.pt BMAD/Brain --output completed/brain.pt --cache_dir features
  python -m invad_med complete models/resc.pt BMAD/RESC --rule memory_and_features
"""


def complete(
    model: Path,
    dataset_dir: Path,
    output: Path | None = None,
    cache_dir: Path | None = None,
    normals: Path | None = None,
    rule: str | None = None,
) -> Path:
    """Write a checkpoint again, with what it lacks fitted on its data set; nothing else of it is changed.

    Args:
        model: the checkpoint.
        dataset_dir: what it was trained on, in any of BMAD's layouts.
        output: file to write; ``model`` itself if None.
        cache_dir: folder of cached features, made if need be.
        normals: a data set of other normal patients, to compare studies with instead of those that calibrate the
            model and of those that it has; none of them may have been learnt from.
        rule: to score by from now on, with the network and the inversion as they are; studies are then fitted anew too.

    Returns:
        The file written.

    Raises:
        FileNotFoundError, ValueError: no such checkpoint; the folder holds other images than those it was trained on,
            or too few; a rule that is not known, or that cannot be fitted on one network's images.
        ReadError: an image cannot be read.
    """
    if rule is not None:
        find_rule(rule)
    detector = load_detector(model)
    state = read_checkpoint(model)
    cohort = _cohort(dataset_dir, detector.provenance)
    raw = cached_features(detector.host, cohort.images, cohort.modality, cache_dir)
    features = divide_features(raw, cohort, detector.host.grid_size)
    if detector.host.tells_kinds and not detector.familiarity.fitted:
        limit = detector.familiarity.fit(features.train, features.held_out)
        if not limit.fitted:
            few = (
                f"{len(features.train)} training and {len(features.held_out)} held-out normal images are too few for "
                f"a limit: at least {LEAST_TRAIN} and {LEAST_HELD_OUT}"
            )
            if rule is None:
                raise ValueError(few)
            logger.warning("%s", few)
        state |= half_precision({f"familiarity.{name}": value for name, value in limit.state_dict().items()})
    stated = detector.provenance
    divided = len(cohort.train) == stated.train_images  # else some that calibrate were learnt from
    if rule is not None:
        reached = _fit_rule(detector, rule, cohort, features)
        known = {"candidates": {**stated.candidates, **reached}} if reached else {}
        state["_extra_state"] = state["_extra_state"] | known
        fitted = detector.calibration.state_dict()
        state |= half_precision({f"calibration.{name}": value for name, value in fitted.items()})
    if normals is not None or rule is not None or (divided and not len(detector.studies.scores)):
        z = walk_to_noise(detector.host, features.calibration, detector.timesteps)
        reached = fit_studies(detector, cohort, features, z)
        if normals is not None:
            _compare_with(detector, normals, cohort, cache_dir)
        state["studies._extra_state"] = detector.studies.to_state()
        state["_extra_state"] = state["_extra_state"] | ({"study_candidates": reached} if reached else {})
    path = output or model
    with whole_file(path) as partial:
        torch.save(state, partial)
    return path


def _fit_rule(detector: AnomalyDetector, rule: str, cohort: Cohort, features: CohortFeatures) -> dict[str, float]:
    """Fit the calibration anew by another rule, and return what it reaches on ``valid`` by the name of a candidate."""
    stated = detector.provenance
    if stated.cross_fit_folds:
        raise ValueError(
            "the model was calibrated by several networks, so that no other rule can be fitted: train it anew"
        )
    here = len(cohort.train), len(cohort.calibration), len(cohort.selection)
    known = stated.train_images, stated.held_out_images, stated.selection_images
    there = tuple(own if number is None else number for own, number in zip(here, known, strict=True))  # of older models
    if here != there:
        raise ValueError(
            f"the model states {there[0]} normal images to learn from, {there[1]} to calibrate, {there[2]} to choose; "
            f"the folder divides into {here[0]}, {here[1]} and {here[2]}, as after a training with another "
            "--selection_fraction: no other rule can be fitted, train it anew"
        )
    host, own = detector.host, as_walk(detector.timesteps)
    find_candidates(own, rule, schedule=len(host.alphas_cumprod)).choose(host, features)  # refuses what is not for it
    train, held_out, selection, abnormal = (
        walked(host, raw, own) for raw in (features.train, features.calibration, features.selection, features.abnormal)
    )
    detector.calibration.use_rule(rule)
    detector.calibration.fit(train, held_out, own)
    if not len(selection) or not len(abnormal):
        return {}
    ends = {own: EndPoints(train, selection, abnormal)}
    return candidate_figures(choose(ends, features.lesions, (rule,), features.patients))


def _compare_with(detector: AnomalyDetector, normals: Path, cohort: Cohort, cache_dir: Path | None) -> None:
    """Compare studies with the normal patients of another data set, none of whose images was learnt from."""
    dataset = read_dataset(normals)
    items = [item for item in dataset.items if not item.label]
    seen, asked = {*cohort.train, *cohort.selection}, {item.image for item in items}
    twice = sum(bool(seen & {*same}) and bool(asked & {*same}) for same in copies([*seen, *asked])) + len(seen & asked)
    if twice or not items:
        raise ValueError(f"{twice} of {len(items)} normal images of {normals} are among those that the model has seen")
    raw = cached_features(detector.host, [item.image for item in items], cohort.modality, cache_dir)
    unlike = int((detector.familiarity.distance(raw) > 1.0).sum()) if detector.familiarity.fitted else 0
    if 2 * unlike > len(items):
        raise ValueError(
            f"{unlike} of {len(items)} normal images of {normals} are unlike those that the model was trained on, so "
            "that inference would not score them: give normal patients of the model's kind"
        )
    names = [item.group or str(item.image) for item in items]
    numbers = {name: i for i, name in enumerate(dict.fromkeys(names))}
    positions = [item.position for item in items]
    detector.studies.fit(
        detector.calibration.score(walk_to_noise(detector.host, raw, detector.timesteps)).cpu().numpy(),
        [numbers[name] for name in names],
        None if None in positions else np.array(positions, float),
    )


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
            "manifest.csv or version, and studies are not fitted on them",
            len(cohort.train),
            stated.train_images,
        )
    return cohort


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take the model, its data set, and where to write."""
    parser.add_argument("model", metavar="MODEL", type=Path, help="checkpoint of a trained model")
    parser.add_argument("dataset_dir", metavar="DATASET", type=Path, help="what it was trained on, in BMAD's layout")
    parser.add_argument("--output", metavar="FILE", type=Path, help="checkpoint to write (MODEL itself)")
    parser.add_argument(
        "--normals", metavar="DIR", type=Path, help="a data set of other normal patients, to compare studies with"
    )
    parser.add_argument("--rule", metavar="NAME", help="fit this rule of score and map in the place of the model's own")
    parser.add_argument("--cache_dir", metavar="DIR", type=Path, help="keep features here")


def run(options: argparse.Namespace) -> int:
    """Fit what is lacking and write the checkpoint."""
    try:
        path = complete(
            options.model, options.dataset_dir, options.output, options.cache_dir, options.normals, options.rule
        )
    except (ValueError, ReadError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    made = load_detector(path)
    images = "withholds the verdict of" if made.familiarity.fitted else "has no limit for"
    studies = "judges studies" if len(made.studies.scores) else "does not judge studies"
    print(f"model written to {path}: it {images} unfamiliar images, and {studies}")
    return 0
