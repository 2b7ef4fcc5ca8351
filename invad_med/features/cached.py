"""Frozen features are computed once: a cache on disk, one file an image, named by all that makes its content."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from invad_med.data.modalities import Modality
from invad_med.data.transforms import to_image
from invad_med.detection.host import Host
from invad_med.features.cache import ArrayCache
from invad_med.files import code_digest
from invad_med.parallel import barrier, processes, rank, together
from invad_med.readers.sources import read_raster

logger = logging.getLogger(__name__)


def cache_key(path: Path, encoder_digest: str, modality: Modality) -> str:
    """Return the name of an image's cached features: a digest of its bytes, the encoder and the preparation."""
    recipe = f"{encoder_digest} {modality.intensity} {modality.fit} {modality.colour} {_code()}"
    return hashlib.sha256(hashlib.sha256(path.read_bytes()).digest() + recipe.encode()).hexdigest()


@cache
def _code() -> str:
    """Return a digest of the code between a file's pixels and its features."""
    return code_digest(("data/transforms.py", "data/resizing.py", "networks/features.py"))


@torch.no_grad()
def cached_features(
    host: Host,
    images: Sequence[Path],
    modality: Modality,
    cache_dir: str | Path | None = None,
    progress: bool = True,
    workers: int | None = None,
    limit_gb: float | None = None,
) -> Tensor:
    """Return the raw (not normalised) features of images, from the cache where they are in it.

    Each image is computed alone, so that its features are the same whatever else is computed and after any
    interruption. A file that is truncated or of another shape is computed again. Two runs may share a cache, and of
    several processes that train together each computes its share. Images of equal content are computed once.

    Args:
        host: whose encoding, on the device to compute on.
        images: PNG, JPEG or TIFF files.
        modality: how they are prepared.
        cache_dir: folder of the cache, made if need be; None: nothing is kept.
        progress: show a bar on standard error.
        workers: images computed at the same time, a thread each; None: as many as torch has threads.
        limit_gb: size of the cache, in 10^9 bytes, beyond which what was not used for longest is removed.

    Returns:
        (N, C, h, w) float16 on the CPU.

    Raises:
        ReadError: an image cannot be read.
    """
    shape = (host.raw_channels, host.grid_size, host.grid_size)
    result = torch.empty((len(images), *shape), dtype=torch.float16)
    limit = None if limit_gb is None else int(limit_gb * 1e9)
    cache = ArrayCache(cache_dir, shape, limit) if cache_dir else None
    digest = host.encoder_digest() if cache else ""
    keys = [cache_key(path, digest, modality) if cache else str(path) for path in images]
    firsts: dict[str, int] = {}
    twins = [(i, first) for i, key in enumerate(keys) if (first := firsts.setdefault(key, i)) != i]

    def load(i: int) -> bool:
        array = cache.load(keys[i]) if cache else None
        if array is not None:
            result[i] = torch.from_numpy(array)
        return array is not None

    def compute(i: int) -> None:
        with torch.no_grad():  # a thread has its own mode
            result[i] = image_features(host, images[i], modality)
        if cache:
            cache.store(keys[i], result[i].numpy())

    def fill(missing: Sequence[int]) -> None:
        bar = tqdm(missing, f"features of {modality.name}", unit="image", disable=not progress or not missing)
        with one_thread_each(workers) as pool:
            for _ in zip(bar, pool.map(compute, missing), strict=True):
                pass

    missing = [i for i in firsts.values() if not load(i)]
    if cache and processes() > 1:
        together(lambda: fill([i for i in missing if i % processes() == rank()]))  # then all of it is in the cache
        missing_here = [i for i in missing if i % processes() != rank() and not load(i)]
    else:
        missing_here = missing
    fill(missing_here)
    for i, first in twins:
        result[i] = result[first]
    barrier()  # nobody removes what another still reads
    if cache and rank() == 0:
        left, removed = cache.trim()
        report = "features: %d of %d different images were in the cache, which holds %.2f GB; %d old entries removed"
        logger.info(report, len(firsts) - len(missing), len(firsts), left / 1e9, removed)
    return result


def image_features(host: Host, path: Path, modality: Modality) -> Tensor:
    """Return the raw features of one file: (C, h, w) float16 on the CPU."""
    image = torch.from_numpy(to_image(read_raster(path), modality, host.image_size))
    return host.raw(image[None].to(host.device))[0].half().cpu()


@contextmanager
def one_thread_each(workers: int | None) -> Iterator[ThreadPoolExecutor]:
    """Give a pool of threads in which torch computes with one thread each, and restore its number afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(workers or before) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)
