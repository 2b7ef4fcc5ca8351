"""What MONAI's trainer calls: noised features in, the noise as target, keyed by seed, step and sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from monai.inferers import Inferer
from monai.utils import CommonKeys
from torch import Tensor

from invad_med.diffusion import add_noise, linear_alphas_cumprod
from invad_med.networks.features import FrozenFeatures


class FeatureDataset(torch.utils.data.Dataset):
    """Features of normal images as MONAI items: ``image`` (C, h, w) float32, normalised, and ``index``.

    Args:
        raw: (N, C, h, w) raw features, any float dtype.
        features: the backbone whose channel normalisation applies.
    """

    def __init__(self, raw: Tensor, features: FrozenFeatures) -> None:
        self.raw, self.features = raw, features

    def __len__(self) -> int:
        return len(self.raw)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {CommonKeys.IMAGE: self.features.normalise(self.raw[index][None].float())[0], "index": index}


class NoisyBatch:
    """MONAI ``prepare_batch``: draw timesteps and noise, return (features, noise, (), {noise, timesteps}).

    The draws depend on seed, step and the sample's index alone, not on the process, the device or the batch they
    fall in, so that a resumed or distributed run sees the same noise.

    Args:
        seed: of the run.
        num_train_timesteps: T of the schedule.
        fixed: draw the same for every step: for validation.
    """

    def __init__(self, seed: int = 0, num_train_timesteps: int = 1000, fixed: bool = False) -> None:
        self.seed, self.num_train_timesteps, self.fixed = seed, num_train_timesteps, fixed
        self.step = 0

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor, tuple[()], dict[str, Tensor]]:
        clean = batchdata[CommonKeys.IMAGE]
        noise, timesteps = torch.empty_like(clean), torch.empty(len(clean), dtype=torch.long)
        for row, index in enumerate(batchdata["index"].tolist()):
            key = (self.seed * 1_000_003 + self.step) * 1_000_003 + index
            generator = torch.Generator().manual_seed(key % 2**63)
            timesteps[row] = torch.randint(self.num_train_timesteps, (1,), generator=generator)
            noise[row] = torch.randn(clean.shape[1:], generator=generator)
        if not self.fixed:
            self.step += 1
        clean, noise, timesteps = (x.to(device, non_blocking=non_blocking) for x in (clean, noise, timesteps))
        return clean, noise, (), {"noise": noise, "timesteps": timesteps}


class NoisePredictionInferer(Inferer):
    """Training inferer: ``(features, network, noise, timesteps) ->`` the noise predicted in the noised features."""

    def __init__(self, num_train_timesteps: int = 1000) -> None:
        super().__init__()
        self.alphas_cumprod = linear_alphas_cumprod(num_train_timesteps)

    def __call__(
        self, inputs: Tensor, network: Callable[..., Tensor], noise: Tensor, timesteps: Tensor, **kwargs: Any
    ) -> Tensor:
        """Return eps(x_t, t), the shape of ``inputs`` (B, C, h, w)."""
        return network(add_noise(inputs, noise, timesteps, self.alphas_cumprod), timesteps)
