"""anomalib's detectors with random weights, which cost as much as trained ones: nothing is fetched.

Each takes images (B, 3, 256, 256) and returns scores and maps as plain tensors, as converters need them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

SIZE = 256  # pixels a side
_BANK = 7680  # positions of PatchCore's memory: a hundredth of those of 750 images


class TensorsOnly(nn.Module):
    """A detector of anomalib that returns score and map instead of its record.

    Args:
        model: in evaluation mode.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores (B,) or (B, 1), and maps (B, 1, H, W)."""
        found = self.model(images)
        return found.pred_score, found.anomaly_map


def _padim() -> nn.Module:
    from anomalib.models.image.padim.torch_model import PadimModel

    model = PadimModel("resnet18", ["layer1", "layer2", "layer3"], pre_trained=False)
    positions, features = (SIZE // 4) ** 2, int(model.n_features)
    model.gaussian.mean = torch.rand(features, positions)
    model.gaussian.inv_covariance = torch.eye(features).expand(positions, -1, -1).contiguous()
    return model


def _stfpm() -> nn.Module:
    import timm
    from anomalib.models.image.stfpm.torch_model import STFPMModel

    create = timm.create_model

    def untrained(*args: Any, **kwargs: Any) -> nn.Module:  # it asks for a pretrained teacher
        return create(*args, **{**kwargs, "pretrained": False})

    with mock.patch.object(timm, "create_model", untrained):
        return STFPMModel(["layer1", "layer2", "layer3"], "resnet18")


def _efficient_ad() -> nn.Module:
    from anomalib.models.image.efficient_ad.torch_model import EfficientAdModel, EfficientAdModelSize

    return EfficientAdModel(model_size=EfficientAdModelSize.S)


def _patchcore() -> nn.Module:
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel

    model = PatchcoreModel(["layer2", "layer3"], "wide_resnet50_2", pre_trained=False)
    model.memory_bank = torch.rand(_BANK, sum(model.feature_extractor.out_dims))
    return model


RIVALS: dict[str, Callable[[], nn.Module]] = {
    "PaDiM, ResNet-18": _padim,
    "STFPM, ResNet-18": _stfpm,
    "EfficientAD-S": _efficient_ad,
    "PatchCore, WRN-50": _patchcore,
}


def make_rival(name: str) -> TensorsOnly:
    """Return a rival by name, ready to run.

    Raises:
        ImportError: anomalib, or a part of it, is not installed.
    """
    torch.manual_seed(0)
    return TensorsOnly(RIVALS[name]().eval()).eval().requires_grad_(False)
