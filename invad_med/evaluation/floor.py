"""The floor: simple statistics of images that know nothing of anatomy, which any detector must beat."""

from __future__ import annotations

import numpy as np

from invad_med.data.transforms import to_image
from invad_med.evaluation.batch import Batch
from invad_med.evaluation.method import Rows
from invad_med.evaluation.truth import Truth
from invad_med.metrics.image import auroc

TRIVIAL_STATISTICS = ("mean", "deviation", "dark", "bright", "gradient", "border", "train mean", "30 components")
_SIZE, _MOST_NORMALS = 64, 1000


def trivial_statistics(images: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Return eight statistics of each image that know nothing of anatomy: (N, 8), as `TRIVIAL_STATISTICS` names them.

    Args:
        images: (N, H, W) grey in [0, 1].
        normals: (M, H, W) normal training images, M > 1, for the distance to their mean and to their first 30
            principal components.
    """
    flat, train = images.reshape(len(images), -1), normals.reshape(len(normals), -1)
    rows, columns = np.gradient(images, axis=(1, 2))
    edge = np.concatenate([images[:, :8].reshape(len(images), -1), images[:, -8:].reshape(len(images), -1)], axis=1)
    centre = train.mean(0)
    components = np.linalg.svd(train - centre, full_matrices=False)[2][:30]
    rest = (flat - centre) - ((flat - centre) @ components.T) @ components
    return np.stack(
        [
            flat.mean(1),
            flat.std(1),
            (flat < 0.2).mean(1),
            (flat > 0.8).mean(1),
            np.hypot(rows, columns).mean((1, 2)),
            edge.mean(1),
            np.linalg.norm(flat - centre, axis=1),
            np.linalg.norm(rest, axis=1),
        ],
        axis=1,
    )


class Floor:
    """The best of the eight statistics on a split, with hindsight.

    Args:
        truth: of the split.
        train: normal training images.
    """

    def __init__(self, truth: Truth, train: Truth) -> None:
        self.truth, self.rows = truth, Rows()
        chosen = np.random.default_rng(0).permutation(len(train.images))[:_MOST_NORMALS].tolist()
        self.exists = len(chosen) > 1 and truth.both_classes
        if self.exists:
            self.normals = np.stack([to_image(train.read(i), train.modality, _SIZE).mean(0) for i in chosen])

    def add(self, batch: Batch) -> None:
        """Take down a batch, as small grey pictures."""
        if self.exists:
            self.rows.add(image=batch.squares(_SIZE).mean(1))

    def gather(self) -> None:
        """Take up what the other processes took down."""
        if self.exists:
            self.rows.gather()

    def sentence(self) -> str:
        """Say what the best statistic reaches, in its better direction."""
        if not self.exists:
            return "no trivial statistic: it needs two normal training images and both classes"
        columns = trivial_statistics(self.rows["image"], self.normals).T
        values = {
            name: auroc(self.truth.labels, column) or 0.0
            for name, column in zip(TRIVIAL_STATISTICS, columns, strict=True)
        }
        best = max(values, key=lambda name: max(values[name], 1.0 - values[name]))
        return (
            f"the floor: of eight statistics that know nothing of anatomy, {best!r} reaches image AUROC "
            f"{max(values[best], 1.0 - values[best]):.3f}, direction and choice with hindsight"
        )
