"""A preset on a GPU, or on the CPU where that is asked for: ours by each engine beside the authors' formulation."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from torch import Tensor, nn

from invad_med.bench.authors import authors_detector
from invad_med.bench.clock import Cost, take_turns
from invad_med.bench.contestants import AUTHORS, OURS
from invad_med.bench.device import awaited, peak_gb
from invad_med.bench.floor import operations, product, product_side
from invad_med.bench.precision import in_precision
from invad_med.bench.record import Absent, DeviceTime, PresetTimes, Spread
from invad_med.detection.detector import AnomalyDetector
from invad_med.detection.engine import Engine, FromRaw, make_engine
from invad_med.detection.host import FeatureArchitecture, FeatureHost
from invad_med.detection.whole import random_detector
from invad_med.diffusion import inversion_timesteps
from invad_med.networks.presets import find_recipe
from invad_med.scoring import anomaly_map, paper_score
from invad_med.scoring.familiarity import moments
from invad_med.serving.graph import GraphKey

_EVALUATIONS = 3  # of the paper
_WARM = 20  # calls before those that count, of a GPU: its clock rises


@dataclass(frozen=True)
class OnDevice:
    """A network that lies on a device, warm.

    Args:
        name, engine, gflop: as in `invad_med.bench.record.DeviceTime`.
        parameters: of the network.
        calls: by batch size what is measured; each ends when the device is done.
        memory_gb: by batch size, as there.
    """

    name: str
    engine: str
    gflop: float
    parameters: int
    calls: Mapping[int, Callable[[], object]]
    memory_gb: Mapping[int, float | None]


def measure_preset(
    preset: str,
    device: torch.device,
    dtype: torch.dtype,
    engines: Sequence[str],
    batches: Sequence[int],
    rounds: int,
    step: Callable[[str], object] = print,
) -> PresetTimes:
    """Return what images cost a preset with random weights, three evaluations, by each engine and by the authors' code.

    Args:
        preset: a name of `invad_med.networks.PRESETS`.
        device: a GPU or the CPU, with the threads that torch has.
        dtype: the networks compute in it.
        engines: names of `invad_med.detection.engine.ENGINES`; one that fails is absent.
        batches: images at a time.
        rounds: at least 1.
        step: told what is made, and after each round ``round``.
    """
    host = random_host(preset)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(max(batches), 3, host.image_size, host.image_size, generator=generator).to(device)
    found: list[OnDevice] = []
    absent: list[Absent] = []
    # Each batch size is compiled for itself, as where images come in batches of one size.
    with torch.no_grad(), torch._dynamo.config.patch(automatic_dynamic_shapes=False):
        for name, engine in [*((OURS, engine) for engine in engines), (AUTHORS, "eager")]:
            step(f"{name}, {engine}")
            try:
                found.append(_made(name, engine, copy.deepcopy(host), dtype, images, batches))
            except RuntimeError as error:
                absent.append(Absent(name, engine, str(error).strip().partition("\n")[0]))
        calls = {f"{i} {batch}": call for i, each in enumerate(found) for batch, call in each.calls.items()}
        side = product_side(device)
        floor = awaited(product(side, device, dtype), device)
        costs = take_turns({"product": floor, **calls}, rounds, after_round=lambda: step("round"))
    return compared(preset, dtype, side, found, absent, costs)


def random_host(preset: str) -> FeatureHost:
    """Return the host of a preset and its backbone with random weights, none of them zero, on the CPU."""
    recipe = find_recipe(preset)
    architecture = FeatureArchitecture(backbone=recipe.backbone, merge=recipe.merge, preset=preset)
    timesteps = tuple(inversion_timesteps(_EVALUATIONS, "paper"))
    host = random_detector(GraphKey(architecture.to_plain(), timesteps, rule=None)).host
    assert isinstance(host, FeatureHost)
    return host.requires_grad_(False)


def _made(
    name: str, engine: str, host: FeatureHost, dtype: torch.dtype, images: Tensor, batches: Iterable[int]
) -> OnDevice:
    """Return a network of a host, which is used up, on the device of the images."""
    device = images.device
    whole = authors_detector(AnomalyDetector(host)) if name == AUTHORS else None
    module: nn.Module = whole or host
    in_precision(host, dtype)
    module.to(device)
    timesteps = inversion_timesteps(_EVALUATIONS, "paper")
    gflop = operations(whole or make_engine("eager", host, timesteps), images[:1]) / 1e9  # before it is compiled
    forward = whole or _scoring(host, make_engine(engine, host, timesteps))
    calls = {batch: awaited(partial(forward, images[:batch]), device) for batch in batches}
    for call in calls.values():
        for _ in range(_WARM if device.type == "cuda" else 1):
            call()
    memory = {batch: peak_gb(call, module, device) for batch, call in calls.items()}
    return OnDevice(name, engine, gflop, sum(p.numel() for p in module.parameters()), calls, memory)


def _scoring(host: FeatureHost, engine: Engine) -> Callable[[Tensor], object]:
    """Return what computes of images what the authors' formulation does here."""

    def forward(images: Tensor) -> object:
        raw = host.raw(images)
        z = engine.from_raw(raw) if isinstance(engine, FromRaw) else engine(images)
        return anomaly_map(z), paper_score(z), moments(raw)

    return forward


def compared(
    preset: str,
    dtype: torch.dtype,
    side: int,
    found: Sequence[OnDevice],
    absent: Sequence[Absent],
    costs: Mapping[str, Sequence[Cost]],
) -> PresetTimes:
    """Return the records of costs.

    Args:
        preset, dtype: see `measure_preset`.
        side: of the matrices whose product was measured.
        found: by row.
        absent: what was not measured.
        costs: of ``product``, and of ``<row> <batch>``.
    """
    spent = Spread.of([1000 * cost.wall for cost in costs["product"]])
    tflops = 2 * side**3 / 1e9 / spent.p50
    theirs = next((i for i, each in enumerate(found) if each.name == AUTHORS), None)
    times = []
    for i, each in enumerate(found):
        for batch, memory_gb in each.memory_gb.items():
            own = [cost.wall for cost in costs[f"{i} {batch}"]]
            ratio = None
            if theirs is not None and theirs != i:
                others = [cost.wall for cost in costs[f"{theirs} {batch}"]]
                ratio = median(other / mine for mine, other in zip(own, others, strict=True))
            ms = Spread.of([1000 * wall for wall in own])
            rate, of_floor = 1000 * batch / ms.p50, ms.p50 * tflops / (batch * each.gflop)
            kind = (each.name, each.engine, _EVALUATIONS)
            times.append(DeviceTime(*kind, batch, ms, rate, each.gflop, of_floor, ratio, memory_gb))
    parameters = next((each.parameters for each in found if each.name == OURS), None)
    precision = str(dtype).removeprefix("torch.")
    return PresetTimes(preset, precision, parameters, side, spent, tflops, tuple(times), tuple(absent))
