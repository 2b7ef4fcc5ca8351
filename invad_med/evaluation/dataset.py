"""One data set, start to end: its images scored by every method, every score measured."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

from tqdm import tqdm

from invad_med.data.bmad import BmadDataset
from invad_med.data.copies import notes_on_copies
from invad_med.data.modalities import Modality
from invad_med.detection import AnomalyDetector
from invad_med.evaluation.batch import Batch, Images, cut
from invad_med.evaluation.floor import Floor
from invad_med.evaluation.judge import judge, judge_studies
from invad_med.evaluation.method import Method, NoMeaning
from invad_med.evaluation.methods import BASELINES, METHODS
from invad_med.evaluation.notes import notes_on
from invad_med.evaluation.plan import Plan
from invad_med.evaluation.record import OWN, Evaluation
from invad_med.evaluation.studies import find_studies
from invad_med.evaluation.truth import Truth, read_truth
from invad_med.files import data_digest
from invad_med.metrics.bootstrap import resample_weights
from invad_med.parallel import processes, rank, together


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
    start = time.perf_counter()
    methods: dict[str, Method] = {}
    floor, notes = None, [*dataset.notes, *notes_on_copies(dataset)]
    for name, make in METHODS.items():
        try:
            methods[name] = make(detector, plan)
        except NoMeaning as error:
            notes.append(f"{name} is not measured: {error}")
    train, valid = _learnt_from(dataset, modality, detector, plan) if plan.baselines else (None, None)
    if train is not None:
        methods |= {name: make(detector, plan) for name, make in BASELINES.items()}
        floor = Floor(truth, train.truth)
    elif plan.baselines:
        notes.append("baselines skipped: there is no train split with normal images to fit them on")
    for method in methods.values():
        method.fit(train, valid)
    del train, valid  # with the features they hold
    fitted = time.perf_counter()
    _score(truth, detector, methods, floor, plan.batch_size, f"scoring {dataset.root.resolve().name}")
    result = Evaluation(
        dataset.root.resolve().name,
        truth,
        plan,
        detector.provenance,
        hashlib.sha256(Path(ckpt_path).read_bytes()).hexdigest()[:16],
        data_digest(truth.images),
        published=_published(dataset, plan.split),
        scored={name: method.scored() for name, method in methods.items()},
        about={name: method.about for name, method in methods.items()},
    )
    result.studies = find_studies(truth, result.own, detector, plan.false_positive_rate)
    result.notes = [*notes, *([floor.sentence()] if floor else []), *notes_on(result)]
    scored = time.perf_counter()
    if rank() > 0:  # one measures
        return result
    weights = resample_weights(int(truth.groups.max()) + 1, plan.resamples, plan.seed)
    for name, value in tqdm(result.scored.items(), desc=f"measuring {result.name}", unit="score"):
        result.judged[name] = judge(truth, value, weights)
    if result.studies is not None:
        judge_studies(result.judged[OWN], result.studies, weights)
    result.seconds = {
        "fitting baselines": fitted - start,
        "scoring": scored - fitted,
        "measuring": time.perf_counter() - scored,
    }
    return result


def _learnt_from(
    dataset: BmadDataset, modality: Modality, detector: AnomalyDetector, plan: Plan
) -> tuple[Images | None, Images | None]:
    """Return the normal training images and those of ``valid``, each None where there are none to use."""
    splits = {item.split for item in dataset.items if item.split != "train" or not item.label}
    if "train" not in splits:
        return None, None
    train = Images(read_truth(dataset, "train", modality).normals(), detector, plan.cache_dir)
    if "valid" not in splits or plan.split == "valid":
        return train, None
    return train, Images(read_truth(dataset, "valid", modality), detector)


def _score(
    truth: Truth,
    detector: AnomalyDetector,
    methods: dict[str, Method],
    floor: Floor | None,
    batch_size: int,
    title: str,
) -> None:
    """Give every method every image, each decoded once, and place its mask; gather what several processes did."""
    takers: list[Method | Floor] = [*methods.values(), *([floor] if floor else [])]

    def score() -> None:
        mine = cut(len(truth.images), batch_size)[rank() :: processes()]
        for rows in tqdm(mine, desc=title, unit="batch", disable=rank() > 0):
            batch = Batch(truth, rows, detector)
            for taker in takers:
                taker.add(batch)
            if truth.has_masks:
                for i, image in zip(rows, batch.slices, strict=True):
                    truth.place(i, image)

    together(score)
    for taker in takers:
        taker.gather()
    truth.share_masks()


def _published(dataset: BmadDataset, split: str) -> str | None:
    """Return the published set's name if this is its test split, so that figures compare with the literature's."""
    is_it = split == "test" and dataset.is_as_published(split)
    return dataset.published.name if dataset.published and is_it else None
