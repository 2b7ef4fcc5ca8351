"""One data set, start to end: which model, which scores, which figures, which differences."""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from invad_med.data.bmad import BmadDataset
from invad_med.data.modalities import Modality, all_modalities, find_modality, require_modality
from invad_med.data.transforms import to_image
from invad_med.detection import AnomalyDetector, ModelFiles, Provenance, read_provenance
from invad_med.evaluation.baselines import STATISTICS, trivial_statistics
from invad_med.evaluation.judge import Judgement, Scored, judge
from invad_med.evaluation.methods import OwnScores, batches, image_features, make_baselines
from invad_med.evaluation.truth import Truth, read_truth
from invad_med.files import data_digest
from invad_med.metrics.bootstrap import Figure, paired_difference, resample_weights
from invad_med.metrics.image import auroc
from invad_med.parallel import processes, rank, together

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What to do with every data set.

    Args:
        split: to measure on.
        baselines: whether to measure the four baselines too.
        false_positive_rate: of the thresholds.
        resamples, seed: of the bootstrap.
        batch_size: images at a time.
        cache_dir: folder for the training features of the baselines, or None.
    """

    split: str = "test"
    baselines: bool = False
    false_positive_rate: float = 0.05
    resamples: int = 1000
    seed: int = 0
    batch_size: int = 16
    cache_dir: str | None = None


@dataclass
class Evaluation:
    """All that was found out about one data set.

    Args:
        name: of its folder.
        truth, plan: what was measured and how.
        provenance: of the model, as its checkpoint states.
        checkpoint_digest: 16 hex digits of the checkpoint file's SHA-256.
        data_digest: of the split's images, see `invad_med.files.data_digest`.
        scored, judged: by name of the score, ``calibrated`` first.
        p_values: (N,) calibrated p-values.
        notes: what the reader should know.
        seconds: wall time of scoring (reading included) and of measuring.
    """

    name: str
    truth: Truth
    plan: Plan
    provenance: Provenance
    checkpoint_digest: str
    data_digest: str
    scored: dict[str, Scored] = field(default_factory=dict)
    judged: dict[str, Judgement] = field(default_factory=dict)
    p_values: np.ndarray = field(default_factory=lambda: np.zeros(0))
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def differences(self, other: str) -> dict[str, Figure]:
        """Return calibrated minus another score, paired, for each figure both have."""
        ours, theirs = self.judged["calibrated"], self.judged[other]
        a, b = ours.figures, theirs.figures
        return {
            name: paired_difference(a[name], b[name], ours.replicates[name], theirs.replicates[name])
            for name in a
            if name in b and not name.endswith("threshold")
        }


def evaluate_dataset(
    dataset: BmadDataset, modality: Modality, detector: AnomalyDetector, ckpt_path: str | Path, plan: Plan
) -> Evaluation:
    """Score a data set's split and measure every score.

    Of several processes each scores its share, and the first measures: in the others nothing is ``judged``.

    Args:
        dataset: as `invad_med.data.bmad.read_tree` gives it.
        modality: how its images are prepared.
        detector: calibrated, on the device to compute on.
        ckpt_path: the file it was loaded from.
        plan: what to do.

    Raises:
        ValueError: no image in the split, or a detector that is not calibrated.
        ReadError: an image cannot be read.
    """
    truth = read_truth(dataset, plan.split, modality)
    result = Evaluation(
        dataset.root.resolve().name,
        truth,
        plan,
        detector.provenance,
        hashlib.sha256(Path(ckpt_path).read_bytes()).hexdigest()[:16],
        data_digest(truth.images),
        notes=list(dataset.notes),
    )
    start = time.perf_counter()
    own = OwnScores(detector, plan.false_positive_rate)
    baselines = _baselines(result, dataset, detector) if plan.baselines else {}
    fitted = time.perf_counter()
    methods = [own, *baselines.values()]
    mine = batches(len(truth.images), plan.batch_size)[rank() :: processes()]

    def score() -> None:
        for part in tqdm(mine, desc=f"scoring {result.name}", unit="batch", disable=rank() > 0):
            x = image_features(detector, truth, part)
            for method in methods:
                method.add(x)

    together(score)
    for method in methods:
        method.gather()
    result.scored, result.p_values = own.scored()
    result.scored |= {name: baseline.scored() for name, baseline in baselines.items()}
    scored = time.perf_counter()
    _note(result)
    if rank() > 0:  # one measures
        return result
    weights = resample_weights(int(truth.groups.max()) + 1, plan.resamples, plan.seed)
    for name, value in tqdm(result.scored.items(), desc=f"measuring {result.name}", unit="score"):
        result.judged[name] = judge(truth, value, weights)
    result.seconds = {
        "fitting baselines": fitted - start,
        "scoring": scored - fitted,
        "measuring": time.perf_counter() - scored,
    }
    return result


def _baselines(result: Evaluation, dataset: BmadDataset, detector: AnomalyDetector) -> dict[str, Any]:
    splits = {item.split for item in dataset.items if item.split != "train" or not item.label}
    if "train" not in splits:
        result.notes.append("baselines skipped: there is no train split with normal images to fit them on")
        return {}
    modality = result.truth.modality
    result.notes.append(_floor(result.truth, read_truth(dataset, "train", modality)))
    valid = read_truth(dataset, "valid", modality) if "valid" in splits and result.plan.split != "valid" else None
    return make_baselines(detector, read_truth(dataset, "train", modality), valid, result.plan.cache_dir)


def _floor(truth: Truth, train: Truth, size: int = 64, most: int = 1000) -> str:
    """Return a sentence on the best of eight statistics that know nothing of anatomy, in its better direction."""
    normal = np.flatnonzero(train.labels == 0)
    chosen = np.random.default_rng(0).permutation(normal)[:most].tolist()
    if len(chosen) < 2 or len(set(truth.labels.tolist())) < 2:
        return "no trivial statistic: it needs two normal training images and both classes"
    images, normals = (
        np.stack([to_image(t.piece(i), t.modality, size).mean(0).numpy() for i in rows])
        for t, rows in ((truth, range(len(truth.images))), (train, chosen))
    )
    values = {
        name: auroc(truth.labels, column) or 0.0
        for name, column in zip(STATISTICS, trivial_statistics(images, normals).T, strict=True)
    }
    best = max(values, key=lambda name: max(values[name], 1.0 - values[name]))
    return (
        f"the floor: of eight statistics that know nothing of anatomy, {best!r} reaches image AUROC "
        f"{max(values[best], 1.0 - values[best]):.3f}, direction and choice with hindsight"
    )


def _note(result: Evaluation) -> None:
    truth, own = result.truth, result.scored["calibrated"]
    groups = int(truth.groups.max()) + 1
    if len(set(truth.labels.tolist())) < 2:
        result.notes.append("images of one class only: no figure that compares classes exists")
    if truth.has_masks and None in truth.masks and bool((truth.labels == 0).any()):
        result.notes.append("normal images without a mask file count as normal in every pixel")
    if not truth.grouped:
        result.notes.append("no patient is known: images are resampled one by one, intervals may be too narrow")
    elif groups < 20:
        result.notes.append(f"only {groups} groups to resample: read the intervals with care")
    for what, limit in (("image", own.threshold), ("pixel", own.map_threshold)):
        if limit is None:
            result.notes.append(
                f"no {what} threshold at a false-positive rate of {result.plan.false_positive_rate:g}: "
                "too few held-out normal images support it"
            )
    trained_on = result.provenance.modality
    if trained_on and trained_on != truth.modality.name:
        result.notes.append(f"the model was trained for {trained_on}, the images are prepared as {truth.modality.name}")


def choose_modality(dataset: BmadDataset, named: str | None, alone: bool, ckpt_path: str | None) -> Modality:
    """Return the modality by which a data set's images are prepared.

    ``named`` decides for a data set given alone; else its name does; else, alone, the given checkpoint.

    Raises:
        ValueError: none of them says.
    """
    if named and alone:
        return require_modality(named)
    if dataset.modality:
        return dataset.modality
    if alone and ckpt_path and (modality := find_modality(read_provenance(ckpt_path).modality or "")):
        return modality
    raise ValueError(
        f"the folder's name {dataset.root.resolve().name!r} is none of the known data sets: evaluate it alone with "
        f"--modality, one of {', '.join(all_modalities())}"
    )


def choose_checkpoint(name: str, ckpt_path: str | None, models_dir: str | Path, alone: bool) -> Path:
    """Return a modality's checkpoint: the given one if it is for it (or the data set is given alone), else its own.

    Raises:
        ValueError: there is none.
    """
    if ckpt_path and (alone or read_provenance(ckpt_path).modality == name):
        return Path(ckpt_path)
    return ModelFiles.in_folder(models_dir)[name]
