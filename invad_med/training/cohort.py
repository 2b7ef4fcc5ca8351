"""Which normal images a model learns from, is selected on, and is calibrated on.

| part | its images | what they decide |
|---|---|---|
| train | normal ones of ``train``, less what is held out | the weights, and what normal looks like |
| selection | a share of the held-out normal ones, whole groups | which validated weights are kept, and the rule |
| calibration | the other held-out normal ones | p-values and thresholds |
| abnormal | abnormal ones of ``valid`` | which validated weights are kept, and the rule of the score |

Groups (patients) are divided whole. Whoever chooses the weights on the images that calibrate them makes those look a
little more normal than fresh ones; yet a set too small to be divided is better used twice than halved. So below
`LEAST_CALIBRATION` images for the calibration or `LEAST_SELECTION` for the selection all held-out images do both, and
log and provenance say so.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from invad_med.data.bmad import BmadDataset, read_dataset
from invad_med.data.copies import copies
from invad_med.data.modalities import Modality, how_to_state, require_modality

logger = logging.getLogger(__name__)

LEAST_CALIBRATION = 39  # a false-positive rate of 1 / 40 stays in reach
LEAST_SELECTION = 10

Groups = Mapping[str, Sequence[Path]]


@dataclass(frozen=True)
class Division:
    """How a data set's images are divided; the arguments of `read_cohort`."""

    held_out_fraction: float = 0.15
    selection_fraction: float = 1 / 3
    train_fraction: float = 1.0
    fold: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.held_out_fraction < 1.0:
            raise ValueError(f"held_out_fraction={self.held_out_fraction} must be at least 0 and below 1")
        if not 0.0 <= self.selection_fraction < 1.0:
            raise ValueError(f"selection_fraction={self.selection_fraction} must be at least 0 and below 1")
        if not 0.0 < self.train_fraction <= 1.0:
            raise ValueError(f"train_fraction={self.train_fraction} must be above 0 and at most 1")


@dataclass(frozen=True)
class Cohort:
    """The images of one data set by what training may do with them, see the table above.

    Args:
        modality: how its images are prepared.
        train: normal images the denoiser learns from.
        selection: normal images that choose the weights.
        calibration: normal images behind p-values and thresholds; those of ``selection`` or none of its groups.
        abnormal: abnormal images of ``valid``, for selection alone.
        masks: of these, None where there is none.
        patients: whom each image of ``selection``, ``calibration`` and ``abnormal`` is of; one that no manifest names a
            patient of is a patient of its own.
        positions: where each of them lies along the body, 0 to 1; None where unknown.
        division: how they were divided.
    """

    modality: Modality
    train: tuple[Path, ...]
    selection: tuple[Path, ...]
    calibration: tuple[Path, ...]
    abnormal: tuple[Path, ...] = ()
    masks: tuple[Path | None, ...] = ()
    patients: Mapping[Path, str] = field(default_factory=dict)
    positions: Mapping[Path, float | None] = field(default_factory=dict)
    division: Division = Division()

    @property
    def shared(self) -> bool:
        """Whether the images that choose the weights also calibrate them."""
        return self.selection == self.calibration

    @property
    def images(self) -> list[Path]:
        """All images, each once, those that are learnt from first."""
        return list(dict.fromkeys((*self.train, *self.selection, *self.calibration, *self.abnormal)))

    @property
    def held_out(self) -> tuple[Path, ...]:
        """The normal images that are not learnt from."""
        return tuple(sorted({*self.selection, *self.calibration}))


def read_cohort(
    dataset_dir: str | Path,
    modality: str | None = None,
    held_out_fraction: float = 0.15,
    seed: int = 0,
    train_fraction: float = 1.0,
    fold: str | None = None,
    selection_fraction: float = 1 / 3,
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
        fold: ``"k/K"``, 1 <= k <= K: divide what would be learnt from into K parts of whole groups, and calibrate on
            the kth alone, which is not learnt from, to cross-fit. What is held out otherwise serves selection.
        selection_fraction: share of the held-out images that chooses the weights and does not calibrate them,
            0 <= fraction < 1, by whole groups, where there are enough; 0: all do both.

    Raises:
        ValueError: an unreadable tree, an unknown modality, or no image left to train or to calibrate on.
    """
    division = Division(held_out_fraction, selection_fraction, train_fraction, fold, seed)
    dataset = read_dataset(dataset_dir)
    shown = require_modality(modality) if modality else dataset.modality
    if shown is None:
        raise ValueError(f"nothing says what the images of {dataset_dir} show: {how_to_state()}")
    groups = _groups_of_normals(dataset)
    normal = _groups(groups, dataset, "train")
    if not normal:
        raise ValueError(f"{dataset_dir} has no normal image in its train split")
    _warn_of_unknown(dataset)
    order = _seeded(normal, seed)
    chosen = _take(order[:-1], normal, held_out_fraction * _count(normal))  # at least one group is left to learn from
    held_out = _groups(groups, dataset, "valid")
    for name in chosen:
        held_out[name] = [*normal[name], *held_out.get(name, [])]
    remaining = [name for name in reversed(order) if name not in chosen]
    enough = train_fraction * sum(len(normal[name]) for name in remaining)
    learnt: list[str] = []
    for name in remaining:
        if sum(len(normal[other]) for other in learnt) < enough:
            learnt.append(name)
    if not held_out:
        raise ValueError(
            f"{dataset_dir} has no normal image to calibrate on: raise held_out_fraction or add valid/good"
        )
    both = len(set(learnt) & held_out.keys())
    if both:
        logger.warning("%d groups of valid/good are learnt from as well: p-values are too small for them", both)
    if fold is None:
        selection, calibration = (_images(held_out, names) for names in _divide(held_out, selection_fraction, seed))
    else:
        part = _fold(learnt, normal, fold)
        selection, calibration = _images(held_out, held_out), _images(normal, part)
        learnt = [name for name in learnt if name not in part]
    abnormal = sorted(
        (item for item in dataset.items if item.split == "valid" and item.label), key=lambda item: item.image
    )
    patients = groups | {item.image: item.group or str(item.image) for item in abnormal}
    unlearnt = {*selection, *calibration, *(item.image for item in abnormal)}
    return Cohort(
        shown,
        _images(normal, learnt),
        selection,
        calibration,
        tuple(item.image for item in abnormal),
        tuple(item.mask for item in abnormal),
        {image: patients[image] for image in unlearnt},
        {item.image: item.position for item in dataset.items if item.image in unlearnt},
        division,
    )


def _warn_of_unknown(dataset: BmadDataset) -> None:
    """Say how many images no patient is known of, where patients of others are."""
    known = [item.group is not None for item in dataset.items if item.split != "test" and not item.label]
    if any(known) and not all(known):
        logger.warning(
            "manifest.csv names no patient of %d of %d normal images: each counts as a patient of its own, so that a "
            "patient's images may be learnt from and calibrate as well",
            known.count(False),
            len(known),
        )


def _groups(normal: Mapping[Path, str], dataset: BmadDataset, split: str) -> dict[str, Sequence[Path]]:
    """Return the normal images of a split by group."""
    groups: dict[str, list[Path]] = {}
    for item in dataset.items:
        if item.split == split and item.image in normal:
            groups.setdefault(normal[item.image], []).append(item.image)
    return dict(groups)


def _groups_of_normals(dataset: BmadDataset) -> dict[Path, str]:
    """Return the group of each normal image of train and valid, one without being its own.

    Groups that hold one image under two names are one, and images of train that are copies of valid's are left out:
    what was learnt from must not calibrate.
    """
    own = {i.image: i.group or str(i.image) for i in dataset.items if i.split != "test" and not i.label}
    joined: dict[str, str] = {}

    def root(name: str) -> str:
        while name in joined:
            name = joined[name]
        return name

    twice = copies(own)
    for first, *others in twice:
        for other in others:
            if root(own[other]) != root(own[first]):
                joined[root(own[other])] = root(own[first])
    held_out = {item.image for item in dataset.items if item.split == "valid"}
    left_out = {path for same in twice if held_out & {*same} for path in same if path not in held_out}
    if twice:
        logger.warning(
            "%d of %d normal images are copies of others under other names: groups that share one stay together, and "
            "%d of train, copies of images of valid, are not learnt from",
            sum(len(same) - 1 for same in twice),
            len(own),
            len(left_out),
        )
    return {path: root(name) for path, name in own.items() if path not in left_out}


def _seeded(names: Iterable[str], seed: int) -> list[str]:
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{Path(name).name}".encode()).digest())


def _count(groups: Groups) -> int:
    return sum(map(len, groups.values()))


def _images(groups: Groups, names: Iterable[str]) -> tuple[Path, ...]:
    return tuple(sorted(path for name in names for path in groups[name]))


def _take(order: Iterable[str], groups: Groups, images: float) -> list[str]:
    """Return groups, in order, until they have so many images; one that would make it twice that is passed over."""
    taken: list[str] = []
    count = 0
    for name in order:
        if count >= images:
            break
        if count + len(groups[name]) <= 2 * images:
            taken.append(name)
            count += len(groups[name])
    return taken


def _divide(held_out: Groups, fraction: float, seed: int) -> tuple[list[str], list[str]]:
    """Return the groups that select and those that calibrate: all of them twice where there are too few images."""
    names = list(held_out)
    selection = _take(_seeded(names, seed), held_out, fraction * _count(held_out))
    count = sum(len(held_out[name]) for name in selection)
    left = _count(held_out) - count
    if fraction == 0.0:
        return names, names
    if count < LEAST_SELECTION or left < LEAST_CALIBRATION:
        logger.info(
            "%d held-out normal images are too few to divide (at least %d to choose the weights and %d to calibrate): "
            "all of them do both, so that p-values may be a little too small",
            count + left,
            LEAST_SELECTION,
            LEAST_CALIBRATION,
        )
        return names, names
    return selection, [name for name in names if name not in selection]


def _fold(names: Sequence[str], groups: Groups, fold: str) -> list[str]:
    """Return the groups of the fold ``k/K``: parts of about as many images, large groups first."""
    match = re.fullmatch(r"(\d+)/(\d+)", fold)
    k, count = map(int, match.groups()) if match else (0, 0)
    if not 1 <= k <= count or count < 2:
        raise ValueError(f"fold={fold!r} must be k/K with 1 <= k <= K and K of at least 2, such as 1/5")
    if count > len(names):
        raise ValueError(f"fold={fold}: there are only {len(names)} groups of normal training images to divide")
    parts: list[list[str]] = [[] for _ in range(count)]
    for name in sorted(names, key=lambda name: len(groups[name]), reverse=True):
        min(parts, key=lambda part: sum(len(groups[other]) for other in part)).append(name)
    return parts[k - 1]
