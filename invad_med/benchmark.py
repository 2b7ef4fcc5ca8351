"""Cost of each denoiser preset on this machine: ``python -m invad_med.benchmark``; the table is Markdown."""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from invad_med.inferers import InversionInferer
from invad_med.networks import FrozenFeatures, create_denoiser
from invad_med.networks.presets import DIT_PRESETS, MLP_PRESETS, VELOCITY_PRESETS
from invad_med.training.recipes import find_recipe

PRESETS = (*VELOCITY_PRESETS, *DIT_PRESETS, *MLP_PRESETS)


def seconds(function: Callable[[], Any], repeats: int, cuda: bool) -> float:
    """Return seconds of one call, the median of ``repeats`` after one that does not count.

    On a CPU these are seconds of the process (all threads together), which other processes do not lengthen much; on a
    GPU they are seconds that pass.
    """
    clock = time.perf_counter if cuda else time.process_time
    times = []
    for _ in range(repeats + 1):
        start = clock()
        function()
        if cuda:
            torch.cuda.synchronize()
        times.append(clock() - start)
    return sorted(times[1:])[repeats // 2]


def measure_preset(
    preset: str, channels: int, device: torch.device, dtype: torch.dtype, batch_size: int, repeats: int, train: bool
) -> dict[str, float]:
    """Return ``parameters``, ``weights_gb``, ``score`` and ``step`` in seconds for one image (NaN: not measured).

    ``score`` is a walk of three evaluations from features; ``step`` is forward, backward and AdamW.
    """
    network = create_denoiser(preset, channels).to(device)
    x, t = torch.randn(batch_size, channels, 16, 16, device=device), torch.zeros(batch_size, device=device).long()
    inferer, cuda = InversionInferer(), device.type == "cuda"
    amp: dict[str, Any] = {"device_type": device.type, "dtype": dtype, "enabled": dtype != torch.float32}
    network.eval()
    with torch.no_grad(), torch.autocast(**amp):
        score = seconds(lambda: inferer(x, network), repeats, cuda) / batch_size
    step = seconds(_training_step(network, x, t, amp), repeats, cuda) / batch_size if train else float("nan")
    parameters = sum(p.numel() for p in network.parameters())
    return {"parameters": parameters, "weights_gb": parameters * 4 / 1e9, "score": score, "step": step}


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


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of ``python -m invad_med.benchmark``."""
    parser = argparse.ArgumentParser(prog="python -m invad_med.benchmark", description=(__doc__ or "").split(":")[0])
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=PRESETS, help="default: all")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="%(default)s")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="%(default)s")
    parser.add_argument("--batch_size", type=int, default=4, help="%(default)s")
    parser.add_argument("--repeats", type=int, default=3, help="%(default)s")
    parser.add_argument("--max_train_gb", type=float, default=4.0, help="train no network whose weights, gradients and "
                        "AdamW state together take more (%(default)s)")  # fmt: skip
    options = parser.parse_args(argv)
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"
    print(f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}, {options.dtype}, "
          f"batch {options.batch_size}\n")  # fmt: skip
    unit = "s" if device.type == "cuda" else "core-s"
    print(f"| preset | backbone | parameters | backbone, {unit}/image | denoiser x 3, {unit}/image | "
          f"training, {unit}/image | weights, GB |\n|---|---|---|---|---|---|---|")  # fmt: skip
    backbones: dict[str, tuple[int, float]] = {}
    for preset in options.presets:
        backbone = find_recipe(preset).backbone
        if backbone not in backbones:
            channels = FrozenFeatures(backbone, weights="checkpoint").out_channels
            backbones[backbone] = channels, measure_backbone(backbone, device, options.repeats)
        channels, cost = backbones[backbone]
        with torch.device("meta"):
            size = sum(p.numel() for p in create_denoiser(preset, channels).parameters()) * 16 / 1e9
        row = measure_preset(
            preset, channels, device, dtype, options.batch_size, options.repeats, size <= options.max_train_gb
        )
        step = "not measured" if row["step"] != row["step"] else f"{row['step']:.3g}"
        print(f"| {preset} | {backbone} | {row['parameters'] / 1e6:.1f} M | {cost:.3g} | {row['score']:.3g} | {step} | "
              f"{row['weights_gb']:.2f} |", flush=True)  # fmt: skip
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
