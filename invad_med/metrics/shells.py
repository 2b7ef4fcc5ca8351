"""MONAI metrics over the pure functions, for engines and handlers, right across processes."""

from __future__ import annotations

from typing import Any, Literal

import ignite.distributed as idist
import torch
from monai.metrics import CumulativeIterationMetric
from monai.utils import evenly_divisible_all_gather
from torch import Tensor

from invad_med.metrics import image
from invad_med.metrics.pixel import PixelCounts


class ImageMetric(CumulativeIterationMetric):
    """AUROC, AP or largest F1 of image scores (B,) or (B, 1) against labels of the same shape.

    Args:
        metric: which.
    """

    def __init__(self, metric: Literal["auroc", "ap", "f1max"] = "auroc") -> None:
        super().__init__()
        self.metric = metric

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, **kwargs: Any) -> Tensor:
        if y is None:
            raise ValueError("labels are needed: call the metric with (scores, labels)")
        return torch.stack([y_pred.detach().double().reshape(-1), y.detach().double().reshape(-1)], dim=1)

    def aggregate(self, *args: Any, **kwargs: Any) -> float | None:
        """Return the figure over all that was seen, in all processes; None if one class is absent."""
        seen = torch.stack(list(self._buffers[0])) if self._buffers else torch.zeros(0, 2, dtype=torch.float64)
        scores, labels = gathered(seen).numpy().T
        found = {"auroc": image.auroc, "ap": image.average_precision, "f1max": image.f1_max}[self.metric](
            labels, scores
        )
        return found[0] if isinstance(found, tuple) else found


class PixelMetric(CumulativeIterationMetric):
    """Pixel AUROC, AP, largest F1 or AUPRO of maps (B, 1, H, W) against masks of the same shape, in fixed memory.

    Args:
        metric: which.
    """

    def __init__(self, metric: Literal["auroc", "ap", "f1max", "aupro"] = "auroc") -> None:
        super().__init__()
        self.metric = metric
        self.counts = PixelCounts()

    def reset(self) -> None:
        """Forget all images."""
        super().reset()
        self.counts = PixelCounts()

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, **kwargs: Any) -> Tensor:
        if y is None:
            raise ValueError("masks are needed: call the metric with (maps, masks)")
        for values, mask in zip(y_pred.detach().cpu(), y.detach().cpu(), strict=True):
            self.counts.add(values.float().numpy()[0], mask.numpy()[0])
        return torch.zeros(len(y_pred), 1)  # the buffer needs something to hold; the counts are what counts

    def aggregate(self, *args: Any, **kwargs: Any) -> float | None:
        """Return the figure over all that was seen, in all processes; None if one class is absent."""
        counts = PixelCounts()
        counts.merge_sparse(gathered(torch.from_numpy(self.counts.sparse().T.copy())).numpy().T)
        return counts.figures()[self.metric]


def gathered(rows: Tensor) -> Tensor:
    """Return the rows (n, k) of all processes on the CPU, whatever n each has, even none; as they are for one."""
    if idist.get_world_size() == 1:
        return rows.cpu()
    return evenly_divisible_all_gather(rows.to(idist.device()), concat=True).cpu()
