"""The one file a training run leaves: a calibrated detector's state dict with its provenance."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import monai
import torch

import invad_med
from invad_med.detection import AnomalyDetector, Provenance
from invad_med.features.endpoints import walked
from invad_med.files import data_digest, whole_file
from invad_med.networks.checkpoints import half_precision, load_strictly, round_to_half
from invad_med.networks.recipe import Recipe
from invad_med.parallel import processes
from invad_med.training.candidates import Candidates, candidate_figures
from invad_med.training.cohort import Cohort
from invad_med.training.configuration import configuration_digest
from invad_med.training.features import CohortFeatures
from invad_med.training.studies import fit_studies

logger = logging.getLogger(__name__)

SHARED = "the images that calibrate the model also chose its weights: p-values may be a little too small"


def finish_training(
    detector: AnomalyDetector,
    weights: Mapping[str, Any],
    cohort: Cohort,
    features: CohortFeatures,
    path: str | Path,
    configuration: Mapping[str, Any] | None = None,
    recipe: Recipe | None = None,
    candidates: Candidates | None = None,
    **provenance: Any,
) -> Path:
    """Take up the trained denoiser, calibrate it, and write the artefact whole or not at all.

    Weights are rounded to half precision, as they are stored, before the calibration is fitted on them.

    Args:
        detector: the detector whose backbone made ``features``; changed in place.
        weights: state dict of the trained denoiser.
        cohort, features: what it was trained on.
        path: file to write.
        configuration: plain values that the result depends on; their digest is stated.
        recipe: of this run, resolved: steps, images a step and peak rate are stated.
        candidates: what the detector may score by, chosen here; None: its own timesteps and rule.
        provenance: further fields of `invad_med.detection.Provenance`, such as seed.

    Returns:
        The path.
    """
    load_strictly(detector.host.denoiser, dict(weights))
    detector.eval()
    round_to_half(detector.host.denoiser)
    if candidates is not None:
        choice = candidates.choose(detector.host, features)
        reached = candidate_figures(choice)
        provenance = {"candidates": reached} | provenance
        for name, value in reached.items():
            logger.info("on valid, %s: %.3f", name, value)
        logger.info("the score is %s, of timesteps %s", choice.rule, list(choice.timesteps))
        detector.timesteps = list(choice.timesteps)
        detector.calibration.use_rule(choice.rule)
    train, held_out = (walked(detector.host, raw, detector.timesteps) for raw in (features.train, features.calibration))
    detector.calibration.fit(train, held_out, detector.timesteps)
    study_candidates = fit_studies(detector, cohort, features, held_out.end_point)
    if detector.host.tells_kinds:
        detector.familiarity.fit(features.train, features.held_out)
    if recipe is not None:
        images_a_step = recipe.batch_size * recipe.accumulation(processes()) * processes()
        stated = {"steps": recipe.steps, "batch_size": images_a_step, "learning_rate": recipe.learning_rate}
        provenance = stated | provenance
    detector.host.note_behaviour()
    detector.provenance = Provenance(
        architecture=detector.host.architecture.to_plain(),
        modality=cohort.modality.name,
        title=cohort.modality.title,
        denoiser_parameters=sum(p.numel() for p in detector.host.denoiser.parameters()),
        train_images=len(cohort.train),
        held_out_images=len(cohort.calibration),
        selection_images=len(cohort.selection),
        note=SHARED if cohort.shared else "",
        study_candidates=study_candidates,
        held_out_fraction=cohort.division.held_out_fraction,
        data_digest=data_digest([*cohort.train, *cohort.held_out]),
        configuration_digest=configuration_digest(configuration or {}),
        versions={"invad_med": invad_med.__version__, "monai": monai.__version__, "torch": str(torch.__version__)},
        **provenance,
    )
    path = Path(path)
    with whole_file(path) as partial:
        torch.save(half_precision(detector.state_dict()), partial)
    logger.info("wrote %s (%.1f MB)", path, path.stat().st_size / 1e6)
    return path
