"""The one file a training run leaves: a calibrated detector's state dict with its provenance."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import monai
import torch
from torch import Tensor, nn

import invad_med
from invad_med.networks.checkpoints import half_precision, round_to_half
from invad_med.networks.detector import AnomalyDetector
from invad_med.training.cohort import Cohort
from invad_med.training.features import CohortFeatures
from invad_med.writers.atomic import write_atomically

logger = logging.getLogger(__name__)


def end_points(detector: AnomalyDetector, raw: Tensor, batch_size: int = 16) -> Tensor:
    """Return z_T of raw features (N, C, h, w): (N, C, h, w) float32 on the CPU."""
    device = next(detector.denoiser.parameters()).device
    batches = (detector.features.normalise(chunk.to(device).float()) for chunk in raw.split(batch_size))
    return torch.cat([detector.inferer(batch, detector.denoiser).cpu() for batch in batches])


def finish_training(
    detector: AnomalyDetector,
    denoiser: nn.Module,
    cohort: Cohort,
    features: CohortFeatures,
    path: str | Path,
    **provenance: Any,
) -> Path:
    """Take up the trained denoiser, calibrate on the held-out normals, and write the artefact whole or not at all.

    Weights are rounded to half precision, as they are stored, before the calibration is fitted on them.

    Args:
        detector: the detector whose backbone made ``features``; changed in place.
        denoiser: the (averaged) trained denoiser.
        cohort, features: what it was trained on.
        path: file to write.
        provenance: more plain values to state, such as seed and steps.

    Returns:
        The path.
    """
    detector.denoiser.load_state_dict(denoiser.state_dict())
    detector.eval()
    round_to_half(detector.denoiser)
    detector.calibration.fit(
        end_points(detector, features.train), end_points(detector, features.held_out), detector.inferer.timesteps
    )
    detector.provenance = {
        "dataset": cohort.facts.name,
        "title": cohort.facts.title,
        "backbone": detector.features.backbone,
        "denoiser": type(detector.denoiser).__name__,
        "denoiser_parameters": sum(p.numel() for p in detector.denoiser.parameters()),
        "train_images": len(cohort.train),
        "held_out_images": len(cohort.held_out),
        "data_digest": data_digest([*cohort.train, *cohort.held_out]),
        "versions": {"invad_med": invad_med.__version__, "monai": monai.__version__, "torch": str(torch.__version__)},
        **provenance,
    }
    buffer = io.BytesIO()
    torch.save(half_precision(detector.state_dict()), buffer)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())
    logger.info("wrote %s (%.1f MB)", path, path.stat().st_size / 1e6)
    return path


def data_digest(paths: Sequence[Path]) -> str:
    """Return a digest of files' contents that does not depend on their names or order: 16 hex digits."""
    contents = sorted(hashlib.sha256(p.read_bytes()).digest() for p in paths)
    return hashlib.sha256(b"".join(contents)).hexdigest()[:16]
