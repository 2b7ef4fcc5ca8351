"""Frozen features are computed once: a cache on disk, one file an image, named by all that makes its content."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from invad_med.data.datasets import DatasetFacts
from invad_med.data.slices import Source
from invad_med.data.sources import read_slice
from invad_med.data.transforms import to_image
from invad_med.networks.checkpoints import round_to_half
from invad_med.networks.features import FrozenFeatures
from invad_med.training.cohort import Cohort
from invad_med.writers.atomic import write_atomically

logger = logging.getLogger(__name__)


def cache_key(path: Path, backbone_digest: str, facts: DatasetFacts, size: int) -> str:
    """Return the name of an image's cached features: a digest of its bytes, the backbone's and the recipe."""
    recipe = f"{backbone_digest} {facts.intensity} {facts.fit} {size}"
    return hashlib.sha256(hashlib.sha256(path.read_bytes()).digest() + recipe.encode()).hexdigest()


def network_digest(features: FrozenFeatures) -> str:
    """Return a digest of the backbone's weights and name (not of the channel normalisation)."""
    digest = hashlib.sha256(features.backbone.encode())
    for name, tensor in features.body.state_dict().items():
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def cached_features(
    features: FrozenFeatures,
    images: Sequence[Path],
    facts: DatasetFacts,
    cache_dir: str | Path | None = None,
    size: int = 256,
    batch_size: int = 8,
    progress: bool = True,
) -> Tensor:
    """Return the raw (not normalised) features of images, from the cache where they are in it.

    A file that is truncated or of another shape is computed again. Two runs may share a cache: files appear whole.

    Args:
        features: the frozen backbone, on the device to compute on.
        images: PNG, JPEG or TIFF files.
        facts: how they are prepared.
        cache_dir: folder of the cache, made if need be; None: nothing is kept.
        size: side of the square image in pixels.
        batch_size: images computed at a time.
        progress: show a bar on standard error.

    Returns:
        (N, C, h, w) float16 on the CPU.

    Raises:
        ReadError: an image cannot be read.
    """
    device = features.image_mean.device
    digest = network_digest(features)
    shape = (features.out_channels, size // features.reduction, size // features.reduction)
    result = torch.empty((len(images), *shape), dtype=torch.float16)
    files = [Path(cache_dir) / f"{cache_key(p, digest, facts, size)}.npy" for p in images] if cache_dir else []
    missing = [i for i in range(len(images)) if not files or not _load(files[i], result[i])]
    if files:
        Path(cache_dir or ".").mkdir(parents=True, exist_ok=True)
        logger.info("features: %d of %d images are in the cache", len(images) - len(missing), len(images))
    bar = tqdm(total=len(missing), desc=f"features of {facts.name}", unit="image", disable=not progress or not missing)
    for start in range(0, len(missing), batch_size):
        chosen = missing[start : start + batch_size]
        pieces = [read_slice(Source("raster", (images[i],), images[i].stem, 1), 0) for i in chosen]
        raw = features.raw(torch.stack([to_image(p, facts, size) for p in pieces]).to(device)).half().cpu()
        for i, value in zip(chosen, raw, strict=True):
            result[i] = value
            if files:
                write_atomically(files[i], _npy(value.numpy()))
        bar.update(len(chosen))
    bar.close()
    return result


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _load(file: Path, into: Tensor) -> bool:
    """Fill ``into`` from a cache file and return True, or False if there is no sound one."""
    try:
        array = np.load(file, allow_pickle=False)
    except FileNotFoundError:
        return False
    except (ValueError, OSError, EOFError):
        logger.warning("cached features %s are damaged and computed again", file.name[:12])
        return False
    if array.shape != tuple(into.shape) or array.dtype != np.float16:
        return False
    into.copy_(torch.from_numpy(array))
    return True


@dataclass(frozen=True)
class CohortFeatures:
    """Raw features (N, C, h, w) float16 of a cohort's training, held-out normal and abnormal validation images."""

    train: Tensor
    held_out: Tensor
    abnormal: Tensor


def prepare_features(
    features: FrozenFeatures,
    cohort: Cohort,
    cache_dir: str | Path | None = None,
    size: int = 256,
    progress: bool = True,
) -> CohortFeatures:
    """Round the backbone as it will be stored, compute a cohort's features, and fit the channel normalisation."""
    round_to_half(features)
    parts = (cohort.train, cohort.held_out, cohort.abnormal)
    images = [path for part in parts for path in part]
    found = cached_features(features, images, cohort.facts, cache_dir, size, progress=progress)
    train, held_out, abnormal = found.split([len(part) for part in parts])
    features.fit_normalisation(train)
    return CohortFeatures(train, held_out, abnormal)
