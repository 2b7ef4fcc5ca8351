"""One trained model of a design, measured: its figures on ``valid`` and ``test``, and those of resampled patients.

On ``valid`` the abnormal images stand against the normal ones that the model's training held out. All models of a kind
of data are resampled by the same draws of its patients, whatever the design, the seed and the fold, so that
differences between designs are paired, and a patient who is in several folds is drawn once.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import numpy as np

from invad_med.data.bmad import BmadDataset, BmadItem
from invad_med.data.modalities import Modality
from invad_med.detection import AnomalyDetector
from invad_med.evaluation.judge import judge
from invad_med.evaluation.method import Scored
from invad_med.evaluation.truth import Truth
from invad_med.features.cached import cached_features
from invad_med.features.endpoints import walked
from invad_med.files import write_atomically
from invad_med.metrics.bootstrap import RESAMPLES, resample_weights

FALSE_POSITIVE_RATE = 0.05  # of the threshold that both shares are above
_FORMAT = 1  # of the file; another one is measured anew


class Quantity(str, Enum):
    """A figure of a model, called ``<split>_<figure>``."""

    __str__ = str.__str__

    VALID_AUROC = "valid_image_auroc"
    VALID_PIXEL_AP = "valid_pixel_ap"
    TEST_AUROC = "test_image_auroc"
    TEST_PIXEL_AP = "test_pixel_ap"
    TEST_SENSITIVITY = "test_sensitivity"
    TEST_FALSE_POSITIVES = "test_false_positive_rate"

    @property
    def of_split(self) -> str:
        """``valid`` or ``test``."""
        return self.partition("_")[0]

    @property
    def figure(self) -> str:
        """Name in `invad_med.evaluation.judge.Judgement`."""
        return self.partition("_")[2]


@dataclass(frozen=True)
class Sample:
    """A figure and what it is of every resample: (resamples,), NaN where a resample has one class only."""

    value: float
    replicates: np.ndarray = field(repr=False)


@dataclass(frozen=True)
class Measured:
    """What one model reaches, with all that says whether it is to be measured again.

    Args:
        trained: digest of what its training was asked for.
        model: digest of the checkpoint.
        drawn: digest of the draws.
        tested: whether ``test`` was measured too, where there is one.
        images: digest of the images of ``valid`` that were measured, normal and abnormal.
        units: how many different patients (or images, where none is known) the normal and the abnormal ones are of.
        samples: figures by quantity; one that does not exist is not there.
    """

    trained: str
    model: str
    drawn: str
    tested: bool
    images: str
    units: tuple[int, int]
    samples: Mapping[Quantity, Sample] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write all of it to one file, whole or not at all."""
        about = {
            "format": _FORMAT, "trained": self.trained, "model": self.model, "drawn": self.drawn,
            "tested": self.tested, "images": self.images, "units": list(self.units),
        }  # fmt: skip
        arrays = {str(q): np.append(sample.value, sample.replicates) for q, sample in self.samples.items()}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, about=np.array(json.dumps(about)), **arrays)  # type: ignore[arg-type]
        write_atomically(path, buffer.getvalue())


def read_measured(path: Path) -> Measured | None:
    """Return what `Measured.write` wrote, or None: there is no such file, it is damaged or of another version."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            about = json.loads(str(stored["about"]))
            if about.pop("format") != _FORMAT:
                return None
            samples = {q: Sample(float(stored[q][0]), stored[q][1:]) for q in Quantity if q in stored.files}
            return Measured(**about | {"units": tuple(about["units"])}, samples=samples)
    except Exception:  # a damaged archive raises whatever zip, zlib, NumPy or JSON raise: it is made anew
        return None


def kind_of(name: str) -> str:
    """Return the kind of data of a data set: its folder's name, less ``_fold<number>``."""
    return re.sub(r"_fold\d+$", "", name) or name


@dataclass(frozen=True)
class Draws:
    """Resamples of patients, by patient.

    Args:
        names: (G,) patients, or images of no known patient, in order.
        weights: (resamples, G) how often each is in each.
    """

    names: tuple[str, ...]
    weights: np.ndarray

    @classmethod
    def of(cls, names: Iterable[str], seed: str, resamples: int = RESAMPLES) -> Draws:
        """Draw: the same for the same names and seed."""
        ordered = tuple(sorted(set(names)))
        number = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big")
        return cls(ordered, resample_weights(len(ordered), resamples, number))

    def among(self, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return groups (N,) in [0, g) of images of such patients, and the draws of these: (resamples, g)."""
        place = {name: i for i, name in enumerate(self.names)}
        used, groups = np.unique([place[name] for name in names], return_inverse=True)
        return groups, self.weights[:, used]

    def digest(self) -> str:
        """Return 16 hex digits that say whose draws they are, and how many."""
        return hashlib.sha256(json.dumps([self.names, len(self.weights)]).encode()).hexdigest()[:16]


def units(dataset: BmadDataset) -> dict[Path, str]:
    """Return whom each image is of: the manifest's patient, else the image's own content, which has no other name."""
    return {item.image: f"group {item.group}" if item.group else content(item.image) for item in dataset.items}


def content(path: Path) -> str:
    """Return a digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def draws_of(kind: str, datasets: Sequence[tuple[BmadDataset, Mapping[Path, str]]]) -> dict[str, Draws]:
    """Return the draws of a kind by split that there is: of all who can be measured on it.

    On ``valid`` these are the normal ones of ``train`` too, of which trainings hold out some.

    Args:
        kind: its name, by which the draws of kinds are independent.
        datasets: its folds, each with its `units`.
    """
    names: dict[str, set[str]] = {"valid": set(), "test": set()}
    for dataset, unit in datasets:
        for item in dataset.items:
            if item.split != "train" or not item.label:
                names["test" if item.split == "test" else "valid"].add(unit[item.image])
    return {split: Draws.of(found, f"{kind} {split}") for split, found in names.items() if found}


def measure(
    detector: AnomalyDetector,
    dataset: BmadDataset,
    modality: Modality,
    images: Sequence[Path],
    draws: Draws,
    unit: Mapping[Path, str],
    cache_dir: str | Path | None,
) -> dict[str, Sample]:
    """Return the figures of some images of a data set: name as in `invad_med.evaluation.judge.Judgement` -> sample.

    Args:
        detector: calibrated, on the device to compute on.
        dataset: which the images are of.
        modality: how they are prepared.
        images: N files.
        draws: of those they are of.
        unit: whom each image is of.
        cache_dir: folder of features, or None: not kept.

    Raises:
        ValueError: the detector is not calibrated, or scores something as no number.
        ReadError: an image cannot be read.
    """
    if detector.withheld is not None:
        raise ValueError(detector.withheld)
    item: dict[Path, BmadItem] = {item.image: item for item in dataset.items}
    groups, weights = draws.among([unit[path] for path in images])
    raw = cached_features(detector.host, images, modality, cache_dir)
    seen, calibration = walked(detector.host, raw, detector.timesteps), detector.calibration
    scores, maps = calibration.score(seen.end_point).numpy(), calibration.map(seen).numpy()
    if not (np.isfinite(scores).all() and np.isfinite(maps).all()):
        raise ValueError("the model makes scores that are no numbers: its training diverged")
    truth = Truth(
        dataset.root,
        modality,
        tuple(images),
        tuple(item[path].mask for path in images),
        np.array([item[path].label for path in images]),
        groups,
        False,
        np.full(len(images), np.nan),
    )
    judged = judge(truth, Scored(scores, maps, calibration.references.threshold(FALSE_POSITIVE_RATE)), weights)
    nothing = np.full(len(weights), np.nan)  # one patient says nothing of how patients differ
    return {
        name: Sample(value, judged.replicates[name] if weights.shape[1] > 1 else nothing)
        for name, value in judged.values.items()
    }
