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
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

import invad_med
from invad_med.bench.machine import this_machine
from invad_med.commands.ablation_tasks import ERRORS, Ablation, Task, reason_of
from invad_med.commands.arguments import add_output_dir, add_root, count, keys_of
from invad_med.commands.designs import WrongKeys, find_material
from invad_med.evaluation.ablating import CHOICE_STEPS
from invad_med.evaluation.ablation import THERE, THREE_STEPS, WITHOUT_TRAINING, Group
from invad_med.evaluation.ablation_tables import OfDataset, metrics_of, parent_metrics, write_ablation
from invad_med.evaluation.run import INCOMPLETE
from invad_med.evaluation.tracker import TrackingError
from invad_med.options.check import WRONG
from invad_med.tracking.describe import as_params, printable_name
from invad_med.tracking.log import log_run
from invad_med.tracking.record import DatasetRun, RunRecord
from invad_med.tracking.store import Store

EXAMPLES = """\
  python -m invad_med ablate BMAD --models_dir models --tables components steps scores grids
  python -m invad_med ablate BMAD/Brain --ckpt_path brain.pt --pixel ddpm.pt --tables hosts --minutes 30
  python -m invad_med ablate BMAD --tables denoisers normalisation --steps 500 --minutes 120 --images 1000
"""
_SET_HERE = ("dataset_dir", "output_dir", "ckpt_path", "seed", "steps", "cache_dir")


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
        "--images", metavar="N", type=count, default=100, help="of test at most, spread over patients, the same ones "
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
    for path in (options.dataset_dir, options.ckpt_path, options.models_dir, options.pixel, options.latent):
        if path is not None and not path.exists():
            raise FileNotFoundError(f"{path}: there is no such file or folder")
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
        except ERRORS as error:
            failed[name] = reason_of(error)
    tasks = [task for task in tasks if task.dataset not in failed]
    _announce(tasks, (time.perf_counter() - clock) / max(time.process_time() - core, 1e-3))
    try:
        _work(ablation, _affordable(ablation, tasks, options.minutes))
    except WrongKeys:
        return WRONG
    results = [ablation.result(name) for name in material if name not in failed]
    taken_down = True
    about = _about_run(options)
    files = write_ablation(results, about, failed, options.output_dir)
    print(f"Results in {options.output_dir.resolve()}: {', '.join(file.name for file in files)}.")
    if results:
        taken_down = _take_down(options, store, results, files, about)
    problems = failed | ablation.problems
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
            takes = f"it would take about {task.seconds / 60:.2g} minutes"
            ablation.leave(task, f"beyond --minutes {minutes:g}{used}: {takes}")
            continue
        spent[task.dataset] = before + task.seconds
        chosen.append(task)
    return chosen


def _work(ablation: Ablation, tasks: Sequence[Task]) -> None:
    total = round(sum(task.seconds for task in tasks), 1)
    with tqdm(total=total, disable=None, bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}") as bar:
        for task in tasks:
            bar.set_description(str(task))
            try:
                ablation.measure(task)
            except ERRORS as error:
                ablation.refuse(task, reason_of(error))
                ablation.problems[str(task)] = reason_of(error)
            bar.update(task.seconds)


def _about_run(options: argparse.Namespace) -> list[str]:
    machine = this_machine()
    return [
        f"invad-med {invad_med.__version__}, commit {machine.commit}; {machine.processor}, {machine.cores} cores, load "
        f"{machine.load:.1f}; torch {machine.versions.get('torch')}, {torch.get_num_threads()} threads, float32, "
        f"batches of 16, encodings kept in float16. Measured on at most {options.images} images of test a data set, "
        f"spread over patients, the same ones for all rows. Trainings: {options.steps} steps, seed 0.",
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
    results = [dataclasses.replace(result, name=printable_name(result.name)) for result in results]
    tags, params = {"bundle_version": invad_med.__version__}, as_params(settings)
    runs = tuple(DatasetRun(r.name, {**tags, "dataset": r.name}, params, metrics_of(r), {}) for r in results)
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
