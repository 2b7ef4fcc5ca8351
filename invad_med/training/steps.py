"""What MONAI's trainer calls: noised features in, the noise as target, keyed by seed, step and sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from monai.inferers import Inferer
from monai.utils import CommonKeys
from torch import Tensor

from invad_med.detection.host import Host
from invad_med.diffusion import add_noise
from invad_med.training.sampling import Draw


class FeatureDataset(torch.utils.data.Dataset):
    """Features of images as MONAI items: ``image`` (C, h, w) float32, normalised, ``index`` and ``step``.

    Args:
        raw: (N, C, h, w) raw features, any float dtype.
        host: whose normalisation applies.
    """

    def __init__(self, raw: Tensor, host: Host) -> None:
        self.raw, self.host = raw, host

    def __len__(self) -> int:
        return len(self.raw)

    def __getitem__(self, key: Draw | int) -> dict[str, Any]:
        step, index = key if isinstance(key, tuple) else Draw(0, key)
        normal = self.host.normalise(self.raw[index][None].float())[0]
        return {CommonKeys.IMAGE: normal, "index": index, "step": step}


class NoisyBatch:
    """MONAI ``prepare_batch``: draw timesteps and noise, return (features, noise, (), {noise, timesteps}).

    The draws depend on seed, step and the sample's index alone, not on the process, the device, the batch they fall
    in or what was drawn before, so that a resumed or distributed run sees the same noise. A data set read without a
    `StepSampler`, as in validation, is always at step 0.

    Args:
        seed: of the run.
        num_train_timesteps: T of the schedule.
        host: encodes the batch first, where it holds images instead of features.
        images: whether it does; with False ``host`` is not used.
        focus: timesteps [first, end) that ``focus_share`` of the draws are made from; None: all are drawn alike.
        focus_share: 0 to 1.

    Raises:
        ValueError: a focus beyond the schedule, or a host that is not trained here.
    """

    def __init__(
        self,
        seed: int = 0,
        num_train_timesteps: int = 1000,
        host: Host | None = None,
        images: bool = True,
        focus: tuple[int, int] | None = None,
        focus_share: float = 0.75,
    ) -> None:
        if focus is not None and not 0 <= focus[0] < focus[1] <= num_train_timesteps:
            raise ValueError(
                f"focus={focus} lies beyond the schedule's {num_train_timesteps} timesteps: give --focus a part of it, "
                f"such as [0,{num_train_timesteps}], which draws all alike"
            )
        if host is not None and (not host.gaussian or host.raw_channels != host.channels):
            raise ValueError(
                "a model of other than Gaussian noise, or conditioned on the image, is not trained here: fit its "
                "calibration alone, python -m invad_med calibrate"
            )
        self._why_not = (lambda walk: None) if host is None else host.why_not
        self.seed, self.num_train_timesteps, self.host = seed, num_train_timesteps, host if images else None
        self.focus, self.focus_share = focus, focus_share
        self.settings = {
            "seed": seed,
            "num_train_timesteps": num_train_timesteps,
            "images": self.host is not None,
            "focus": focus,
            "focus_share": focus_share if focus else None,
        }

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor, tuple[()], dict[str, Tensor]]:
        clean = batchdata[CommonKeys.IMAGE].to(device, non_blocking=non_blocking)
        if self.host is not None:
            with torch.no_grad():
                clean = self.host.encode(clean)
        noise = torch.empty(clean.shape)
        timesteps = torch.empty(len(clean), dtype=torch.long)
        for row, (step, index) in enumerate(zip(batchdata["step"].tolist(), batchdata["index"].tolist(), strict=True)):
            generator = keyed_generator(self.seed, step, index)
            timesteps[row] = self._timestep(generator)
            noise[row] = torch.randn(clean.shape[1:], generator=generator)
        noise, timesteps = (x.to(device, non_blocking=non_blocking) for x in (noise, timesteps))
        return clean, noise, (), {"noise": noise, "timesteps": timesteps}

    def _timestep(self, generator: torch.Generator) -> Tensor:
        first, end = 0, self.num_train_timesteps
        if self.focus is not None and torch.rand(1, generator=generator) < self.focus_share:
            first, end = self.focus
        drawn = torch.randint(first, end, (1,), generator=generator)
        while self._why_not([(int(drawn), None)]):  # where the host cannot be evaluated
            drawn = torch.randint(self.num_train_timesteps, (1,), generator=generator)
        return drawn


def keyed_generator(seed: int, step: int, index: int) -> torch.Generator:
    """Return a CPU generator that depends on seed, step and sample alone."""
    key = (seed * 1_000_003 + step) * 1_000_003 + index
    return torch.Generator().manual_seed(key % 2**63)


class NoisePredictionInferer(Inferer):
    """Training inferer: ``(features, network, noise, timesteps) ->`` the noise predicted in the noised features.

    Args:
        alphas_cumprod: (T,) float64, the host's schedule.
        dtype: what the network computes in where it is safe (autocast), such as ``torch.bfloat16``; None: float32.
    """

    def __init__(self, alphas_cumprod: Tensor, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.alphas_cumprod, self.dtype = alphas_cumprod, dtype
        self.settings = {"alphas_cumprod": alphas_cumprod, "dtype": dtype}

    def __call__(
        self, inputs: Tensor, network: Callable[..., Tensor], noise: Tensor, timesteps: Tensor, **kwargs: Any
    ) -> Tensor:
        """Return eps(x_t, t), the shape of ``inputs`` (B, C, h, w), float32."""
        noised = add_noise(inputs, noise, timesteps, self.alphas_cumprod)
        with torch.autocast(inputs.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            predicted = network(noised, timesteps)
        return predicted.float() if self.dtype is not None else predicted


def training_precision(device: str | torch.device, precision: str = "auto") -> torch.dtype | None:
    """Return the dtype for autocast, None for float32.

    Args:
        device: to train on.
        precision: ``float32``, ``bfloat16``, or ``auto``: bfloat16 where the device multiplies matrices in it (GPUs,
            CPUs with AMX or AVX-512 BF16). Other CPUs would have to emulate it, which is slower than float32.

    Raises:
        ValueError: another precision.
    """
    if precision not in ("auto", "float32", "bfloat16"):
        raise ValueError(f"--precision {precision!r} is none of auto, float32, bfloat16")
    if precision != "auto":
        return torch.bfloat16 if precision == "bfloat16" else None
    if torch.device(device).type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else None
    capabilities = torch.cpu.get_capabilities()
    return torch.bfloat16 if any(capabilities.get(name, False) for name in ("amx_bf16", "avx512_bf16")) else None
