"""RSNA pneumonia challenge chest X-rays to the Chest set.

``--source`` holds ``stage_2_detailed_class_info.csv`` and ``<patientId>.dcm`` files, at any depth. "Normal" is good;
"Lung Opacity" and "No Lung Opacity / Not Normal" are Ungood. The table has one row per box, hence patients twice. Of
1,000 normal patients 904 go to train, 8 to valid and 88 to test, of as many others 80 to valid and 920 to test, as in
the published counts; who goes where is not published and drawn here. There is one picture per patient, so no patient is
in two splits in either recipe. Patients are named by a hash; ``--salt`` makes it one that nobody else can compute.

``bmad``   Pixels as stored, no window, no rescale, MONOCHROME1 not inverted.
``clean``  What inference would see of the DICOM file: rescaled, upright grey scale, 0.5 to 99.5 percentile.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom

from data_prep import cli
from data_prep.layout import Case, Picture, PrepError, Report, build
from data_prep.pictures import read_one
from data_prep.splits import anonymous, portion, shuffled
from data_prep.volumes import to_8bit
from invad_med.data.modalities import all_modalities
from invad_med.data.published_sets import all_published_sets

TABLE = "stage_2_detailed_class_info.csv"
_BATCH = 64  # pictures of a case
_PREFIX = {  # of file names, as BMAD's
    "Normal": "Normal-",
    "Lung Opacity": "Lung_Opacity_",
    "No Lung Opacity / Not Normal": "No-Not-Normal_",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this source."""
    cli.add_common(parser, recipes=True)
    cli.add_salt(parser)


def run(arguments: argparse.Namespace) -> int:
    """Build what parsed arguments ask for."""
    return cli.tell(prepare(salt=arguments.salt, **cli.common(arguments)), arguments)


def prepare(
    source: Path,
    output: Path,
    *,
    recipe: str = "clean",
    seed: int = 0,
    salt: str = "",
    workers: int = 1,
    progress: bool = True,
) -> Report:
    """Build the Chest set.

    Args:
        source: folder of the challenge's files.
        output: folder of the set.
        recipe: ``bmad`` or ``clean``.
        seed: of the division.
        salt: of the patients' hashes.
        workers, progress: see `data_prep.layout.build`.

    Raises:
        PrepError: the table or all files are missing, or a class is unknown.
    """
    findings = read_table(source)
    files = {path.stem: path for path in sorted(source.rglob("*.dcm"))}
    problems = [
        f"{patient}.dcm, named by {TABLE}, is not below {source}" for patient in findings if patient not in files
    ]
    if len(problems) == len(findings):
        raise PrepError(f"none of the <patientId>.dcm that {TABLE} names is below {source}")
    counts = all_published_sets()["chest"].counts
    rows = []
    for kind in ("good", "Ungood"):
        names = {n for n, finding in findings.items() if (finding == "Normal") == (kind == "good") and n in files}
        sizes = portion(len(names), {split: classes[kind] for split, classes in counts.items() if kind in classes})
        splits = [split for split, size in sizes.items() for _ in range(size)]
        rows += [(split, kind, name) for split, name in zip(splits, shuffled(names, seed), strict=True)]
    rows.sort(key=lambda row: (row[0], row[1], anonymous(row[2], salt)))
    make = _make_bmad if recipe == "bmad" else _make_clean
    cases = []
    for i in range(0, len(rows), _BATCH):
        batch = [(anonymous(name, salt), split, kind, name) for split, kind, name in rows[i : i + _BATCH]]
        pictures = [[key, split, kind, findings[name]] for key, split, kind, name in batch]
        inputs = {key: files[name] for key, _, _, name in batch}
        cases.append(Case(f"pictures {i}", inputs, make, {"pictures": pictures}))
    return build(
        output, cases, dataset="chest", recipe=recipe, parameters={"seed": seed}, workers=workers, progress=progress,
        problems=problems,
    )  # fmt: skip


def read_table(source: Path) -> dict[str, str]:
    """Read the classes of `TABLE` below a folder: patientId -> class.

    Raises:
        PrepError: there is none, it lacks a column, or it holds an unknown or contradicting class.
    """
    if not source.is_dir():
        raise PrepError(f"{source} is not a folder")
    path = next(iter(sorted(source.rglob(TABLE))), None)
    if path is None:
        raise PrepError(f"no {TABLE} below {source}")
    findings: dict[str, str] = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        if not {"patientId", "class"} <= set(rows.fieldnames or ()):
            raise PrepError(f"{path} lacks the columns patientId and class")
        for row in rows:
            patient, finding = row["patientId"], row["class"]
            if finding not in _PREFIX or findings.setdefault(patient, finding) != finding:
                raise PrepError(f"{path}: patient {patient} has the unknown or second class {finding!r}")
    return dict(sorted(findings.items()))


def _make_bmad(case: Case) -> Iterator[Picture]:
    for key, split, kind, finding in case.parameters["pictures"]:
        try:
            pixels = pydicom.dcmread(case.inputs[key]).pixel_array
        except Exception as error:
            raise PrepError(f"{case.inputs[key]} cannot be read: {error}") from None
        if pixels.dtype != np.uint8:
            raise PrepError(f"{case.inputs[key]} is not 8 bit, as BMAD's sources are; use the recipe clean")
        yield Picture(split, kind, _PREFIX[finding] + key, pixels, None, key, key, finding=finding)


def _make_clean(case: Case) -> Iterator[Picture]:
    for key, split, kind, finding in case.parameters["pictures"]:
        pixels, _ = to_8bit(read_one(case.inputs[key]), all_modalities()["chest"], None)
        yield Picture(split, kind, _PREFIX[finding] + key, pixels, None, key, key, finding=finding)
