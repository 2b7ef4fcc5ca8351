"""Train and measure designs on every data set under a folder, and say which is better, paired over patients.

A design is a name and keys of train.json, NAME=KEYS; the others are compared with the first. Each is trained with every
seed on every data set and measured on valid: its abnormal images against the normal ones that the training held out.
Figures are averaged over seeds, over folds (data sets whose folders end in _fold<number>) and over kinds of data; the
mean of kinds decides. With --test true figures of test are shown too, for the reader: they choose nothing.

A run that was cut goes on with the same command, and a model that is measured is not trained or measured again. A
model that is there of another training is refused, the differences are named. What cannot be trained or measured is
named at the end, the others are done, and the exit status is 3.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from invad_med.bundle import root, run_config
from invad_med.commands.arguments import add_output_dir, add_root, keys_of
from invad_med.data.bmad import BmadDataset, inspect_tree
from invad_med.data.modalities import how_to_state
from invad_med.data.published_sets import modality_of_folder
from invad_med.data.slices import ReadError
from invad_med.detection import load_detector
from invad_med.evaluation.design_tables import Run, report, table_of
from invad_med.evaluation.designs import (
    Draws,
    Measured,
    Quantity,
    Sample,
    content,
    draws_of,
    kind_of,
    measure,
    read_measured,
    units,
)
from invad_med.evaluation.run import INCOMPLETE
from invad_med.files import code_digest, data_digest, write_atomically
from invad_med.options import read_overrides, switch, words
from invad_med.options.check import WRONG
from invad_med.training.cohort import read_cohort
from invad_med.training.earlier import division_of, why_not_of

EXAMPLES = """\
  python -m invad_med designs BMAD --design "today=" --design "varied=--augment yes" --seeds 0,1
  python -m invad_med designs BMAD --output_dir output/rates --train "--steps 600" \\
      --design "low=--learning_rate 1e-4" --design "high=--learning_rate 1e-3"
"""
_STDERR = 2  # what a training says does not get between the tables
_SHAPING = ("detection", "features", "networks", "options", "scoring", "training")  # rooms with defaults of a training
_FEATURES = "features"  # in the output folder, beside the designs
_keys = keys_of("train.json", "dataset_dir", "output_dir", "ckpt_path", "seed")


@dataclass(frozen=True)
class Design:
    """Keys of train.json by a name: as they were given, and as words of a command line."""

    name: str
    keys: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Material:
    """A data set that can be trained and measured: whom its images are of, draws of these by split, a digest."""

    dataset: BmadDataset
    units: Mapping[Path, str]
    draws: Mapping[str, Draws]
    digest: str


class Failed(Exception):
    """One model that could not be trained or measured; the message says why."""


class WrongKeys(Exception):
    """Keys that a training refuses: they are as wrong for the next one."""


def find_material(dataset_dir: Path) -> tuple[dict[str, Material], dict[str, str]]:
    """Return the data sets below a folder by name, and why others cannot be measured.

    Several may show the same: each is read as if it were there alone.
    """
    good: dict[str, BmadDataset] = {}
    failed: dict[str, str] = {}
    datasets = [inspect_tree(found.root)[0] for found in inspect_tree(dataset_dir)]
    names = [_name(dataset.root, dataset_dir) for dataset in datasets]
    for name, dataset in zip(names, datasets, strict=True):
        if names.count(name) > 1:
            failed[name] = f"{names.count(name)} folders are of this name, by which results go: rename them"
        elif dataset.problems:
            failed[name] = dataset.refusal()
        elif dataset.modality is None and modality_of_folder(kind_of(name)) is None:
            failed[name] = f"nothing says what it shows: {how_to_state(alone=False)}"
        elif not any(item.split == "valid" and item.label for item in dataset.items):
            failed[name] = "there is no abnormal image in valid, on which designs are compared"
        else:
            good[name] = dataset
    material: dict[str, Material] = {}
    unit: dict[str, dict[Path, str]] = {}
    for name in list(good):
        try:
            unit[name] = units(good[name])
        except OSError as error:
            failed[name] = f"an image cannot be read: {error.strerror or type(error).__name__}"
            del good[name]
    for kind in dict.fromkeys(map(kind_of, good)):
        folds = [name for name in good if kind_of(name) == kind]
        draws = draws_of(kind, [(good[name], unit[name]) for name in folds])
        for name in folds:
            material[name] = Material(good[name], unit[name], draws, _digest_of(good[name], unit[name]))
    return material, failed


def modality_keys(dataset: BmadDataset, kind: str) -> list[str]:
    """Return the key that says what a fold shows where the name without its ending alone says it."""
    shown = None if dataset.modality else modality_of_folder(kind)
    return ["--modality", shown.name] if shown else []


def _name(folder: Path, dataset_dir: Path) -> str:
    """Return the name of a data set's folder, a link's own; that of the target only where the folder given is a set."""
    return folder.resolve().name if folder == dataset_dir else folder.name


def compare_designs(
    dataset_dir: Path,
    output_dir: Path,
    designs: Sequence[Design],
    seeds: Sequence[int],
    train: Sequence[str] = (),
    test: bool = False,
) -> tuple[dict[Run, Measured], dict[str, str]]:
    """Train and measure what is not yet, and return what there is, and what could not be done and why.

    Args:
        dataset_dir: folder of data sets.
        output_dir: ``<design>/<data set>/seed<k>``, the model and its figures beside that, and ``features``.
        designs: what differs.
        seeds: of the trainings.
        train: keys of all designs, such as ``["--steps", "500"]``.
        test: whether to measure ``test`` too.

    Raises:
        WrongKeys: a training refuses them.
    """
    material, failed = find_material(dataset_dir)
    runs = [(Run(design.name, name, seed), design) for seed in seeds for name in material for design in designs]
    measured: dict[Run, Measured] = {}
    for number, (run, design) in enumerate(runs, 1):
        keys = [*modality_keys(material[run.dataset].dataset, run.kind), *train, *design.words, "--seed", str(run.seed)]
        try:
            measured[run] = one(material[run.dataset], run, keys, output_dir, test, f"{number} of {len(runs)}: {run}")
        except (Failed, ValueError, FileNotFoundError, ReadError) as error:
            failed[str(run)] = str(error)
    return measured, failed


def one(material: Material, run: Run, keys: Sequence[str], output_dir: Path, test: bool, title: str) -> Measured:
    """Return what one model reaches: as it was measured, else measured now, trained before if need be.

    Raises:
        Failed, ValueError, FileNotFoundError, ReadError: it cannot be trained or measured.
        WrongKeys: the training refuses its keys.
    """
    folder = output_dir / run.design / run.dataset
    output, model, figures = (folder / f"seed{run.seed}{end}" for end in ("", ".pt", ".npz"))
    given = read_overrides(keys, "train.json")
    cache_dir = given.get("cache_dir") or output_dir / _FEATURES
    trained, drawn = _asked(keys, material), _text_digest([draws.digest() for draws in material.draws.values()])
    earlier = measured_earlier(material, run, keys, output_dir)
    if earlier is not None:
        if earlier.drawn == drawn and earlier.tested >= test:
            print(f"{title}: is there", file=sys.stderr, flush=True)
            return earlier
    else:
        print(f"{title}: training", file=sys.stderr, flush=True)
        _train(material.dataset.root, output, model, cache_dir, keys)
    print(f"{title}: measuring", file=sys.stderr, flush=True)
    about = Measured(trained, content(model), drawn, test, "", (0, 0))
    result = _measure(about, model, output / "last.pt", material, cache_dir)
    result.write(figures)
    return result


def measured_earlier(material: Material, run: Run, keys: Sequence[str], output_dir: Path) -> Measured | None:
    """Return what was measured of a model that is there as these keys train it, or None: `one` would train it."""
    model = output_dir / run.design / run.dataset / f"seed{run.seed}.pt"
    if read_overrides(keys, "train.json").get("resume") is False or not model.is_file():
        return None
    earlier = read_measured(model.with_suffix(".npz"))
    same = earlier is not None and (earlier.trained, earlier.model) == (_asked(keys, material), content(model))
    return earlier if same else None


def _train(dataset_dir: Path, output: Path, model: Path, cache_dir: Path, keys: Sequence[str]) -> None:
    anew = read_overrides(keys, "train.json").get("resume") is False
    reason = why_not_of(model, output / "last.pt") if model.exists() and not anew else None
    if reason:
        raise Failed(reason)
    there = model.exists()
    given = {"dataset_dir": dataset_dir, "output_dir": output, "ckpt_path": model, "cache_dir": Path(cache_dir)}
    status = run_config("train.json", given, keys, stdout=_STDERR)
    if status == WRONG:
        raise WrongKeys
    if status:
        other = (
            f": {model} is there and may be of another training (what differs is named above); call the design "
            'something else, give another --output_dir, or --train "--resume False" to train anew'
        )
        raise Failed(f"training ended with status {status}{other if there else ', see above'}")


def _measure(about: Measured, model: Path, state: Path, material: Material, cache_dir: str | Path) -> Measured:
    """Measure a model: held out is what its own training says that it held out."""
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    detector = load_detector(model, device=device)
    dataset, unit = material.dataset, material.units
    cohort = read_cohort(dataset.root, detector.provenance.modality, **dataclasses.asdict(division_of(state)))
    if data_digest([*cohort.train, *cohort.held_out]) != detector.provenance.data_digest:
        raise Failed(f"{model} was trained on other images than the folder holds now")
    parts = {"valid": [*cohort.held_out, *cohort.abnormal]}
    if about.tested:
        parts["test"] = [item.image for item in dataset.items if item.split == "test"]
    samples: dict[Quantity, Sample] = {}
    for split, images in parts.items():
        if images:
            found = measure(detector, dataset, cohort.modality, images, material.draws[split], unit, cache_dir)
            samples |= {q: found[q.figure] for q in Quantity if q.of_split == split and q.figure in found}
    return dataclasses.replace(
        about,
        images=data_digest(parts["valid"]),
        units=(len({unit[path] for path in cohort.held_out}), len({unit[path] for path in cohort.abnormal})),
        samples=samples,
    )


def _asked(keys: Sequence[str], material: Material) -> str:
    """Return a digest of what a training depends on, as far as it is told without beginning it."""
    given = {key: word for key, word in words(keys).items() if key != "resume"}
    return _text_digest([sorted(given.items()), _defaults(), material.digest])


@functools.cache
def _defaults() -> list[str]:
    """Return digests of where what no key says is set: the configuration, and the code that shapes a training."""
    return [content(Path(root()) / "configs" / "train.json"), code_digest(_SHAPING)]


def _digest_of(dataset: BmadDataset, unit: Mapping[Path, str]) -> str:
    """Return a digest of a data set's images, masks, names, classes, splits and patients."""
    parts: list[object] = []
    for item in dataset.items:
        files = [content(path) for path in (item.image, item.mask) if path]
        parts.append([item.split, item.label, item.image.name, unit[item.image], *files])
    return _text_digest(parts)


def _text_digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take the folder, the designs, and how they are trained."""
    add_root(parser)
    add_output_dir(parser, "output/designs", "models, figures, designs.md and designs.csv")
    parser.add_argument(
        "--design",
        dest="designs",
        action="append",
        required=True,
        type=_design,
        metavar='"NAME=KEYS"',
        help='a name and keys of train.json: --design "wide=--preset small"; give it once for each',
    )
    parser.add_argument("--seeds", type=_seeds, default="0", metavar="K,K", help="of the trainings (%(default)s)")
    parser.add_argument(
        "--train", type=_common, default="", metavar='"KEYS"', help='keys of all designs: --train "--steps 600"'
    )
    parser.add_argument(
        "--test", type=_test, default=False, metavar="SWITCH", help="show figures of test too; they choose nothing"
    )


def run(options: argparse.Namespace) -> int:
    """Train, measure and report."""
    designs: list[Design] = options.designs
    common: Design = options.train
    twice = sorted(name for name, count in Counter(design.name for design in designs).items() if count > 1)
    if twice:
        print(f"error: several designs are called {', '.join(twice)}", file=sys.stderr)
        return WRONG
    try:
        measured, failed = compare_designs(
            options.dataset_dir, options.output_dir, designs, options.seeds, common.words, options.test
        )
    except WrongKeys:
        return WRONG
    if measured:
        names = {design.name: design.keys for design in designs}
        text = report(measured, names, common.keys, options.test)
        table = table_of(measured, list(names), options.test)
        write_atomically(options.output_dir / "designs.md", text.encode())
        csv = table.to_csv(index=False, lineterminator="\n", float_format="%.6g")
        write_atomically(options.output_dir / "designs.csv", csv.encode())
        print(text, end="")
    for name, reason in failed.items():
        print(f"{name} was not measured: {reason}", file=sys.stderr)
    return INCOMPLETE if failed else 0


def _design(word: str) -> Design:
    name, equals, keys = word.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]*", name):
        raise argparse.ArgumentTypeError(
            f"{word!r} is not NAME=KEYS, the name of letters, digits, - and _, such as today= or wide=--preset small"
        )
    if name == _FEATURES:
        raise argparse.ArgumentTypeError(f"{name} is the folder of features: call the design something else")
    return Design(name, keys.strip(), tuple(_keys(keys)))


def _common(keys: str) -> Design:
    return Design("", keys.strip(), tuple(_keys(keys)))


def _seeds(word: str) -> list[int]:
    if not re.fullmatch(r"\d+(,\d+)*", word):
        raise argparse.ArgumentTypeError(f"{word!r} must be whole numbers, such as 0 or 0,1,2")
    seeds = [int(part) for part in word.split(",")]
    if len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"{word!r} names a seed twice")
    return seeds


def _test(word: str) -> bool:
    try:
        return switch(word, "test")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
