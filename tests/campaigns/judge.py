"""What a run on a tree of damaged files must have done, judged by what it said and left."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import math
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from PIL import Image

from invad_med.readers.sources import scan
from tests.campaigns.batch import Case, Run
from tests.campaigns.seeds import IDENTITY

NUMBERS = ("score", "threshold", "p_value", "paper_score")
STATUSES = {"scored", "no model", "unreadable", "no contrast"}
_UNFORESEEN = re.compile(r"not written \(\w*(Error|Exception|Warning)\)|breaks the standard \(\w+\)")


def rows_of(output: Path) -> list[dict[str, str]]:
    """Return the rows of a table."""
    with (output / "scores.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def good_rows(output: Path) -> list[dict[str, str]]:
    """Return the rows of the good files."""
    return [row for row in rows_of(output) if re.match(r"(phantom|chest)/good/[a-z0-9]+_", row["input"])]


def judge(tree: Path, output: Path, run: Run, cases: Sequence[Case], reference: list[dict[str, str]]) -> list[str]:
    """Return what was wrong with a run; nothing if all was right.

    Args:
        tree: what it was run on.
        output: what it left.
        run: how it ended.
        cases: damaged inputs in the tree.
        reference: `good_rows` of a run on the good files alone.
    """
    faults = []
    if run.status not in (0, 3):
        return [f"status {run.status}: {run.err[-3000:]}"]
    said = run.out + run.err
    if "Traceback" in said or re.search(r"(?m)^\w+(Error|Exception): ", said):
        faults.append(f"an error was printed: {run.err[-2000:]}")
    rows = rows_of(output)
    faults += _numbers(rows, run)
    if good_rows(output) != reference:
        faults.append(f"scores of good files differ: {[r for r in good_rows(output) if r not in reference][:4]}")
    faults += _accounted(tree, rows, cases, run)
    faults += _files(output, rows)
    faults += _studies(output, rows)
    faults += _identity(output, said)
    return faults


def unforeseen(run: Run, output: Path) -> Counter[str]:
    """Return warnings and reasons that say no more than which error a library raised."""
    telling = re.compile(r"Warning: |breaks the standard|\(\w+Error\)")
    said = [line for line in (run.out + run.err).splitlines() if "parsing config_file" not in line]
    lines = [re.sub(r"^[\d,: -]+", "", line) for line in said if telling.search(line)]
    reasons = [row["reason"] for row in rows_of(output) if _UNFORESEEN.search(row["reason"])]
    return Counter(lines + reasons)


def _numbers(rows: list[dict[str, str]], run: Run) -> list[str]:
    faults = []
    for row in rows:
        values = [float(row[name]) for name in NUMBERS if row[name]]
        if row["status"] not in STATUSES or not all(math.isfinite(v) for v in values):
            faults.append(f"row {row}")
        if row["status"] == "scored" and not (row["score"] and row["threshold"]):
            faults.append(f"scored without a score: {row}")
        if row["status"] != "scored" and (row["score"] or not row["reason"]):
            faults.append(f"not scored, and yet a score or no reason: {row}")
        if not row["reason"].isprintable():
            faults.append(f"reason that does not print: {row}")
    count = Counter(row["status"] for row in rows)
    found = re.search(
        r"(\d+) slices scored, \d+ above threshold; (\d+) without a model; (?:(\d+) without contrast, )?"
        r"(?:\d+ file\(s\) not written, )?(\d+) not read",
        run.out,
    )
    said = tuple(int(n or 0) for n in found.groups()) if found else None
    if said != tuple(count[s] for s in ("scored", "no model", "no contrast", "unreadable")):
        faults.append(f"summary {said}, table {dict(count)}")
    if len({(row["input"], row["slice"]) for row in rows}) < len(rows):
        faults.append("two rows of one name")
    if (run.status == 3) != (count["unreadable"] > 0 or "not written," in run.out):
        faults.append(f"status {run.status} with {count['unreadable']} unreadable")
    return faults


def _accounted(tree: Path, rows: list[dict[str, str]], cases: Sequence[Case], run: Run) -> list[str]:
    faults, silent = [], 0
    names = [row["input"] for row in rows]
    for case in cases:
        found = [n for place in case.places for n in names if n.startswith((place, _hidden(place)))]
        if len(case.files) > 1 and len(found) < len(case.files):
            silent += len(case.files) - len(found)
        elif not found:
            silent += 1
    passed = re.search(r"Passed over: (.*)\.\n", run.out)
    over = sum(int(n) for n in re.findall(r"(?:^|; )(\d+) ", passed.group(1))) if passed else 0
    if silent != over:
        faults.append(f"{silent} case(s) without a row, {over} passed over in the summary")
    return faults + _as_found(tree, rows, over)


def _hidden(place: str) -> str:
    """Return a place whose folder holds, by chance, what a damaged file says the patient is called."""
    *folders, folder, rest = place.split("/")
    return "/".join([*folders, f"anon-{hashlib.sha256(folder.encode()).hexdigest()[:8]}", rest])


def _as_found(tree: Path, rows: list[dict[str, str]], over: int) -> list[str]:
    """Compare with what searching the tree finds: each file once, each slice a row."""
    found = scan(tree)
    faults = []
    meant = Counter((s.name, str(i)) for s in found.sources for i in range(s.n_slices))
    meant += Counter((p.path.relative_to(tree).as_posix(), "") for p in found.problems)
    if meant != Counter((row["input"], row["slice"]) for row in rows):
        faults.append("rows are not the slices and problems that the search finds")
    files = {p for p in tree.rglob("*") if p.is_file()}
    seen = {p for s in found.sources for p in s.paths} | {p.path for p in found.problems}
    if len(files - seen) != over or seen - files:
        faults.append(f"{len(files - seen)} files neither a source nor a problem, {over} passed over")
    return faults


def _files(output: Path, rows: list[dict[str, str]]) -> list[str]:
    faults = []
    slices: dict[str, list[int]] = {}
    scored = {(row["input"], int(row["slice"])) for row in rows if row["status"] == "scored"}
    for row in rows:
        if row["slice"]:
            slices.setdefault(row["input"], []).append(int(row["slice"]))
    expected = {
        "progress.jsonl",
        "scores.csv",
        "scores.json",
        "studies.csv",
        "studies.json",
        "overview.png",
        "report.html",
    }
    for name, index in scored:
        ending = f"_s{index:03d}" if len(slices[name]) > 1 else ""
        expected |= {f"heatmaps/{name}{ending}.png", f"report/parts/{name}.json"}
    mapped, written = set(), set()
    inputs = {name for name, _ in scored}
    for path in output.rglob("*"):
        if not path.is_file():
            continue
        name = path.relative_to(output).as_posix()
        written.add(name)
        try:
            _open(path)
        except Exception as error:
            faults.append(f"{name} does not open again: {error!r}")
        if name.startswith("maps/"):
            stem = re.sub(r"(\.nii\.gz|\.tif)$", "", name.removeprefix("maps/"))
            stem = stem if stem in inputs else re.sub(r"_s\d{3,}$", "", stem)
            mapped.add(stem)
        elif name.startswith("dicom/"):
            if name.removeprefix("dicom/").rpartition("/")[0] not in inputs or not name.endswith(".dcm"):
                faults.append(f"unexpected {name}")
    if mapped != inputs:
        faults.append(f"maps of {sorted(mapped - inputs)[:3]}, none of {sorted(inputs - mapped)[:3]}")
    rest = {n for n in written if not n.startswith(("maps/", "dicom/"))}
    if rest != expected:
        faults.append(f"unexpected {sorted(rest - expected)[:3]}, missing {sorted(expected - rest)[:3]}")
    return faults


def _studies(output: Path, rows: list[dict[str, str]]) -> list[str]:
    """Judge the table of studies: every slice in one of them, no verdict of nothing, none normal of which a part is."""
    with (output / "studies.csv").open(newline="", encoding="utf-8") as file:
        studies = list(csv.DictReader(file))
    faults = []
    by_folder = any(study["study"].endswith("/") for study in studies)
    unread = sum(not row["slice"] for row in rows) if by_folder else 0
    slices = sum(int(study["slices"]) for study in studies)
    copies = sum(int(n) for s in studies for n in re.findall(r"(\d+) of \d+ images are copies", s["reason"]))
    found = sum(bool(row["slice"]) for row in rows)
    if not found <= slices + copies <= found + unread:
        faults.append(f"{slices} slices and {copies} copies in studies, {found} and {unread} unread files in the table")
    for study in studies:
        name = study["study"]
        of_folder = name.endswith("/")
        own = [row for row in rows if (f"{row['input'].rpartition('/')[0]}/" if of_folder else row["input"]) == name]
        part = not of_folder and any(row["status"] not in ("scored", "no contrast") for row in own)
        values = [float(study[column]) for column in ("score", "threshold", "p_value") if study[column]]
        if not all(math.isfinite(value) for value in values) or (study["scored"] == "0" and values):
            faults.append(f"numbers of {study}")
        if not own or (study["abnormal"] == "False" and part):
            faults.append(f"no slices, or normal in spite of some that were not scored: {study}")
        if not study["abnormal"] and not study["reason"]:
            faults.append(f"no verdict, and no reason: {study}")
    return faults


def _open(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if path.suffix in (".png", ".tif"):
            with Image.open(path) as image:
                for page in range(getattr(image, "n_frames", 1)):
                    image.seek(page)
                    assert path.suffix == ".png" or np.isfinite(np.asarray(image)).all(), "not finite"
                    image.load()
        elif path.name.endswith(".nii.gz"):
            volume = nib.load(path)
            assert np.isfinite(volume.get_fdata()).all() and np.isfinite(volume.affine).all(), "not finite"
        elif path.suffix == ".dcm":
            ds = pydicom.dcmread(path)
            if "PixelData" in ds or "FloatPixelData" in ds:
                assert np.isfinite(ds.pixel_array).all(), "not finite"
        elif path.suffix == ".json":
            json.loads(path.read_text("utf-8"))


def _identity(output: Path, said: str) -> list[str]:
    """Return where words of the patient's identity stand, but in DICOM objects."""
    texts = {"what it printed": said}
    for path in output.rglob("*"):
        name = path.relative_to(output).as_posix()
        texts[f"the name of {name}"] = name
        if path.is_file() and path.suffix != ".dcm":
            content = path.read_bytes()
            content = gzip.decompress(content) if path.suffix == ".gz" else content
            texts[name] = content.decode("latin-1")
            if path.suffix == ".png":
                texts[name] = str(Image.open(io.BytesIO(content)).info)
            elif path.suffix == ".html" or name.startswith("report/"):
                texts[name] = re.sub(r"[\w+/]{200,}", "", texts[name], flags=re.ASCII)  # pictures, as base64
    return [f"{where} holds {w!r}" for where, text in texts.items() for w in IDENTITY if w in text.casefold()]
