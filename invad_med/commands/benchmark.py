"""Cost of each denoiser preset on this machine, as a table in Markdown.

Seconds of one image through backbone, denoiser and a training step, and how near that comes to a plain matrix product.
On a CPU these are core-seconds; random weights cost the same as trained ones, and nothing is read or fetched.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from invad_med.bench.clock import seconds
from invad_med.bench.device import device_name
from invad_med.bench.floor import operations, product, product_side
from invad_med.inferers import InversionInferer
from invad_med.networks import PRESETS, FrozenFeatures, create_denoiser, find_recipe

EXAMPLES = """\
  OMP_NUM_THREADS=1 python -m invad_med benchmark --presets cpu tiny small
  python -m invad_med benchmark --device cuda --dtype bfloat16 --batch_size 64 --max_train_gb 60
"""


@dataclass(frozen=True)
class Cost:
    """What one image costs a preset, features given.

    Args:
        parameters: of the network.
        score: seconds of a walk of three evaluations.
        step: seconds of forward, backward and AdamW; None: not measured.
        operations: floating-point operations of ``step`` that the result needs: three forward passes. Recomputation
            (activation checkpointing) is not counted.
        memory_gb: most that training took of a GPU, in 10^9 bytes; None on a CPU.
    """

    parameters: int
    score: float
    step: float | None
    operations: float
    memory_gb: float | None


def measure_preset(
    preset: str,
    channels: int,
    device: torch.device,
    dtype: torch.dtype,
    batch_size: int,
    repeats: int,
    train: bool,
    compiled: bool = False,
) -> Cost:
    """Return what a preset costs; ``train``: measure a training step as well."""
    checkpointing = find_recipe(preset).activation_checkpointing
    network = create_denoiser(preset, channels, activation_checkpointing=checkpointing, compiled=compiled).to(device)
    x, t = torch.randn(batch_size, channels, 16, 16, device=device), torch.zeros(batch_size, device=device).long()
    inferer, cuda = InversionInferer(), device.type == "cuda"
    amp: dict[str, Any] = {"device_type": device.type, "dtype": dtype, "enabled": dtype != torch.float32}
    network.eval()
    with torch.device("meta"):
        forward = operations(create_denoiser(preset, channels), torch.empty(1, *x.shape[1:]), torch.zeros(1).long())
    with torch.no_grad(), torch.autocast(**amp):
        score = seconds(lambda: inferer(x, network), repeats, cuda) / batch_size
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    step = seconds(_training_step(network, x, t, amp), repeats, cuda) / batch_size if train else None
    memory = torch.cuda.max_memory_allocated(device) / 1e9 if cuda and train else None
    parameters = sum(p.numel() for p in network.parameters())
    return Cost(parameters, score, step, 3.0 * forward, memory)


def matrix_rate(device: torch.device, dtype: torch.dtype, repeats: int) -> float:
    """Return operations per second (a CPU: of one core) of a plain square matrix product."""
    side = product_side(device)
    return 2.0 * side**3 / seconds(product(side, device, dtype), repeats, device.type == "cuda")


def _training_step(network: nn.Module, x: torch.Tensor, t: torch.Tensor, amp: dict[str, Any]) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-6, weight_decay=0.0)

    def step() -> None:
        network.train()
        optimizer.zero_grad()
        with torch.autocast(**amp):
            predicted = network(x, t)
        predicted.float().square().mean().backward()
        optimizer.step()

    return step


def measure_backbone(backbone: str, device: torch.device, repeats: int) -> float:
    """Return seconds of one 256 x 256 image through the frozen features (random weights cost the same)."""
    features = FrozenFeatures(backbone, weights="checkpoint").to(device)
    features.ready = True
    image = torch.rand(1, 3, 256, 256, device=device)
    with torch.no_grad():
        return seconds(lambda: features(image), repeats, device.type == "cuda")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take what to measure, and on what."""
    parser.add_argument(
        "--presets",
        nargs="+",
        choices=tuple(PRESETS),
        default=tuple(PRESETS),
        metavar="PRESET",
        help=f"of {', '.join(PRESETS)} (all)",
    )
    parser.add_argument("--backbone", help="timm's name (each preset's own)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="to compute in (%(default)s)"
    )
    parser.add_argument("--compiled", action="store_true", help="with torch.compile")
    parser.add_argument("--batch_size", type=int, default=4, help="images at a time (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="of which the median counts (%(default)s)")
    parser.add_argument("--max_train_gb", type=float, default=4.0, help="train no network whose weights, gradients and "
                        "AdamW state together take more (%(default)s)")  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Measure, and print a row for each preset."""
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    print(f"{device_name(device)}, {torch.get_num_threads()} threads, torch {torch.__version__}, {options.dtype}, "
          f"batch {options.batch_size}{', compiled' * options.compiled}\n")  # fmt: skip
    unit = "s" if device.type == "cuda" else "core-s"
    rate = matrix_rate(device, dtype, options.repeats)
    print(f"a plain matrix product: {rate / 1e12:.3g} TFLOP/{unit}\n")
    print(f"| preset | backbone | parameters | backbone, {unit}/image | denoiser x 3, {unit}/image | "
          f"training, {unit}/image | TFLOP/{unit} | of a matrix product's | GPU memory, GB | weights, GB |\n"
          "|" + "---|" * 10)  # fmt: skip
    backbones: dict[str, tuple[int, float]] = {}
    for preset in options.presets:
        backbone = options.backbone or find_recipe(preset).backbone
        if backbone not in backbones:
            channels = FrozenFeatures(backbone, weights="checkpoint").out_channels
            backbones[backbone] = channels, measure_backbone(backbone, device, options.repeats)
        channels, backbone_cost = backbones[backbone]
        with torch.device("meta"):
            size = sum(p.numel() for p in create_denoiser(preset, channels).parameters()) * 16 / 1e9
        cost = measure_preset(
            preset, channels, device, dtype, options.batch_size, options.repeats, size <= options.max_train_gb,
            options.compiled,
        )  # fmt: skip
        trained = ["not measured", "", ""]
        if cost.step:
            achieved = cost.operations / cost.step
            trained = [f"{cost.step:.3g}", f"{achieved / 1e12:.3g}", f"{achieved / rate:.0%}"]
        memory = f"{cost.memory_gb:.1f}" if cost.memory_gb else ""
        print(f"| {preset} | {backbone} | {cost.parameters / 1e6:.1f} M | {backbone_cost:.3g} | {cost.score:.3g} | "
              f"{' | '.join(trained)} | {memory} | {cost.parameters * 4 / 1e9:.2f} |", flush=True)  # fmt: skip
    return 0
