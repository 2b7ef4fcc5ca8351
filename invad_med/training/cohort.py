"""Which normal images a model learns from, and which it is selected and calibrated on: never the same group."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from invad_med.data.bmad import datalist, read_tree
from invad_med.data.modalities import Modality, all_modalities, require_modality


@dataclass(frozen=True)
class Cohort:
    """The images of one data set by what training may do with them.

    Args:
        modality: how its images are prepared.
        train: normal images the denoiser learns from.
        held_out: normal images for selection and calibration, of groups that ``train`` does not have.
        abnormal: abnormal images of ``valid``, for selection alone.
    """

    modality: Modality
    train: tuple[Path, ...]
    held_out: tuple[Path, ...]
    abnormal: tuple[Path, ...] = ()


def read_cohort(
    dataset_dir: str | Path,
    modality: str | None = None,
    held_out_fraction: float = 0.15,
    seed: int = 0,
    train_fraction: float = 1.0,
    fold: str | None = None,
) -> Cohort:
    """Divide a data set's images: nothing of ``test`` is touched, and abnormal ones of ``valid`` serve selection alone.

    Held out are all of ``valid/good`` and, of ``train/good``, whole groups (patients, where a manifest names them; else
    single images) in a seeded order until ``held_out_fraction`` of the images is reached.

    Args:
        dataset_dir: one data set in any of BMAD's layouts.
        modality: what the images show, for a folder whose name does not say it.
        held_out_fraction: share of the training normals to hold out, 0 <= fraction < 1.
        seed: of the order.
        train_fraction: share of what is not held out to learn from, 0 < fraction <= 1, by whole groups: to measure
            what more data would bring.
        fold: ``"k/K"``, 1 <= k <= K: divide what would be learnt from into K parts of whole groups, and hold out the
            kth alone, to cross-fit.

    Raises:
        ValueError: an unreadable tree, an unknown modality, or no image left to train or to calibrate on.
    """
    if not 0.0 <= held_out_fraction < 1.0:
        raise ValueError(f"held_out_fraction={held_out_fraction} must be at least 0 and below 1")
    if not 0.0 < train_fraction <= 1.0:
        raise ValueError(f"train_fraction={train_fraction} must be above 0 and at most 1")
    shown = require_modality(modality) if modality else read_tree(dataset_dir)[0].modality
    if shown is None:
        raise ValueError(
            f"nothing says what the images of {dataset_dir} show: give --modality one of {', '.join(all_modalities())}"
        )
    items = datalist(dataset_dir, "train", good_only=True)
    groups: dict[str, list[Path]] = {}
    for item in items:
        groups.setdefault(item["group"] or item["image"], []).append(Path(item["image"]))
    order = sorted(groups, key=lambda name: hashlib.sha256(f"{seed}:{Path(name).name}".encode()).digest())
    held_out: list[Path] = []
    chosen: set[str] = set()
    for name in order[:-1]:  # at least one group is left to learn from
        if len(held_out) >= held_out_fraction * len(items):
            break
        # A group that alone is most of the set would leave too little: skip it.
        if len(held_out) + len(groups[name]) <= 2 * held_out_fraction * len(items):
            held_out += groups[name]
            chosen.add(name)
    valid = datalist(dataset_dir, "valid")
    held_out += [Path(item["image"]) for item in valid if not item["label"]]
    abnormal = [Path(item["image"]) for item in valid if item["label"]]
    remaining = [name for name in reversed(order) if name not in chosen]
    wanted = train_fraction * sum(len(groups[name]) for name in remaining)
    learnt: list[list[Path]] = []
    for name in remaining:
        if sum(map(len, learnt)) < wanted:
            learnt.append(groups[name])
    if fold is not None:
        learnt, held_out = _without_fold(learnt, fold)
    train = [path for group in learnt for path in group]
    if not held_out:
        raise ValueError(
            f"{dataset_dir} has no normal image to calibrate on: raise held_out_fraction or add valid/good"
        )
    return Cohort(shown, tuple(sorted(train)), tuple(sorted(held_out)), tuple(sorted(abnormal)))


def _without_fold(groups: list[list[Path]], fold: str) -> tuple[list[list[Path]], list[Path]]:
    """Return the groups to learn from and the images to hold out: parts of about as many images, large groups first."""
    match = re.fullmatch(r"(\d+)/(\d+)", fold)
    k, count = map(int, match.groups()) if match else (0, 0)
    if not 1 <= k <= count or count < 2:
        raise ValueError(f"fold={fold!r} must be k/K with 1 <= k <= K and K of at least 2, such as 1/5")
    if count > len(groups):
        raise ValueError(f"fold={fold}: there are only {len(groups)} groups of normal training images to divide")
    parts: list[list[list[Path]]] = [[] for _ in range(count)]
    for group in sorted(groups, key=len, reverse=True):
        min(parts, key=lambda part: sum(map(len, part))).append(group)
    rest = [group for i, part in enumerate(parts, start=1) if i != k for group in part]
    return rest, [path for group in parts[k - 1] for path in group]
