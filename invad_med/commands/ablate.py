"""The paper's ablation on every data set under a folder: components, evaluations, scores, grids, and other designs.

Tables without training are of models that are there (--ckpt_path, --models_dir, --pixel, --latent) or of one trained
here; the others train each of their designs. Every row has image AUROC and, where there are masks, pixel AP of test,
with intervals over patients and paired differences to the walk of three evaluations on the paper's grid, evaluations,
and core-ms an image. Whatever a row chooses it chooses on valid.

Before it begins it times a few evaluations and says how long it will take; rows that do not fit in --minutes are listed
as not measured. A run that was cut, or is given more minutes, goes on with the same command: what is measured is not
measured again. A data set that cannot be measured is named, the others are done, and the exit status is 3. Writes
ablation.html, ablation.csv and ablation.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

import invad_med
from invad_med.bench.machine import this_machine
from invad_med.commands.arguments import add_output_dir, add_root, count, keys_of
from invad_med.commands.designs import (
    Failed,
    Material,
    WrongKeys,
    find_material,
    measured_earlier,
    modality_keys,
    one,
)
from invad_med.commands.rules import cohort_of
from invad_med.data.published_sets import modality_of_folder
from invad_med.data.slices import ReadError
from invad_med.detection import ModelFiles, load_detector
from invad_med.detection.detector import AnomalyDetector
from invad_med.evaluation.ablating import (
    CHOICE_STEPS,
    Images,
    Subject,
    WayMeasured,
    draw,
    inputs_digest,
    read_way,
    seconds_per_evaluation,
)
from invad_med.evaluation.ablation import (
    DEFAULT,
    DESIGNS,
    GIVEN,
    LATENT,
    PIXEL,
    THERE,
    THREE_STEPS,
    WITHOUT_TRAINING,
    Group,
    Way,
    rows_of,
)
from invad_med.evaluation.ablation_tables import (
    OfDataset,
    metrics_of,
    outcome_of,
    parent_metrics,
    write_ablation,
)
from invad_med.evaluation.design_tables import Run
from invad_med.evaluation.designs import content, kind_of
from invad_med.evaluation.run import INCOMPLETE
from invad_med.evaluation.tracker import TrackingError
from invad_med.files import data_digest
from invad_med.hosts.adapted import AdaptedHost
from invad_med.networks import create_denoiser, find_recipe
from invad_med.networks.features import PACKAGED_WEIGHTS, packaged_file
from invad_med.options import read_overrides
from invad_med.options.check import WRONG
from invad_med.tracking.describe import as_params, printable_name
from invad_med.tracking.log import log_run
from invad_med.tracking.record import DatasetRun, RunRecord
from invad_med.tracking.store import Store
from invad_med.training.cohort import read_cohort

EXAMPLES = """\
  python -m invad_med ablate BMAD --models_dir models --tables components steps scores grids
  python -m invad_med ablate BMAD/Brain --ckpt_path brain.pt --pixel ddpm.pt --tables hosts --minutes 30
  python -m invad_med ablate BMAD --tables denoisers normalisation --steps 500 --minutes 120 --images 1000
"""
_TRAIN_PASSES = 4.0  # evaluations that an image of a training costs: forward, backward, and the validations
_NOT_GIVEN = {
    PIXEL: "needs --pixel, a model of a diffusion host in pixel space",
    LATENT: "needs --latent, a model of a diffusion host in a latent space",
}
_SET_HERE = ("dataset_dir", "output_dir", "ckpt_path", "seed", "steps", "cache_dir")
_RECIPE = ("batch_size", "accumulation_steps", "steps")
_CHANNELS, _REDUCTION, _BATCH = 192, 16, 16  # of the usual backbone, for estimates
_ERRORS = (Failed, ValueError, FileNotFoundError, ReadError)


@dataclass
class Task:
    """What is measured at once: ways of one model on one data set, each by some scores.

    Args:
        dataset: name.
        design: whose model.
        scores: by way.
        seconds: of a core (of the clock on a GPU) that what is not there is expected to take.
    """

    dataset: str
    design: str
    scores: dict[Way, list[str]]
    seconds: float = 0.0

    def __str__(self) -> str:
        ways = str(next(iter(self.scores))) if len(self.scores) == 1 else f"{len(self.scores)} ways"
        return f"{self.design} on {self.dataset}, {ways}"


class Ablation:
    """All data sets of one command.

    Args:
        options: as the command line gives them.
        material: by name of the data set.
    """

    def __init__(self, options: argparse.Namespace, material: dict[str, Material]) -> None:
        self.options, self.material = options, material
        folders = (options.ckpt_path or options.models_dir, options.pixel, options.latent)
        self.given: dict[str, Path | None] = dict(zip(THERE, folders, strict=True))
        self.base = GIVEN if self.given[GIVEN] else DEFAULT
        self.rows = [row for group in options.tables for row in rows_of(group, self.base)]
        self.cache_dir: Path = options.cache_dir or options.output_dir / "features"
        self.device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
        self.done: dict[str, dict[tuple[str, Way], WayMeasured]] = {name: {} for name in material}
        self.why_not: dict[str, dict[tuple[str, Way, str], str]] = {name: {} for name in material}
        self._subjects: dict[tuple[str, str], Subject] = {}

    def tasks(self, dataset: str) -> list[Task]:
        """Return what is to be measured of a data set: models that are there a way at a time.

        Raises:
            Failed, ValueError, FileNotFoundError, ReadError: it cannot be.
        """
        wanted: dict[str, dict[Way, list[str]]] = {}
        for row in self.rows:
            for design, way, score in {row.measured: None, row.against: None}:
                scores = wanted.setdefault(design, {}).setdefault(way, [])
                scores += [score] if score not in scores else []
        tasks = []
        for design, ways in wanted.items():
            reason = self._cannot(design)
            if reason:
                self.refuse(Task(dataset, design, ways), reason)
            elif design == GIVEN:
                tasks += self._sensible(dataset, design, ways)
            elif design in THERE:
                try:
                    tasks += self._sensible(dataset, design, ways)
                except _ERRORS as error:  # of another kind of image, say: the other models are still compared
                    self.refuse(Task(dataset, design, ways), str(error))
            else:
                tasks.append(Task(dataset, design, ways))
        for task in tasks:
            task.seconds = self._seconds(task)
        return tasks

    def refuse(self, task: Task, reason: str) -> None:
        """Take down why a task is not done."""
        for way, scores in task.scores.items():
            self.why_not[task.dataset].update({(task.design, way, score): reason for score in scores})

    def leave(self, task: Task, reason: str) -> None:
        """Take up what is there of a task that is not done, and take down why the rest is not."""
        for way in task.scores:
            measured, missing = self._there(task, way)
            if measured is not None:
                self.done[task.dataset][task.design, way] = measured
            self.refuse(Task(task.dataset, task.design, {way: missing}), reason)

    def measure(self, task: Task) -> None:
        """Train what has to be trained, and measure what is not there.

        Raises:
            Failed, ValueError, FileNotFoundError, ReadError: it cannot be done.
            WrongKeys: the training refuses its keys.
        """
        name, design = task.dataset, task.design
        if design not in THERE:
            one(
                self.material[name],
                Run(design, name, 0),
                self._keys(name, design),
                self.options.output_dir,
                False,
                str(task),
            )
            self._subjects.pop((name, design), None)
        for way in task.scores:
            measured, missing = self._there(task, way)
            if missing:
                found = self._subject(name, design).measure(way, missing, self._inputs(task, way))
                earlier = measured.reached if measured else {}
                measured = dataclasses.replace(found, reached={**earlier, **found.reached})
                measured.write(self._path(task, way))
            assert measured is not None
            self.done[name][design, way] = measured

    def result(self, dataset: str) -> OfDataset:
        """Return the tables of a data set."""
        done = self.done[dataset]
        about = [self._about(dataset, design) for design in dict.fromkeys(design for design, _ in done)]
        return OfDataset(dataset, about, [outcome_of(row, done, self.why_not[dataset]) for row in self.rows])

    def _sensible(self, dataset: str, design: str, ways: dict[Way, list[str]]) -> list[Task]:
        """Return a task a way, and take down which scores have no meaning for a model that is there."""
        tasks = []
        for way, scores in ways.items():
            reasons = {score: self._subject(dataset, design).why_not(way, score) for score in scores}
            for score, reason in reasons.items():
                if reason:
                    self.refuse(Task(dataset, design, {way: [score]}), reason)
            left = [score for score in scores if not reasons[score]]
            tasks += [Task(dataset, design, {way: left})] if left else []
        return tasks

    def _cannot(self, design: str) -> str:
        """Return why a design cannot be had here, or nothing."""
        if design in THERE:
            return "" if self.given[design] else _NOT_GIVEN[design]
        backbone = str(read_overrides(self._differing(design), "train.json").get("backbone"))
        try:
            if backbone in PACKAGED_WEIGHTS:
                packaged_file(backbone)
        except RuntimeError as error:
            return str(error)
        return ""

    @staticmethod
    def _differing(design: str) -> list[str]:
        return shlex.split(next((designs[design] for designs in DESIGNS.values() if design in designs), ""))

    def _keys(self, dataset: str, design: str) -> list[str]:
        """Return the keys of train.json of a design."""
        shown = modality_keys(self.material[dataset].dataset, kind_of(dataset))
        common = [*self.options.train, "--steps", str(self.options.steps), "--cache_dir", str(self.cache_dir)]
        return [*shown, *common, *self._differing(design), "--seed", "0"]

    def _model(self, dataset: str, design: str) -> Path:
        folder = self.given.get(design)
        if folder is None:
            trained: Path = self.options.output_dir / design / dataset / "seed0.pt"
            return trained
        if folder.is_file():
            return folder
        own = folder / f"{dataset}.pt"  # of a fold, whose kind may have another one too
        shown = self.material[dataset].dataset.modality or modality_of_folder(kind_of(dataset))
        return own if own.is_file() or shown is None else ModelFiles.in_folder(folder)[shown.name]

    def _subject(self, dataset: str, design: str) -> Subject:
        """Return a model that is there, with its images."""
        if (dataset, design) not in self._subjects:
            material = self.material[dataset]
            detector = load_detector(self._model(dataset, design), device=self.device)
            cohort = cohort_of(material.dataset.root, detector.provenance)
            label = {item.image: item.label for item in material.dataset.items}
            test = [item.image for item in material.dataset.items if item.split == "test"]
            normals, most = self.options.normals, self.options.images
            parts = ((cohort.train, normals), (cohort.held_out, normals), (cohort.abnormal, normals), (test, most))
            images = Images(*(tuple(draw(part, material.units, label, limit)) for part, limit in parts))
            own = detector, material.dataset, cohort.modality, images, material.units, kind_of(dataset)
            looker = self._looker(dataset, design, detector)
            self._subjects[dataset, design] = Subject(*own, self.cache_dir, looker)
        return self._subjects[dataset, design]

    def _looker(self, dataset: str, design: str, detector: AnomalyDetector) -> Callable[[Tensor], Tensor] | None:
        """Return a way from an adapted host's encodings to the features of the model that is there."""
        host = detector.host
        if design == GIVEN or self.given[GIVEN] is None or not isinstance(host, AdaptedHost):
            return None
        features = self._subject(dataset, GIVEN).detector.host
        if isinstance(features, AdaptedHost):
            return None

        def look(encoding: Tensor) -> Tensor:
            image = host.decode(encoding.to(host.device)).clamp(0.0, 1.0)
            side = features.image_size
            return features.encode(F.interpolate(image, (side, side), mode="bilinear", align_corners=False))

        return look

    def _path(self, task: Task, way: Way) -> Path:
        path: Path = self.options.output_dir / task.design / task.dataset / f"{way}.npz"
        return path

    def _inputs(self, task: Task, way: Way) -> str:
        images = self._subject(task.dataset, task.design).images
        parts = [data_digest(part) for part in (images.train, images.normal, images.abnormal, images.test)]
        looked_with = [GIVEN] if task.design != GIVEN and self.given[GIVEN] else []  # see `_looker`
        model = " ".join(content(self._model(task.dataset, design)) for design in (task.design, *looked_with))
        return inputs_digest(model, self.material[task.dataset].digest, parts, str(way), self.device.type)

    def _there(self, task: Task, way: Way) -> tuple[WayMeasured | None, list[str]]:
        """Return what an earlier run measured with the same inputs, and the scores that it did not."""
        measured = read_way(self._path(task, way)) if self._is_there(task) else None
        if measured is None or measured.inputs != self._inputs(task, way):
            return None, task.scores[way]
        self._subject(task.dataset, task.design).remember(way, measured)
        return measured, [score for score in task.scores[way] if score not in measured.reached]

    def _seconds(self, task: Task) -> float:
        """Return roughly what a task takes, by evaluations timed now."""
        name, design = task.dataset, task.design
        if not self._is_there(task):
            return self._seconds_of_training(task)
        subject = self._subject(name, design)
        missing = {way: scores for way in task.scores if (scores := self._there(task, way)[1])}
        if not missing:
            return 0.0
        judging = sum(len(scores) for scores in missing.values()) * (1.0 + 0.02 * len(subject.images.test))
        return subject.seconds_per_evaluation * sum(subject.evaluations(w, s) for w, s in missing.items()) + judging

    def _is_there(self, task: Task) -> bool:
        """Return whether a task's model is given, or there as it would be trained now."""
        if task.design in THERE:
            return True
        keys = self._keys(task.dataset, task.design)
        run = Run(task.design, task.dataset, 0)
        return measured_earlier(self.material[task.dataset], run, keys, self.options.output_dir) is not None

    def _seconds_of_training(self, task: Task) -> float:
        """Return roughly what training a design and measuring it takes, by an untrained network of its preset."""
        material = self.material[task.dataset]
        given = read_overrides(self._keys(task.dataset, task.design), "train.json")
        preset, side = str(given.get("preset", "cpu")), int(given.get("image_size", 256)) // _REDUCTION
        cohort = read_cohort(material.dataset.root, given.get("modality"))
        recipe = find_recipe(preset, **{key: given[key] for key in _RECIPE if key in given}).resolve(len(cohort.train))
        network = create_denoiser(preset, _CHANNELS, side).to(self.device).eval()
        test = sum(item.split == "test" for item in material.dataset.items)
        walked = (min(self.options.images, test) + self.options.normals) * 4
        x = torch.zeros(_BATCH, _CHANNELS, side, side, device=self.device)
        each = seconds_per_evaluation(network, x)
        return each * (_TRAIN_PASSES * recipe.iterations * recipe.batch_size + walked)

    def _about(self, dataset: str, design: str) -> str:
        subject = self._subject(dataset, design)
        stated, images = subject.detector.provenance.stated(), subject.images
        number = Counter(subject.labels.tolist())
        by = subject.detector
        return (
            f"Model {design}: preset {stated.get('architecture.preset')}, {stated.get('steps')} steps on "
            f"{stated.get('train_images')} images; its own inversion {by.timesteps} and rule {by.calibration.rule}. "
            f"Measured on {number[0]} normal and {number[1]} abnormal images of test, of {subject.patients} patients "
            f"(or images of none known); rules calibrated on {len(images.train)} normal images of train, levels chosen "
            f"on {len(images.normal)} normal and {len(images.abnormal)} abnormal ones."
        )


def _minutes(word: str) -> float:
    minutes = float(word)
    if not 0.0 <= minutes < math.inf:  # nor NaN
        raise argparse.ArgumentTypeError(f"{word} is not a number of minutes, 0 or more")
    return minutes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take the data sets, the tables, models and budgets."""
    add_root(parser)
    add_output_dir(parser, "output/ablation", "the page, its tables, models and what was measured")
    groups = [str(group) for group in Group]
    parser.add_argument(
        "--tables", metavar="TABLE", nargs="+", choices=groups, default=groups, help=f"of {', '.join(groups)} (all)"
    )
    models = parser.add_argument_group(f"models that are there, of the tables {', '.join(WITHOUT_TRAINING)}")
    one_or_many = models.add_mutually_exclusive_group()
    one_or_many.add_argument("--ckpt_path", metavar="FILE", type=Path, help="model of the one data set, of any host")
    one_or_many.add_argument(
        "--models_dir", metavar="DIR", type=Path, help="models by name of data set or of what it shows; without "
        "either one is trained"
    )  # fmt: skip
    models.add_argument("--pixel", metavar="PATH", type=Path, help="model in pixel space, or folder of such models")
    models.add_argument("--latent", metavar="PATH", type=Path, help="model in a latent space, or folder of such models")
    budget = parser.add_argument_group("how long it may take")
    budget.add_argument(
        "--minutes", metavar="M", type=_minutes, default=10.0, help="of a core (of the clock on a GPU) for each data "
        "set: what is expected to fit is measured, the cheapest first; 0 only shows what is there (%(default)g)"
    )  # fmt: skip
    budget.add_argument(
        "--images", metavar="N", type=count, default=100, help="of test at most, patient by patient, the same ones "
        "for all rows (%(default)s)"
    )  # fmt: skip
    budget.add_argument(
        "--normals", metavar="N", type=count, default=32, help="images to calibrate with, and of each class to choose "
        "by, at most (%(default)s)"
    )  # fmt: skip
    budget.add_argument("--steps", type=count, default=100, help="of each training (%(default)s)")
    parser.add_argument("--cache_dir", metavar="DIR", type=Path, help="of features (features in the output folder)")
    parser.add_argument("--tracking_uri", metavar="URI", help="MLflow's (a database in the output folder)")
    parser.add_argument("--experiment_name", default="invad_med", help="MLflow's (%(default)s)")
    parser.add_argument(
        "--train", type=keys_of("train.json", *_SET_HERE), default="", metavar='"KEYS"', help="more keys of trainings"
    )


def run(options: argparse.Namespace) -> int:
    """Estimate, train, measure, write and take down."""
    options.tables = [Group(group) for group in dict.fromkeys(options.tables)]
    store = Store.choose(options.tracking_uri, options.output_dir)
    try:
        store.ask(options.experiment_name)
    except TrackingError as error:
        print(f"nothing was measured: {error}", file=sys.stderr)
        return WRONG
    material, failed = find_material(options.dataset_dir)
    ablation, tasks = Ablation(options, material), list[Task]()
    clock, core = time.perf_counter(), time.process_time()
    for name in material:
        try:
            tasks += ablation.tasks(name)
        except _ERRORS as error:
            failed[name] = str(error)
    tasks = [task for task in tasks if task.dataset not in failed]
    _announce(tasks, (time.perf_counter() - clock) / max(time.process_time() - core, 1e-3))
    problems = dict(failed)
    try:
        _work(ablation, _affordable(ablation, tasks, options.minutes), problems)
    except WrongKeys:
        return WRONG
    results = [ablation.result(name) for name in material if name not in failed]
    taken_down = True
    if results:
        about = _about_run(options)
        files = write_ablation(results, about, failed, options.output_dir)
        print(f"Results in {options.output_dir.resolve()}: {', '.join(file.name for file in files)}.")
        taken_down = _take_down(options, store, results, files, about)
    for name, reason in problems.items():
        print(f"{name} was not measured: {reason}", file=sys.stderr)
    return INCOMPLETE if problems or not taken_down else 0


def _announce(tasks: Sequence[Task], clock: float) -> None:
    """Say how long what is not there will take, where a core-minute takes so many of the clock."""
    print(f"expected core-minutes (minutes on a GPU), each now {max(clock, 1.0):.1f} minutes of the clock:")
    by_model: dict[str, float] = {}
    for task in tasks:
        key = f"{task.dataset}, {task.design}"
        by_model[key] = by_model.get(key, 0.0) + task.seconds
    for name, seconds in by_model.items():
        print(f"  {name}: {seconds / 60:.1f}")
    print(f"  in all: {sum(by_model.values()) / 60:.1f}", flush=True)


def _affordable(ablation: Ablation, tasks: Sequence[Task], minutes: float) -> list[Task]:
    """Return what fits in its data set's minutes, rows that others are compared with first, then the cheapest."""

    def order(task: Task) -> tuple[bool, bool, float]:
        compared_with = THREE_STEPS in task.scores and task.design in (ablation.base, *THERE)
        return not compared_with, task.design != ablation.base, task.seconds

    spent: dict[str, float] = {}
    chosen = []
    for task in sorted(tasks, key=order):
        before = spent.get(task.dataset, 0.0)
        if task.seconds and before + task.seconds > 60.0 * minutes:
            used = f", of which other rows take {before / 60:.2g}" if before else ""
            ablation.leave(task, f"beyond --minutes {minutes:g}{used}: it would take about {task.seconds / 60:.2g}")
            continue
        spent[task.dataset] = before + task.seconds
        chosen.append(task)
    return chosen


def _work(ablation: Ablation, tasks: Sequence[Task], problems: dict[str, str]) -> None:
    total = round(sum(task.seconds for task in tasks), 1)
    with tqdm(total=total, disable=None, bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}") as bar:
        for task in tasks:
            bar.set_description(str(task))
            try:
                ablation.measure(task)
            except _ERRORS as error:
                ablation.refuse(task, str(error))
                problems[str(task)] = str(error)
            bar.update(task.seconds)


def _about_run(options: argparse.Namespace) -> list[str]:
    machine = this_machine()
    return [
        f"invad-med {invad_med.__version__}, commit {machine.commit}; {machine.processor}, {machine.cores} cores, load "
        f"{machine.load:.1f}; torch {machine.versions.get('torch')}, {torch.get_num_threads()} threads, float32, "
        f"batches of 16, encodings kept in float16. Measured on at most {options.images} images of test a data set, "
        f"patient by patient in a fixed order, the same ones for all rows. Trainings: {options.steps} steps, seed 0.",
        "The calibrated score is the rule whitened_mean_and_cell for every row alike, fitted on normal images of "
        "train; the paper's is max(A) - min(A) + sum(A) of the norm A of what is scored. Of a reconstruction that is "
        "what it differs by from what was noised, in the model's own space; for more than "
        f"{CHOICE_STEPS} steps its level is that chosen with {CHOICE_STEPS}. A walk has no more evaluations than the "
        "schedule, or the level, has timesteps.",
    ]


def _take_down(
    options: argparse.Namespace, store: Store, results: Sequence[OfDataset], files: Sequence[Path], about: Sequence[str]
) -> bool:
    settings = {key: getattr(options, key) for key in ("tables", "images", "normals", "steps", "minutes")}
    settings["tables"] = " ".join(settings["tables"])
    tags, params = {"bundle_version": invad_med.__version__}, as_params(settings)
    runs = tuple(
        DatasetRun(printable_name(r.name), {**tags, "dataset": printable_name(r.name)}, params, metrics_of(r), {})
        for r in results
    )
    record = RunRecord(
        name=f"ablation-{invad_med.__version__}",
        description="see ablation.html among the artifacts",
        tags=tags,
        params=params,
        metrics=parent_metrics(results),
        files=tuple(file.name for file in files),
        config={"settings": settings, "about": list(about)},
        datasets=runs,
        experiment_name=options.experiment_name,
        tracking_uri=options.tracking_uri,
    )
    record.write(options.output_dir)
    try:
        log_run(record, options.output_dir, store)
    except TrackingError as error:
        print(f"the results are in {options.output_dir.resolve()}, but in no store: {error}", file=sys.stderr)
        return False
    return True
