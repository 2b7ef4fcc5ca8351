"""A host that is trained already becomes a model by its calibration alone."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from invad_med.detection import AnomalyDetector
from invad_med.detection.host import Host
from invad_med.diffusion import Grid, add_noise
from invad_med.training.artefact import finish_training
from invad_med.training.candidates import find_candidates, usual_walks
from invad_med.training.cohort import read_cohort
from invad_med.training.features import prepare_features

logger = logging.getLogger(__name__)


def calibrate_host(
    host: Host,
    dataset_dir: str | Path,
    path: str | Path,
    *,
    modality: str | None = None,
    grid: Grid | None = None,
    rule: str | None = None,
    cache_dir: str | Path | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    held_out_fraction: float = 0.15,
) -> Path:
    """Fit a host's calibration on normal images and write the checkpoint, whole or not at all.

    What a training fits besides its network is fitted alike: the scale of latents where it is not known, whitening,
    score, p-values and thresholds, and studies. There is no limit of what is familiar: few channels do not tell kinds.

    Args:
        host: trained; its weights are rounded to half precision in place, as they are stored.
        dataset_dir: one data set in BMAD's layout.
        path: file to write.
        modality: what the images show, where the folder does not say it.
        grid: timesteps of the inversion; chosen on ``valid`` if None.
        rule: of the score; chosen on ``valid`` if None.
        cache_dir: folder of cached encodings; None: nothing is kept.
        seed, held_out_fraction: of `invad_med.training.cohort.read_cohort`.
        device: where it computes.

    Returns:
        The path.

    Raises:
        ValueError: what `read_cohort` refuses, a grid that the host cannot evaluate, or a rule that is not for it.
        ReadError: an image cannot be read.
    """
    try:
        host.to(device).eval().note_behaviour()  # before anything long
    except RuntimeError as error:
        size = (host.channels, host.grid_size, host.grid_size)
        raise ValueError(f"the host does not work on {device} at {size} (channels, height, width): {error}") from error
    cohort = read_cohort(dataset_dir, modality, held_out_fraction=held_out_fraction, seed=seed)
    schedule = len(host.alphas_cumprod)
    own = usual_walks(schedule)[0] if grid is None else grid.resolve((), schedule)
    candidates = find_candidates(own, rule, schedule=schedule)
    detector = AnomalyDetector(host, timesteps=own).to(device).eval()
    features = prepare_features(host, cohort, cache_dir)
    _tell_noise_error(host, features.train, own)
    weights = host.denoiser.state_dict()
    return finish_training(detector, weights, cohort, features, path, candidates=candidates, seed=seed, steps=0)


@torch.no_grad()
def _tell_noise_error(host: Host, raw: Tensor, walk: Sequence[tuple[int, int | None]]) -> None:
    """Log how well a host predicts noise in normal images: another prediction or schedule than its own shows here.

    Args:
        raw: (N, C, h, w), of which 16 are taken.
        walk: whose timesteps it is asked at.

    Raises:
        ValueError: it predicts zero.
    """
    clean = host.normalise(raw[:16].float().to(host.device))
    eps, generator = host.predictor(raw[:16].float().to(host.device)), torch.Generator().manual_seed(0)
    for t, _ in walk:
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        timesteps = torch.full((len(clean),), t, device=clean.device)
        predicted = eps(add_noise(clean, noise, timesteps, host.alphas_cumprod), timesteps)
        if not predicted.any():
            raise ValueError("the network predicts zero whatever it is given, as one just built: load its weights")
        error = float((predicted - noise).square().mean())
        logger.info("noise of variance 1 is predicted at t = %d with a mean squared error of %.3f", t, error)
        if error >= 1.0:
            logger.warning(
                "at t = %d the network predicts noise in normal images no better than zero (mean squared error %.2f): "
                "are its prediction, its schedule and the range of its pixels as it was trained with?",
                t,
                error,
            )
