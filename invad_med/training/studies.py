"""What a training fits of whole studies: the held-out normal patients, and of how many slices the highest is taken."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from torch import Tensor

from invad_med.detection import AnomalyDetector
from invad_med.features.endpoints import walk_to_noise
from invad_med.scoring.choice import choose_highest_of
from invad_med.scoring.studies import HIGHEST_OF, Slices
from invad_med.training.cohort import Cohort
from invad_med.training.features import CohortFeatures

logger = logging.getLogger(__name__)


def fit_studies(
    detector: AnomalyDetector, cohort: Cohort, features: CohortFeatures, z_calibration: Tensor
) -> dict[str, float]:
    """Fit ``studies`` of a calibrated detector on the calibration images, by patient; return what m was chosen from.

    Images without a known patient are a patient each, so that a study of one slice is calibrated as an image is.
    Slices are compared with those of like place where the positions of all held-out images are known. m is chosen by
    the patients of the abnormal images, each with its own slices of the selection, against those of the selection.

    Args:
        detector: changed in place.
        cohort, features: what it was trained on.
        z_calibration: (n, C, h, w) end points of the calibration images.

    Returns:
        AUROC of patients by ``highest of m``; empty where there was nothing to choose from.
    """
    names = [cohort.patients[path] for path in (*cohort.calibration, *cohort.selection, *cohort.abnormal)]
    numbers = {name: i for i, name in enumerate(dict.fromkeys(names))}
    placed = all(cohort.positions[path] is not None for path in (*cohort.held_out, *cohort.abnormal))

    def slices(images: tuple[Path, ...], z: Tensor) -> Slices:
        return Slices(
            detector.calibration.score(z).cpu().numpy(),
            np.array([numbers[cohort.patients[path]] for path in images]),
            np.array([cohort.positions[path] for path in images], float) if placed else None,
        )

    figures, highest_of = {}, HIGHEST_OF
    if cohort.selection and cohort.abnormal:
        parts = ((cohort.selection, features.selection), (cohort.abnormal, features.abnormal))
        normal, abnormal = (slices(part, walk_to_noise(detector.host, raw, detector.timesteps)) for part, raw in parts)
        own = normal.where(np.isin(normal.patients, abnormal.patients))
        highest_of, reached = choose_highest_of(normal, abnormal.joined(own))
        figures = {f"highest of {m}": round(value, 4) for m, value in reached.items()}
        for name, value in figures.items():
            logger.info("on valid, patients by the expected %s slices: AUROC %.3f", name, value)
    detector.studies.highest_of = highest_of
    detector.studies.fit(*slices(cohort.calibration, z_calibration))
    logger.info(
        "studies are compared with %d held-out normal patients by the expected highest of %d slices%s",
        len(np.unique(detector.studies.patients)),
        detector.studies.drawn,
        ", each with those of like place" if placed else "",
    )
    return figures
