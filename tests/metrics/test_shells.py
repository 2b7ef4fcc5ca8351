"""The MONAI shells: batches or lists, and two processes equal to one."""

import datetime

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp

from invad_med.metrics.image import auroc, average_precision, f1_max
from invad_med.metrics.pixel import PixelCounts
from invad_med.metrics.shells import ImageMetric, PixelMetric

RNG = torch.Generator().manual_seed(0)
LABELS = torch.tensor([0, 1, 0, 1, 1, 0, 1])
SCORES = torch.rand(7, generator=RNG) + 0.3 * LABELS
MASKS = torch.zeros(7, 1, 16, 16, dtype=torch.bool)
MASKS[LABELS == 1, :, 3:8, 4:9] = True
MAPS = torch.rand(7, 1, 16, 16, generator=RNG) + 0.3 * MASKS


def measured(chosen):
    found = {}
    for name in ("auroc", "ap", "f1max"):
        metric = ImageMetric(name)
        if len(chosen):
            metric(SCORES[chosen], LABELS[chosen])
        found["image " + name] = metric.aggregate()
    for name in ("auroc", "ap", "f1max", "aupro"):
        pixels = PixelMetric(name)
        if len(chosen):
            pixels(MAPS[chosen], MASKS[chosen])
        found["pixel " + name] = pixels.aggregate()
    return found


def expected():
    labels, scores = LABELS.numpy(), SCORES.double().numpy()
    counts = PixelCounts()
    for values, mask in zip(MAPS.numpy(), MASKS.numpy(), strict=True):
        counts.add(values[0], mask[0])
    pixels = {f"pixel {k}": v for k, v in counts.figures().items() if k != "f1max_threshold"}
    images = {
        "auroc": auroc(labels, scores),
        "ap": average_precision(labels, scores),
        "f1max": f1_max(labels, scores)[0],
    }
    return {f"image {k}": v for k, v in images.items()} | pixels


def test_one_process():
    assert measured(list(range(7))) == pytest.approx(expected(), abs=1e-12)


def test_lists_and_batches_are_one():
    whole, parts = PixelMetric("aupro"), PixelMetric("aupro")
    whole(MAPS, MASKS)
    parts(list(MAPS[:3]), list(MASKS[:3]))
    parts(MAPS[3:], MASKS[3:])
    assert parts.aggregate() == pytest.approx(whole.aggregate(), abs=1e-12)
    scalars = ImageMetric()
    scalars(list(SCORES), list(LABELS))
    assert scalars.aggregate() == expected()["image auroc"]
    scalars.reset()
    assert scalars.aggregate() is None


def test_one_class_is_none():
    metric = ImageMetric()
    metric(SCORES[:1], LABELS[:1])
    assert metric.aggregate() is None


def _work(rank, port, parts, queue):
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2, timeout=datetime.timedelta(seconds=60)
    )
    queue.put(measured(parts[rank]))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("parts", [([0, 3, 4], [1, 2, 5, 6]), ([], [0, 1, 2, 3, 4, 5, 6])])
def test_two_processes_are_one(parts):
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    queue = mp.get_context("fork").SimpleQueue()
    mp.start_processes(_work, (port, parts, queue), nprocs=2, start_method="fork")  # no second import of everything
    results = [queue.get(), queue.get()]
    assert results[0] == results[1] == pytest.approx(expected(), abs=1e-12)
    assert np.isfinite(list(results[0].values())).all()
