"""Every step but the network, case by case in this process's children: finds faults fast, and which case it was."""

from __future__ import annotations

import logging
import multiprocessing
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from invad_med.data.contrast import judged
from invad_med.data.prediction import Detection
from invad_med.data.slices import ReadError
from invad_med.inference.inputs import list_inputs
from invad_med.inference.pipeline import map_back, prepare, scored, unreadable
from invad_med.inference.results import SourceWriter
from invad_med.readers.sources import read_source
from invad_med.writers.dicom.export import KINDS, DicomWriter
from tests.campaigns.batch import Case, make_case
from tests.campaigns.seeds import Seed

SLOW = 4.0  # seconds for one case
logging.disable(logging.CRITICAL)


def quick(seeds: Sequence[Seed], campaign: int, numbers: Sequence[int], folder: Path) -> list[str]:
    """Return what went wrong; a case that ends its process or takes a minute is named and passed over."""
    faults: list[str] = []
    todo, context = list(numbers), multiprocessing.get_context("fork")
    while todo:
        queue: multiprocessing.Queue = context.Queue()
        worker = context.Process(target=_work, args=(seeds, campaign, todo, folder, queue))
        worker.start()
        done = 0
        while done < len(todo):
            try:
                found = queue.get(timeout=60)
                faults += found
                for fault in found:
                    print(fault, flush=True)
            except Exception:
                worker.kill()
                faults.append(f"case {todo[done]} ended its process, or hung")
                done += 1
                break
            done += 1
        worker.join(5)
        todo = todo[done:]
    return faults


def _work(seeds: Sequence[Seed], campaign: int, numbers: Sequence[int], folder: Path, queue: object) -> None:
    for number in numbers:
        queue.put(_one(make_case(seeds, campaign, number), folder))  # type: ignore[attr-defined]
    queue.close()  # type: ignore[attr-defined]
    queue.join_thread()  # type: ignore[attr-defined]


def _one(case: Case, folder: Path) -> list[str]:
    root, output = folder / "in", folder / "out"
    shutil.rmtree(root, ignore_errors=True)
    shutil.rmtree(output, ignore_errors=True)
    for name, content in case.files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    start, faults = time.monotonic(), []
    try:
        faults = _score(root, output)
    except ValueError as error:
        if "can be scored" not in str(error) and "no image found" not in str(error):
            faults = [repr(error)]
    except Exception as error:
        import traceback

        faults = [repr(error) + traceback.format_exc()[-600:]]
    seconds = time.monotonic() - start
    if seconds > SLOW:
        faults.append(f"{seconds:.1f} s")
    return [f"case {case.number} ({case.seed}): {fault}" for fault in faults]


def _score(root: Path, output: Path) -> list[str]:
    inputs = list_inputs(root, ["phantom", "chest"], "phantom")
    if len(inputs.items) > 200:
        return [f"{len(inputs.items)} slices"]
    writer = SourceWriter(output, DicomWriter(output, KINDS), None, None, inputs.unscored, inputs.problems, inputs.base)
    read: dict = {}
    for item in inputs.items:
        if item.source not in read:
            read = {item.source: read_source(item.source)}
        piece = judged(read[item.source][item.index], item.modality)
        if isinstance(piece, ReadError):
            writer.take(unreadable(item, piece), piece)
            continue
        image = prepare(item, piece)
        assert image.shape == (3, 256, 256) and np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1
        anomaly = map_back(item, piece, image[0, ::8, ::8] * 9)
        detection = Detection(score=1.0, threshold=0.5, p_value=0.1, paper_score=3.0, map_threshold=6.0, map=anomaly)
        assert np.isfinite(anomaly).all() and anomaly.shape == piece.pixels.shape[:2]
        writer.take(scored(item, detection, anomaly), piece)
    writer.close()
    return [
        *writer.faults,
        *(f"{kind}: {reason}" for kind, reason in writer.refused if "breaks the standard" in reason),
    ]
