"""How far an engine's results are from eager float32, image by image of a data set.

    OMP_NUM_THREADS=1 python tests/campaigns/engine_agreement.py ROOT/brain --model bundles/invad/models/model.pt

One image at a time in PyTorch is the reference. Rows are an engine at a batch size, columns the largest difference over
images: of the map by the image's largest value, of the score by its size or one deviation, whichever is larger, of the
p-value as it is; and the difference of image AUROC where the split has normal and abnormal images.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from invad_med.data.bmad import datalist
from invad_med.data.modalities import require_modality
from invad_med.data.transforms import to_image
from invad_med.detection import load_detector
from invad_med.detection.serve import graph_for
from invad_med.detection.whole import WholeDetector
from invad_med.metrics.image import auroc
from invad_med.readers.sources import read_raster
from invad_med.scoring.likeness import Likeness
from invad_med.serving.engines import ENGINES, Served, make_serving_engine
from invad_med.serving.graph import GraphKey
from invad_med.serving.weights import open_weights

BATCHES = (1, 2, 4)


def main() -> None:
    """Print the table of one model on one data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="folder of one data set in BMAD's layout")
    parser.add_argument("--model", required=True)
    parser.add_argument("--engines", nargs="+", default=["onnxruntime"], choices=list(ENGINES))
    parser.add_argument("--split", default="test")
    parser.add_argument("--count", type=int, help="images, evenly spaced in the split; all if it is not given")
    options = parser.parse_args()

    detector = load_detector(options.model)
    modality = require_modality(str(detector.provenance.modality))
    items = datalist(options.dataset, options.split)
    count = min(len(items), options.count or len(items))
    items = [items[i] for i in np.linspace(0, len(items) - 1, count).round().astype(int)]
    pictures = (to_image(read_raster(Path(item["image"])), modality, detector.host.image_size) for item in items)
    images = np.stack([np.asarray(picture, np.float32) for picture in pictures])
    labels = np.array([item["label"] for item in items])

    whole = WholeDetector(detector.host, detector.calibration, detector.timesteps).eval()

    @torch.no_grad()
    def eager(batch: np.ndarray) -> Served:
        found = zip(whole.outputs, whole(torch.from_numpy(batch)), strict=True)
        return Served(**{name: tensor.numpy() for name, tensor in found})

    with open_weights(options.model) as weights:
        graph = graph_for(GraphKey.of(weights))
        arrays = graph.fill(weights)
    engines: dict[str, Callable[[np.ndarray], Served]] = {"eager": eager}
    engines |= {name: make_serving_engine(name, graph, arrays) for name in options.engines}

    wanted = scored(eager, images, 1)
    reference = np.sort(detector.calibration.reference.numpy())
    print(f"{options.model}, {options.dataset} {options.split}: {len(images)} images, {labels.sum()} abnormal")
    print("| engine | batch | map | score | p-value | paper's score | distance | AUROC |")
    print("|---|---|---|---|---|---|---|---|")
    for name, engine in engines.items():
        for size in BATCHES:
            found = scored(engine, images, size)
            row = [*differences(found, wanted, reference, detector.likeness), auroc_difference(labels, found, wanted)]
            print(f"| {name} | {size} | " + " | ".join("" if d is None else f"{d:.1e}" for d in row) + " |")


def scored(engine: Callable[[np.ndarray], Served], images: np.ndarray, size: int) -> Served:
    """Return an engine's results of all images, in batches of a size."""
    parts = [engine(images[i : i + size]) for i in range(0, len(images), size)]
    return Served(*(None if column[0] is None else np.concatenate(column) for column in zip(*parts, strict=True)))  # type: ignore[arg-type]


def differences(found: Served, wanted: Served, reference: np.ndarray, likeness: Likeness | None) -> list[float | None]:
    """Return the largest differences of map, score, p-value, paper's score and distance to what it was trained on."""
    assert found.score is not None and wanted.score is not None

    def relative(ours: np.ndarray | None, theirs: np.ndarray | None, least: float = 0.0) -> float | None:
        if ours is None or theirs is None:
            return None
        return float((np.abs(ours - theirs) / np.maximum(np.abs(theirs), least)).max())

    maps = np.abs(found.map - wanted.map).max((1, 2)) / wanted.map.max((1, 2))
    p_values = [1 - np.searchsorted(reference, s.score, side="left") / (len(reference) + 1) for s in (found, wanted)]
    distances = [None if likeness is None else likeness.distance(served.moments) for served in (found, wanted)]
    return [
        float(maps.max()),
        relative(found.score, wanted.score, 1.0),
        float(np.abs(p_values[0] - p_values[1]).max()),
        relative(found.paper_score, wanted.paper_score),
        relative(*distances),
    ]


def auroc_difference(labels: np.ndarray, found: Served, wanted: Served) -> float | None:
    """Return by how much image AUROC differs; None without normal and abnormal images."""
    ours, theirs = auroc(labels, found.score), auroc(labels, wanted.score)
    return None if ours is None or theirs is None else abs(ours - theirs)


if __name__ == "__main__":
    main()
