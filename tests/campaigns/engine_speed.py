"""Processor time of one image by each engine, against eager PyTorch, interleaved, with a matrix product beside it.

    OMP_NUM_THREADS=1 python tests/campaigns/engine_speed.py --engines eager onnxruntime

An image is in memory, (3, 256, 256); what is timed ends with map, scores and distance. Another checkout takes part, in
a process and an environment of its own, with ``--other PYTHON TREE``: its detector with its ``phantom.pt``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from invad_med.detection import load_detector
from invad_med.detection.serve import load_engine
from invad_med.serving.engines import ENGINES

SIDE = 1024  # of the matrices
WORKER = """
import sys, time, torch
torch.set_num_threads(1)
path = "bundles/invad/models/phantom.pt"
try:
    from invad_med.detection import load_detector
    detector = load_detector(path)
except ImportError:  # version 0.1
    from invad_med.inferers import InversionInferer
    from invad_med.networks import AnomalyDetector, FrozenFeatures, create_denoiser
    features = FrozenFeatures("tf_efficientnet_lite0", weights="checkpoint")
    denoiser = create_denoiser("cpu", in_channels=features.out_channels)
    inferer = InversionInferer(steps=3, mode="truncated")
    detector = AnomalyDetector(features, denoiser, inferer, checkpoint=path).eval()
images = torch.rand(4, 3, 256, 256, generator=torch.Generator().manual_seed(0))
for line in sys.stdin:
    count = int(line)
    start = time.process_time()
    detector.detect(images[:count])
    print(time.process_time() - start, flush=True)
"""


def other_checkout(python: str, tree: str) -> Callable[[int], float]:
    """Return what times a batch of that size in another checkout: seconds."""
    environment = os.environ | {"PYTHONPATH": tree}
    process = subprocess.Popen(
        [python, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tree, env=environment
    )

    def timed(count: int) -> float:
        assert process.stdin is not None and process.stdout is not None
        print(count, file=process.stdin, flush=True)
        return float(process.stdout.readline())

    return timed


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundles/invad/models/phantom.pt")
    parser.add_argument("--engines", nargs="+", default=["eager", "onnxruntime"])
    parser.add_argument("--other", nargs=2, metavar=("PYTHON", "TREE"))
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()

    torch.set_num_threads(1)
    images = torch.rand(4, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    matrix = torch.rand(SIDE, SIDE)

    def timer(function: Callable[[int], object]) -> Callable[[int], float]:
        def timed(count: int) -> float:
            start = time.process_time()
            function(count)
            return time.process_time() - start

        return timed

    def caller(name: str) -> Callable[[int], object]:
        if name in ENGINES:
            served = load_engine(options.model, name, threads=1)
            return lambda count: served(images[:count].numpy())
        detector = load_detector(options.model, engine=name)
        return lambda count: detector.detect(images[:count])

    timers = {name: timer(caller(name)) for name in options.engines}
    if options.other:
        timers["other checkout"] = other_checkout(*options.other)
    cases = {(name, count): timed for name, timed in timers.items() for count in (1, 4)}
    cases["product", 1] = timer(lambda _: matrix @ matrix)
    seconds: dict[tuple[str, int], list[float]] = {case: [] for case in cases}
    for _ in range(options.rounds + 1):
        for case, timed in cases.items():
            seconds[case].append(timed(case[1]) / case[1])
    product = np.array(seconds.pop(("product", 1))[1:])
    first = options.engines[0]
    print(f"{' '.join(sys.argv)}: {Path('/proc/loadavg').read_text().split()[0]} processes ready to run")
    rate = 2 * SIDE**3 / 1e9
    with FlopCounterMode(display=False) as counter:
        load_detector(options.model).detect(images[:1])
    work = counter.get_total_flops() / 1e9
    print(f"matrix product {SIDE}^3: {rate / np.median(product):.0f} GFLOP/s median, {rate / product.min():.0f} best")
    print(f"floor: {work:.2f} GFLOP an image, {work * np.median(product) / rate * 1e3:.1f} ms at the median product")
    print(f"| engine | batch | core-ms an image: median (least to p90) | faster than {first}, paired |")
    print("|---|---|---|---|")
    for (name, count), measured in seconds.items():
        own, base = np.array(measured[1:]) * 1e3, np.array(seconds[first, count][1:]) * 1e3
        middle = f"{np.median(own):.1f} ({own.min():.1f} to {np.quantile(own, 0.9):.1f})"
        print(f"| {name} | {count} | {middle} | {np.median(base / own):.2f} |")


if __name__ == "__main__":
    main()
