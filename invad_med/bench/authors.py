"""The method as its authors' code computes it (arXiv 2504.05662), made of our networks: what ours is compared with.

The backbone runs to its end though nothing reads its last stages, attention takes tensors (B heads, N, d), and every
step embeds its timestep and computes its modulation anew. Weights are ours.
"""

from __future__ import annotations

import timm
import torch.nn.functional as F
from torch import Tensor, nn

from invad_med.detection.detector import AnomalyDetector
from invad_med.detection.host import FeatureHost
from invad_med.detection.whole import WholeDetector
from invad_med.diffusion import inversion_timesteps
from invad_med.networks.dit import Attention
from invad_med.scoring import Calibration


class FlatAttention(nn.Module):
    """The attention of ours, heads beside images in one axis.

    Args:
        attention: whose weights are taken.
    """

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.num_heads, self.qkv, self.proj = attention.num_heads, attention.qkv, attention.proj

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens (B, N, D) mixed: the same shape."""
        B, N, D = x.shape
        size = D // self.num_heads
        parts = self.qkv(x).reshape(B, N, 3, self.num_heads, size).permute(2, 0, 3, 1, 4)  # (3, B, heads, N, d)
        q, k, v = parts.reshape(3, B * self.num_heads, N, size).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v).reshape(B, self.num_heads, N, size)
        return self.proj(mixed.transpose(1, 2).reshape(B, N, D))


def authors_detector(detector: AnomalyDetector) -> WholeDetector:
    """Make the authors' formulation of a detector, which is used up: three evaluations on their grid, norm and score.

    Raises:
        ValueError: a host without a backbone.
    """
    host = detector.host
    if not isinstance(host, FeatureHost):
        raise ValueError("the authors' formulation is of a backbone's features")
    uncut = timm.create_model(
        host.features.backbone, pretrained=False, features_only=True, out_indices=host.features.out_indices
    )
    uncut.load_state_dict(host.features.body.state_dict(), strict=False)
    host.features.body = uncut
    for block in list(host.denoiser.modules()):
        for name, child in list(block.named_children()):
            if isinstance(child, Attention):
                setattr(block, name, FlatAttention(child))
    timesteps = inversion_timesteps(3, "official", len(host.alphas_cumprod))
    whole = WholeDetector(host, Calibration(host.channels), timesteps, calibrated=False)
    return whole.eval().requires_grad_(False)
