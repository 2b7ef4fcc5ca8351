"""The detector of a former build in a process of its own, which says itself what an image costs it."""

from __future__ import annotations

import json
import subprocess
from types import TracebackType
from typing import Any

import numpy as np

from invad_med.bench.builds import Build
from invad_med.bench.clock import Cost

NAME = "ours, former build"

# Reads numbers of images, answers with seconds of the process and of the wall.
_WORKER = """
import json, sys, time
import torch
torch.set_num_threads(1)
path = sys.argv[1]
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
timesteps = getattr(detector, "timesteps", None) or detector.inferer.timesteps
print(json.dumps(len(timesteps)), flush=True)
images = torch.rand(16, 3, 256, 256, generator=torch.Generator().manual_seed(0))
for line in sys.stdin:
    core, wall = time.process_time(), time.perf_counter()
    detector.detect(images[: int(line)])
    print(json.dumps([time.process_time() - core, time.perf_counter() - wall]), flush=True)
"""


class FormerDetector:
    """A former build's detector for the phantom, eager, one thread, to map and scores of images in memory.

    Args:
        build: whose it is.

    Raises:
        RuntimeError: it cannot be started.
    """

    def __init__(self, build: Build) -> None:
        command = [str(build.python), "-c", _WORKER, str(build.bundle / "models" / "phantom.pt")]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            cwd=build.tree, env=build.environment(threads=1),
        )  # fmt: skip
        self.evaluations = self._answer()

    def __call__(self, images: np.ndarray) -> Cost:
        """Return what as many images as these, at most 16, cost the build."""
        assert self._process.stdin is not None
        print(len(images), file=self._process.stdin, flush=True)
        return Cost(*self._answer())

    def __enter__(self) -> FormerDetector:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            _, printed = self._process.communicate()
            last = "\n  ".join(printed.strip().splitlines()[-5:])
            raise RuntimeError(f"the former build's detector cannot be measured; leave out --former:\n  {last}")
        return json.loads(line)
