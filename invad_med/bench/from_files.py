"""Images a second of a model as it ships, over PNG files, with what decodes them in processes beside it and without."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from invad_med.bench.clock import take_turns
from invad_med.bench.machine import cores
from invad_med.bench.made import FOLDER, make_files
from invad_med.bench.record import Absent, FileRate, FileRates, Spread
from invad_med.data.modalities import require_modality
from invad_med.data.transforms import to_image
from invad_med.detection.detector import AnomalyDetector, load_detector
from invad_med.readers.sources import read_raster


class Decoded(Dataset[Tensor]):
    """Images (3, size, size) float32 in [0, 1] of files, read when they are asked for.

    Args:
        paths: of the files.
        size: pixels a side.
    """

    def __init__(self, paths: Sequence[Path], size: int) -> None:
        self._paths, self._size, self._modality = paths, size, require_modality(FOLDER)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, i: int) -> Tensor:
        return torch.from_numpy(to_image(read_raster(self._paths[i]), self._modality, self._size))


def measure_files(
    checkpoint: Path,
    device: torch.device,
    engines: Sequence[str],
    batch: int,
    count: int,
    rounds: int,
    work: Path,
    step: Callable[[str], object] = print,
) -> FileRates:
    """Return what an image costs a model, from file or memory to map, score and p-value in the CPU's memory.

    Args:
        checkpoint: the model; it computes in float32.
        device, engines, rounds, step: as of `invad_med.bench.on_device.measure_preset`.
        batch: images at a time.
        count: files, at least; they make whole batches.
        work: folder for the files.
    """
    batches = -(-count // batch)
    paths = sorted(make_files(work / "png", batches * batch).rglob("*.png"))
    detectors: dict[str, AnomalyDetector] = {}
    absent: list[Absent] = []
    for engine in engines:
        step(f"{checkpoint.stem}, {engine}")
        detector = load_detector(checkpoint, engine=engine, device=device)
        try:
            detector.detect(torch.zeros(batch, 3, detector.image_size, detector.image_size))
            detectors[engine] = detector
        except RuntimeError as error:
            absent.append(Absent(checkpoint.stem, engine, str(error).strip().partition("\n")[0]))
    workers = cores()
    images = Decoded(paths, detector.image_size)
    first = torch.stack([images[i] for i in range(batch)])
    loader = DataLoader(images, batch, num_workers=workers, persistent_workers=True, pin_memory=device.type == "cuda")

    def over_files(take: Callable[[Tensor], object]) -> None:
        for some in loader:
            take(some)

    def over_memory(take: Callable[[Tensor], object]) -> None:
        for _ in range(batches):
            take(first)

    calls: dict[str, Callable[[], object]] = {"decode": partial(over_files, len)}
    for engine, detector in detectors.items():
        calls[f"{engine} file"] = partial(over_files, detector.detect)
        calls[f"{engine} memory"] = partial(over_memory, detector.detect)
    costs = take_turns(calls, rounds, after_round=lambda: step("round of files"))
    ms = {key: Spread.of([1000 * cost.wall / len(paths) for cost in own]) for key, own in costs.items()}
    rates = [FileRate(d.computed_by, ms[f"{name} memory"], ms[f"{name} file"]) for name, d in detectors.items()]
    return FileRates(checkpoint.stem, len(paths), batch, workers, ms["decode"], tuple(rates), tuple(absent))
