"""Your own cohort to a set in BMAD's layout: studies that are normal, studies that are not, masks if there are any.

Folders hold DICOM series, NIfTI volumes or single images (PNG, JPEG, TIFF), at any depth, in any mixture.

Patients   DICOM by Patient ID (0010,0020), written as a hash only; anything else by file, so one file per patient. A
           patient is in one split: 70 % of the normal ones in train, 10 % in valid, 20 % in test; one third of the
           abnormal ones in valid, the others in test, together with normal studies of theirs.
Slices     of a volume: those of which at least 5 % is brighter than a tenth of the volume's range, at least --every-mm
           apart, at most --slices, evenly spread. With --masks, abnormal slices are those with at least 10 mask pixels,
           and other slices of abnormal studies are left out; without, every slice of an abnormal study is Ungood.
Masks      NIfTI for volumes, an image for an image, named as what they belong to, below --masks as that is below
           --abnormal: ``a/b.nii.gz`` or ``a/b_{mask,seg,label}.nii.gz`` for ``a/b.nii.gz`` or the DICOM folder ``a/b``.
Intensity  as inference will see it: by --window for CT; else as the data set named by --dataset; else as the one all
           DICOM files agree on; else 0.5 to 99.5 percentile of the volume. Pixels are made square.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from data_prep import cli
from data_prep.layout import Case, Picture, PrepError, Report, build
from data_prep.splits import anonymous, apart, assign, spread
from data_prep.volumes import mask_volume, slice_distance, to_8bit
from invad_med.data.bmad import read_mask
from invad_med.data.datasets import DatasetFacts, all_datasets, dataset_for_dicom, find_dataset
from invad_med.data.slices import ReadError, Slice, Source
from invad_med.readers.sources import read_slice, scan

NORMAL_SHARES = {"train": 0.7, "valid": 0.1, "test": 0.2}  # of patients
ABNORMAL_SHARES = {"valid": 1 / 3, "test": 2 / 3}
MIN_PIXELS = 10
MIN_FOREGROUND = 0.05
_ENDINGS = (".nii.gz", ".nii", ".png", ".jpg", ".jpeg", ".tif", ".tiff")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this source."""
    parser.add_argument("--normal", type=Path, required=True, metavar="DIR", help="studies without finding")
    parser.add_argument("--abnormal", type=Path, required=True, metavar="DIR", help="studies with a finding")
    parser.add_argument("--masks", type=Path, metavar="DIR", help="masks of the abnormal studies")
    cli.add_common(parser, recipes=False, source=False)
    parser.add_argument("--dataset", metavar="NAME", help="data set whose intensity recipe applies (brain, liver, ...)")
    parser.add_argument("--window", type=float, nargs=2, metavar=("LOW", "HIGH"), help="Hounsfield units shown (CT)")
    parser.add_argument("--every-mm", type=float, default=5.0, metavar="MM", help="between slices (%(default)s)")
    parser.add_argument("--slices", type=int, default=20, metavar="N", help="at most so many per volume (%(default)s)")
    cli.add_salt(parser)


def run(arguments: argparse.Namespace) -> int:
    """Build what parsed arguments ask for."""
    names = ("normal", "abnormal", "masks", "dataset", "window", "every_mm", "slices", "salt")
    own = {name: getattr(arguments, name) for name in names}
    return cli.tell(prepare(**own, **cli.common(arguments)), arguments)


def prepare(
    normal: Path,
    abnormal: Path,
    output: Path,
    *,
    masks: Path | None = None,
    dataset: str | None = None,
    window: tuple[float, float] | None = None,
    every_mm: float = 5.0,
    slices: int = 20,
    seed: int = 0,
    salt: str = "",
    workers: int = 1,
    progress: bool = True,
) -> Report:
    """Build a set from an own cohort.

    Args:
        normal, abnormal: folders of studies.
        output: folder of the set.
        masks: folder of masks of the abnormal studies, or None.
        dataset: name whose intensity recipe applies, or None.
        window: lowest and highest Hounsfield unit shown, or None.
        every_mm: smallest distance of two slices of a volume, where it is known.
        slices: at most so many per volume.
        seed: of the division.
        salt: of the patients' hashes.
        workers, progress: see `data_prep.layout.build`.

    Raises:
        PrepError: a folder without images; an unknown data set; DICOM files of several data sets and none named.
    """
    found, problems = {}, []
    for kind, folder in (("good", normal), ("Ungood", abnormal)):
        try:
            result = scan(folder, progress)
        except (FileNotFoundError, ValueError) as error:
            raise PrepError(str(error)) from None
        found[kind] = [(source, _patient(source, salt)) for source in result.sources]
        problems += [f"{problem.path}: {problem.reason}" for problem in result.problems]
    facts = _facts([s for pairs in found.values() for s, _ in pairs if not s.unfit], dataset, window)
    where = assign({patient for _, patient in found["good"]}, NORMAL_SHARES, seed)
    where |= assign({patient for _, patient in found["Ungood"]}, ABNORMAL_SHARES, seed)  # wins where a patient is both
    available = _mask_files(masks) if masks else {}
    cases = []
    for kind, pairs in found.items():
        for source, patient in pairs:
            if source.unfit:
                problems.append(f"{source.paths[0]}: {source.unfit}")
                continue
            inputs = _inputs(source, patient)
            if kind == "Ungood" and masks:
                mask = _mask_of(source, abnormal, available)
                if mask is None:
                    problems.append(f"{source.paths[0]} has no mask below {masks}")
                    continue
                inputs["mask"] = mask
            name = source.name.replace("/", "_")
            if source.kind == "dicom":
                name = f"{patient}_{anonymous(source.name, salt)[:6]}"
            parameters: dict[str, Any] = {
                "kind": source.kind, "n_slices": source.n_slices, "modality": source.modality, "patient": patient,
                "split": where[patient], "class": kind, "name": name, "intensity": facts.intensity,
                "every_mm": every_mm, "slices": slices,
            }  # fmt: skip
            if source.frames is not None:
                parameters["frames"] = list(source.frames)
            cases.append(Case(f"{kind} {name}", inputs, _make, parameters))
    return build(
        output, sorted(cases, key=lambda case: case.name), dataset=facts.name, recipe="folder",
        parameters={
            "seed": seed, "every_mm": every_mm, "slices": slices, "intensity": facts.intensity,
            "shares": {"good": NORMAL_SHARES, "Ungood": ABNORMAL_SHARES},
            "min_pixels": MIN_PIXELS, "min_foreground": MIN_FOREGROUND,
        },
        workers=workers, progress=progress, problems=problems,
    )  # fmt: skip


def _patient(source: Source, salt: str) -> str:
    """Whom a source is of, never in clear for DICOM; one without Patient ID is its study's."""
    if source.kind != "dicom":
        return source.name
    header = pydicom.dcmread(
        source.paths[0], force=True, stop_before_pixels=True, specific_tags=["PatientID", "StudyInstanceUID"]
    )
    return anonymous(str(header.get("PatientID") or header.get("StudyInstanceUID") or source.name), salt)


def _facts(found: list[Source], dataset: str | None, window: tuple[float, float] | None) -> DatasetFacts:
    if dataset is not None:
        named = find_dataset(dataset)
        if named is None:
            raise PrepError(f"--dataset {dataset} is none of {', '.join(all_datasets())}")
        facts = named
    else:
        chosen = [dataset_for_dicom(s.modality, s.body_part) for s in found if s.kind == "dicom"]
        names = sorted({f.name if f else "none" for f in chosen})
        if len(names) > 1 and window is None:
            raise PrepError(f"the DICOM files belong to several data sets ({', '.join(names)}): name one by --dataset")
        agreed = chosen[0] if len(names) == 1 else None
        facts = agreed or replace(all_datasets()["brain"], name="custom", intensity={"kind": "percentile"})
    if window is not None:
        low, high = window
        if high <= low:
            raise PrepError(f"--window {low:g} {high:g}: the second must be the higher one")
        facts = replace(facts, intensity={"kind": "window", "low": float(low), "high": float(high)})
    return facts


def _inputs(source: Source, patient: str) -> dict[str, Path]:
    """Files by the names of the manifest: of DICOM by patient's hash and number, its paths may name somebody."""
    if source.kind == "dicom":
        return {f"{patient}/{i:05d}": path for i, path in enumerate(source.paths)}
    return {source.name: source.paths[0]}


def _without_ending(path: Path) -> str:
    name = path.as_posix()
    ending = next((e for e in _ENDINGS if name.casefold().endswith(e)), "")
    return name[: len(name) - len(ending)] if ending else name


def _mask_files(masks: Path) -> dict[str, Path]:
    """Masks by their path below the folder, without ending and without ``_mask``, ``_seg`` or ``_label``."""
    if not masks.is_dir():
        raise PrepError(f"{masks} is not a folder")
    files: dict[str, Path] = {}
    for path in sorted(masks.rglob("*")):
        if path.is_file() and path.name.casefold().endswith(_ENDINGS) and not path.name.startswith("."):
            key = _without_ending(path.relative_to(masks))
            for ending in ("_mask", "_seg", "_label"):
                key = key.removesuffix(ending)
            if key in files:
                raise PrepError(f"two masks for {key}: {files[key]} and {path}")
            files[key] = path
    return files


def _mask_of(source: Source, folder: Path, available: dict[str, Path]) -> Path | None:
    path = source.paths[0].relative_to(folder.absolute())
    keys = [_without_ending(path)]
    if source.kind == "dicom":
        keys = [_without_ending(path).removesuffix(path.suffix), path.parent.as_posix()]
    return next((available[key] for key in keys if key in available), None)


def _make(case: Case) -> Iterator[Picture]:
    p = case.parameters
    files = [path for key, path in case.inputs.items() if key != "mask"]
    frames = tuple(p["frames"]) if "frames" in p else None
    source = Source(p["kind"], tuple(files), p["name"], p["n_slices"], p["modality"], frames=frames)
    facts = replace(all_datasets()["brain"], intensity=p["intensity"])
    try:
        pieces = [read_slice(source, i) for i in range(source.n_slices)]
    except ReadError as error:
        raise PrepError(f"{files[0]}: {error}") from None
    labels = _labels(source, pieces, case.inputs["mask"]) if "mask" in case.inputs else None
    first = next(iter(case.inputs)) if p["kind"] != "dicom" else p["patient"]
    for i in _choose(source, pieces, labels, p["every_mm"], p["slices"]):
        image, mask = to_8bit(pieces[i], facts, None if labels is None else labels[i])
        name = p["name"] if source.n_slices == 1 else f"{p['name']}_{i:04d}"
        yield Picture(p["split"], p["class"], name, image, mask, p["patient"], first, i)


def _choose(source: Source, pieces: list[Slice], labels: np.ndarray | None, every_mm: float, count: int) -> list[int]:
    """Apply the rule of the module's docstring."""
    if labels is not None:
        wanted = [i for i, label in enumerate(labels) if (label > 0).sum() >= MIN_PIXELS]
    elif len(pieces) == 1:
        return [0]
    else:
        low, high = pieces[0].value_range
        bright = [float((piece.pixels > low + 0.1 * (high - low)).mean()) for piece in pieces]
        wanted = [i for i, share in enumerate(bright) if share >= MIN_FOREGROUND]
    distance = slice_distance(source)
    return spread(apart(wanted, distance, every_mm) if distance else wanted, count)


def _labels(source: Source, pieces: list[Slice], mask: Path) -> np.ndarray:
    """Read a mask on the grid of its image, (N, H, W), or say why it does not fit."""
    shape = (len(pieces), *pieces[0].pixels.shape[:2])
    if source.kind == "raster":
        try:
            labels = read_mask(mask)[None]
        except (OSError, SyntaxError, ValueError) as error:
            raise PrepError(f"{mask} cannot be read: {error}") from None
    else:
        labels = mask_volume(source, mask)
    if labels.shape != shape:
        raise PrepError(f"{mask} is of {labels.shape}, its image {source.paths[0]} of {shape} (slices, rows, columns)")
    return labels
