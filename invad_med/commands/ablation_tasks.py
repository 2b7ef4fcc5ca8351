"""What an ablation measures of each data set: models, their tasks, what these take, and what earlier runs measured."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from invad_med.commands.designs import Failed, Material, measured_earlier, modality_keys, one
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
from invad_med.evaluation.ablation import DEFAULT, DESIGNS, GIVEN, LATENT, PIXEL, THERE, Kind, Way, rows_of
from invad_med.evaluation.ablation_tables import OfDataset, outcome_of
from invad_med.evaluation.design_tables import Run
from invad_med.evaluation.designs import content, kind_of
from invad_med.files import code_digest, data_digest
from invad_med.hosts.adapted import AdaptedHost
from invad_med.networks import create_denoiser, find_recipe
from invad_med.networks.features import PACKAGED_WEIGHTS, packaged_file
from invad_med.options import read_overrides
from invad_med.training.cohort import read_cohort

_TRAIN_PASSES = 4.0  # evaluations that an image of a training costs: forward, backward, and the validations
_NOT_GIVEN = {
    PIXEL: "needs --pixel, a model of a diffusion host in pixel space",
    LATENT: "needs --latent, a model of a diffusion host in a latent space",
}
_SPACES = {PIXEL: ("pixels", "own"), LATENT: ("latents", "own")}  # that a model may be in; a host of your own in any
# What makes a row's figures: those of an earlier version are measured anew.
_MEASURING = (
    *("diffusion.py", "inferers.py", "timesteps.py", "data", "features", "hosts", "metrics", "networks", "scoring"),
    *(f"evaluation/{name}.py" for name in ("ablating", "ablation", "designs", "judge", "truth")),
)
_RECIPE = ("batch_size", "accumulation_steps", "steps")
_CHANNELS, _REDUCTION, _BATCH = 192, 16, 16  # of the usual backbone, for estimates
ERRORS = (Failed, ValueError, OSError, RuntimeError, ReadError)


def reason_of(error: Exception) -> str:
    """Return what an error says; of the system's and of decoders' without the path, which may be a patient's."""
    if isinstance(error, OSError) and (error.errno or not isinstance(error, FileNotFoundError)):
        return error.strerror or type(error).__name__
    return str(error) or type(error).__name__


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

    Attributes:
        problems: models and tasks that could not be measured, and why.
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
        self._code = code_digest(_MEASURING)
        self.problems: dict[str, str] = {}

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
                except ERRORS as error:  # of another kind of image, say: the other models are still compared
                    self.refuse(Task(dataset, design, ways), reason_of(error))
                    self.problems[f"--{design} on {dataset}"] = reason_of(error)
            else:
                tasks.append(Task(dataset, design, ways))
        chosen = defaultdict[str, set[int]](set)
        for task in tasks:
            task.seconds = self._seconds(task, chosen[task.design])
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
            spaces = _SPACES.get(design)
            if spaces and detector.host.space not in spaces:
                raise Failed(f"--{design} is a model in the space of {detector.host.space}, not of {spaces[0]}")
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
        if design == GIVEN or self.given[GIVEN] is None or not (isinstance(host, AdaptedHost) and host.decodes):
            return None
        features = self._subject(dataset, GIVEN).detector.host
        if features.space != "features":
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
        return inputs_digest(self._code, model, self.material[task.dataset].digest, parts, str(way), self.device.type)

    def _there(self, task: Task, way: Way) -> tuple[WayMeasured | None, list[str]]:
        """Return what an earlier run measured with the same inputs, and the scores that it did not."""
        measured = read_way(self._path(task, way)) if self._is_there(task) else None
        if measured is None or measured.inputs != self._inputs(task, way):
            return None, task.scores[way]
        self._subject(task.dataset, task.design).remember(way, measured)
        return measured, [score for score in task.scores[way] if score not in measured.reached]

    def _seconds(self, task: Task, chosen: set[int]) -> float:
        """Return roughly what a task takes, by evaluations timed now; add the steps whose levels it chooses."""
        name, design = task.dataset, task.design
        if not self._is_there(task):
            return self._seconds_of_training(task)
        subject = self._subject(name, design)
        missing = {way: scores for way in task.scores if (scores := self._there(task, way)[1])}
        seconds = 0.0
        for way, scores in missing.items():
            evaluations = subject.evaluations(way, scores, chosen)
            seconds += subject.seconds_per_evaluation * evaluations + subject.judging * len(scores)
            if way.kind == Kind.RECONSTRUCTION:
                chosen.add(min(way.number, CHOICE_STEPS))
        return seconds

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
        subject, material = self._subject(dataset, design), self.material[dataset]
        stated, images, by = subject.detector.provenance.stated(), subject.images, subject.detector
        preset = stated.get("architecture.preset")
        label = {item.image: item.label for item in material.dataset.items}

        def counted(paths: Sequence[Path], what: str) -> str:
            number: Counter[int] = Counter(label[path] for path in paths)
            classes = [f"{number[kind]} {name}" for kind, name in ((0, "normal"), (1, "abnormal")) if number[kind]]
            patients = len({material.units[path] for path in paths})
            return f"{' and '.join(classes)} images of {what}, of {patients} patients"

        return (
            f"Model {design}, in the space of {by.host.space}{f', preset {preset}' if preset else ''}: "
            f"{stated.get('steps')} steps on {stated.get('train_images')} images; its own inversion {by.timesteps} and "
            f"rule {by.calibration.rule}. Measured on {counted(images.test, 'test')}; rules calibrated on "
            f"{counted(images.train, 'train')}; levels chosen on "
            f"{counted((*images.normal, *images.abnormal), 'what training held out and of valid')}. (Where no names "
            "tell patients, each image counts as one.)"
        )
