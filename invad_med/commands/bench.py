"""What this build costs on this machine: one image, a start, growth with slices and files, beside rivals.

Everything is measured in one run, in turns. Input is made from the bundle's sample, nothing is fetched, and what is not
installed is listed as absent; so is the part of a GPU where none is at hand. Writes bench.json, bench.html and
bench.md. What the figures mean: docs/performance.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from tqdm import tqdm

from invad_med.bench.builds import Build, this_build
from invad_med.bench.clock import seconds as seconds_of
from invad_med.bench.device import device_name
from invad_med.bench.floor import product, product_side
from invad_med.bench.from_files import measure_files
from invad_med.bench.growth import measure_growth
from invad_med.bench.machine import this_machine
from invad_med.bench.networks import SIDE_OF_FLOOR, measure_network
from invad_med.bench.on_device import measure_preset
from invad_med.bench.page import to_html
from invad_med.bench.plan import device_seconds, growth_seconds, network_seconds, startup_seconds
from invad_med.bench.record import Absent, Bench, Device, FileRates, Growth, Network, StartUp
from invad_med.bench.startup import measure_startup
from invad_med.bench.tables import to_markdown
from invad_med.bundle import root
from invad_med.commands.arguments import count
from invad_med.detection.engine import ENGINES
from invad_med.files import write_atomically
from invad_med.networks import PRESETS, create_denoiser

PARTS = ("network", "startup", "growth", "gpu")
_QUICK = {"rounds": 3, "starts": 1, "slices": [4, 12], "files": [4, 12], "gpu_rounds": 3}
_FULL = {"rounds": 15, "starts": 2, "slices": [20, 100, 300, 1000], "files": [100, 1000], "gpu_rounds": 100}

EXAMPLES = """\
  python -m invad_med bench
  python -m invad_med bench --parts network --rounds 30
  python -m invad_med bench --former OLD/venv/bin/python OLD/checkout
  python -m invad_med bench --parts growth --files 1000 10000
  python -m invad_med bench --parts gpu --preset gigant --dtype bfloat16
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take what to measure, and how often."""
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="(all)")
    parser.add_argument(
        "--rounds", type=count, help=f"of the network; slow ones take part in a third ({_FULL['rounds']})"
    )
    parser.add_argument("--starts", type=count, help=f"rounds of the start-up ({_FULL['starts']})")
    parser.add_argument("--runs", type=count, default=1, help="rounds of the growth (%(default)s)")
    parser.add_argument("--slices", nargs="+", type=count, help="lengths of the series (20 100 300 1000)")
    parser.add_argument("--files", nargs="+", type=count, help="numbers of PNG files; the part of the GPU takes the "
                        "largest (100 1000)")  # fmt: skip
    parser.add_argument(
        "--former", nargs=2, metavar=("PYTHON", "TREE"), help="interpreter and checkout of another build, measured in "
        "turn with this one"
    )  # fmt: skip
    parser.add_argument(
        "--former_slices", type=count, default=300, help="longest series that it is given (%(default)s)"
    )
    parser.add_argument("--model", type=Path, help="checkpoint of the network and GPU parts (the bundle's for the "
                        "phantom)")  # fmt: skip
    parser.add_argument("--no_rivals", action="store_true", help="leave out anomalib's detectors")
    gpu = parser.add_argument_group("of the part of a GPU")
    gpu.add_argument("--device", type=_device, help="cuda, cuda:1, or cpu to see that it works (the GPU at hand)")
    gpu.add_argument("--preset", choices=tuple(PRESETS), default="gigant", help="(%(default)s)", metavar="PRESET")
    gpu.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="bfloat16", help="that it computes in (%(default)s)"
    )
    gpu.add_argument("--engines", nargs="+", choices=tuple(ENGINES), default=tuple(ENGINES), help="ours (all)")
    gpu.add_argument("--batches", nargs="+", type=count, default=[1, 2, 32], help="images at a time (1 2 32)")
    gpu.add_argument(
        "--gpu_rounds", type=count, help=f"a tenth of them, at least 3, over files ({_FULL['gpu_rounds']})"
    )
    parser.add_argument("--quick", action="store_true", help="few rounds, small sizes: to see that it works")
    parser.add_argument("--output_dir", type=Path, default=Path("output/bench"), metavar="DIR", help="(%(default)s)")
    parser.add_argument(
        "--work_dir", type=Path, metavar="DIR", help="for what is made and scored, 2 GB for 1,000 slices; emptied "
        "again (the system's for temporary files)"
    )  # fmt: skip


def _device(word: str) -> torch.device:
    try:
        device = torch.device(word)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cuda", "cpu"):
        raise argparse.ArgumentTypeError(f"{word!r} is no device that is measured: give cuda, cuda:1 or cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise argparse.ArgumentTypeError(
            f"{word}: torch sees {torch.cuda.device_count()} GPUs here; give another, or cpu to see that it works"
        )
    return device


def run(options: argparse.Namespace) -> int:
    """Measure and write; return 0, 2 if a build or a run failed."""
    for key, value in (_QUICK if options.quick else _FULL).items():
        if getattr(options, key) is None:
            setattr(options, key, value)
    former = Build("former", *(Path(word).absolute() for word in options.former)) if options.former else None
    builds = [this_build(), *([former] if former else [])]
    model = options.model or Path(root()) / "models" / "phantom.pt"
    if not {"network", "gpu"}.isdisjoint(options.parts) and not model.is_file():
        raise FileNotFoundError(f"--model {model}: there is no such checkpoint")
    if options.device is None and torch.cuda.is_available():
        options.device = torch.device("cuda")
    options.output_dir.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    machine = this_machine()
    expected = expected_seconds(options, builds)
    print(f"this takes about {sum(expected.values()) / 60:.0f} min on an idle machine; load is {machine.load:.1f}",
          flush=True)  # fmt: skip
    network: Network | None = None
    startup: tuple[StartUp, ...] | None = None
    growth: Growth | None = None
    gpu: Device | Absent | None = None
    status = 0
    try:
        with tempfile.TemporaryDirectory(dir=options.work_dir) as work, _Bar(expected) as bar:
            if "network" in options.parts:
                step = bar.begin("network", options.rounds + 12)
                network = measure_network(
                    model, options.rounds, not options.quick, not options.no_rivals, former, step
                )  # fmt: skip
            if "startup" in options.parts:
                step = bar.begin("startup", options.starts * 4 * len(builds))
                startup = measure_startup(builds, options.starts, Path(work), step=step)
            if "growth" in options.parts:
                step = bar.begin("growth", options.runs * (len(options.slices) * len(builds) + len(options.files) + 2))
                growth = measure_growth(
                    builds, options.slices, options.files, options.former_slices, options.runs, Path(work), step
                )
            if "gpu" in options.parts:
                gpu = _on_gpu(options, model, Path(work), bar)
    except (RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    if network or startup or growth or gpu:  # what was measured is kept, whatever came after
        write(Bench(machine, network, startup, growth, time.perf_counter() - start, gpu), options.output_dir)
    return status


def _on_gpu(options: argparse.Namespace, model: Path, work: Path, bar: _Bar) -> Device | Absent:
    """Return what was measured on the device, or that there is none."""
    if options.device is None:
        return Absent(
            f"{options.preset}, {model.stem}", "", "no GPU was at hand: torch sees none. --device cpu --preset cpu "
            "--batches 1 2 goes the same way on the CPU"
        )  # fmt: skip
    device, engines, file_rounds = options.device, options.engines, max(3, options.gpu_rounds // 10)
    step = bar.begin("gpu", options.gpu_rounds + file_rounds + 2 * len(engines) + 1)
    dtype = getattr(torch, options.dtype)
    preset = measure_preset(options.preset, device, dtype, engines, options.batches, options.gpu_rounds, step)
    files: FileRates | Absent
    try:
        files = measure_files(model, device, engines, max(options.batches), max(options.files), file_rounds, work, step)
    except (RuntimeError, OSError) as error:  # as where shared memory is short
        files = Absent(f"{model.stem}, files", "", str(error).strip().partition("\n")[0])
    return Device(device_name(device), torch.get_num_threads(), preset, files)


def expected_seconds(options: argparse.Namespace, builds: Sequence[Build]) -> dict[str, float]:
    """Return roughly how long each part takes, from what a matrix product takes here."""
    gflops = _rate(torch.device("cpu"), torch.float32, SIDE_OF_FLOOR)
    with_rivals = not options.no_rivals and importlib.util.find_spec("anomalib") is not None
    known: dict[str, Callable[[], float]] = {
        "network": lambda: network_seconds(options.rounds, with_rivals, gflops),
        "startup": lambda: startup_seconds(builds, options.starts, gflops),
        "growth": lambda: growth_seconds(
            builds, options.slices, options.files, options.former_slices, options.runs, gflops
        ),
        "gpu": lambda: _device_seconds(options),
    }
    return {part: known[part]() for part in options.parts}


def _device_seconds(options: argparse.Namespace) -> float:
    device = options.device
    if device is None:
        return 0.0
    with torch.device("meta"):
        parameters = sum(p.numel() for p in create_denoiser(options.preset).parameters())
    gflop = 2.0 * parameters * 256 * 3 / 1e9  # positions, evaluations
    rate = _rate(device, getattr(torch, options.dtype), product_side(device))
    return device_seconds(gflop, sum(options.batches), options.gpu_rounds, options.engines, rate)


def _rate(device: torch.device, dtype: torch.dtype, side: int) -> float:
    """Return GFLOP a second of a product, of a CPU a core-second."""
    return 2.0 * side**3 / 1e9 / seconds_of(product(side, device, dtype), 5, cuda=device.type == "cuda")


def write(bench: Bench, folder: Path) -> None:
    """Write the benchmark into a folder, and print its tables."""
    markdown = to_markdown(bench)
    write_atomically(folder / "bench.json", json.dumps(asdict(bench), indent=1).encode())
    write_atomically(folder / "bench.html", to_html(bench).encode())
    write_atomically(folder / "bench.md", markdown.encode())
    print(f"{markdown}\n{folder / 'bench.html'}")


class _Bar:
    """A progress bar over parts by the seconds that they are expected to take.

    Args:
        expected: seconds by part.
    """

    def __init__(self, expected: dict[str, float]) -> None:
        self._expected, self._ends, self._part = expected, 0.0, 0.0
        total = round(sum(expected.values()), 1)
        self._bar = tqdm(total=total, unit="s", disable=None, bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}")

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def begin(self, part: str, steps: int) -> Callable[[str], None]:
        """Return what is told each of about so many steps of a part."""
        self._ends += self._expected[part]
        end, each = self._ends, self._expected[part] / steps

        def step(text: str) -> None:
            self._bar.set_description(f"{part}: {text}", refresh=False)
            self._bar.update(min(each, max(end - self._bar.n, 0.0)))

        return step
