"""What a run's result depends on, as flat plain values: to refuse another run's state, and to state in the artefact."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from invad_med.detection import AnomalyDetector
from invad_med.files import data_digest
from invad_med.networks.recipe import Recipe
from invad_med.training.cohort import Cohort
from invad_med.training.description import describe, network_digest, network_settings


def describe_run(recipe: Recipe, cohort: Cohort, detector: AnomalyDetector, **parts: Any) -> dict[str, Any]:
    """Return the configuration of a run, told by the objects that make it.

    Args:
        recipe: of this run, resolved: every field of it.
        cohort: digests of its images and masks, and how they were divided.
        detector: architecture, digest of its encoder, settings of its noise predictor, timesteps. Its rule is chosen
            at the end, from what ``parts`` state.
        parts: whatever else shapes the result, by name, see `invad_med.training.description.describe`: optimiser,
            schedule, averaging, augmentation, selection, seed.
    """
    host = detector.host
    known = {
        "recipe": recipe,
        "cohort": {
            "modality": cohort.modality.name,
            **{part: data_digest(getattr(cohort, part)) for part in ("train", "selection", "calibration", "abnormal")},
            "masks": data_digest([path for path in cohort.masks if path is not None]),
        },
        "division": cohort.division,
        "architecture": host.architecture.to_plain(),
        "encoder": host.encoder_digest()[:16],
        "denoiser": network_settings(host.denoiser),
        "weights": network_digest(host.denoiser) if host.trained_before else "",
        "timesteps": detector.timesteps,
    }
    return {key: value for name, part in {**known, **parts}.items() for key, value in describe(name, part).items()}


def configuration_digest(configuration: Mapping[str, Any]) -> str:
    """Return a digest of plain values that does not depend on their order: 16 hex digits."""
    return hashlib.sha256(json.dumps(configuration, sort_keys=True).encode()).hexdigest()[:16]
