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
           Marked is what is not 0 in the file, whatever its type (1, 255, 65535, -1, 0.5); of a JPEG, at least 128.
Intensity  and colour as inference will see them: by --modality; else by the one modality that all DICOM files are of;
           else 0.5 to 99.5 percentile of the volume, colour kept. --window takes the place of that modality's range:
           for images that you will score as they are written, since inference windows CT by the modality's own.
           Pixels are made square.

What the images show is written into manifest.json, where training and evaluation read it. A study that gives no slice
is named, with the reason, and the exit status is then 3.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from data_prep import cli
from data_prep.layout import Case, Picture, PrepError, Report, build
from data_prep.pictures import read_marks
from data_prep.splits import anonymous, apart, assign, spread
from data_prep.volumes import mask_volume, slice_distance, to_8bit
from invad_med.data.bmad_folders import composed
from invad_med.data.contrast import with_contrast
from invad_med.data.modalities import (
    Modality,
    Percentile,
    Window,
    all_modalities,
    modality_for_dicom,
    require_modality,
)
from invad_med.data.places import place_along
from invad_med.data.slices import ReadError, Slice, Source
from invad_med.readers.sources import scan, whole_source

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
    parser.add_argument(
        "--modality", "--dataset", metavar="NAME", help="what the images show: brain, liver, chest, histopathology, ..."
    )
    parser.add_argument("--window", type=float, nargs=2, metavar=("LOW", "HIGH"), help="Hounsfield units shown (CT)")
    parser.add_argument("--every-mm", type=float, default=5.0, metavar="MM", help="between slices (%(default)s)")
    parser.add_argument("--slices", type=int, default=20, metavar="N", help="at most so many per volume (%(default)s)")
    cli.add_salt(parser)


def run(arguments: argparse.Namespace) -> int:
    """Build what parsed arguments ask for."""
    names = ("normal", "abnormal", "masks", "modality", "window", "every_mm", "slices", "salt")
    own = {name: getattr(arguments, name) for name in names}
    return cli.tell(prepare(**own, **cli.common(arguments)), arguments)


def prepare(
    normal: Path,
    abnormal: Path,
    output: Path,
    *,
    masks: Path | None = None,
    modality: str | None = None,
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
        modality: name of what the images show, or None.
        window: lowest and highest Hounsfield unit shown, or None.
        every_mm: smallest distance of two slices of a volume, where it is known.
        slices: at most so many per volume.
        seed: of the division.
        salt: of the patients' hashes.
        workers, progress: see `data_prep.layout.build`.

    Raises:
        PrepError: a folder without images; an unknown modality; DICOM files of several modalities and none named.
    """
    found, problems = {}, []
    for kind, folder in (("good", normal), ("Ungood", abnormal)):
        try:
            result = scan(folder, progress)
        except (FileNotFoundError, ValueError) as error:
            raise PrepError(str(error)) from None
        found[kind] = [(source, _patient(source, salt)) for source in result.sources]
        problems += [f"{problem.path}: {problem.reason}" for problem in result.problems]
    shown = _shown([s for pairs in found.values() for s, _ in pairs if not s.unfit], modality, window)
    recipe = {"colour": shown.colour, "intensity": _written(shown.intensity)}
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
                "kind": source.kind, "n_slices": source.n_slices, "dicom_modality": source.modality, "patient": patient,
                "split": where[patient], "class": kind, "name": name, "ascends": source.ascends, **recipe,
                "every_mm": every_mm, "slices": slices,
            }  # fmt: skip
            if source.frames is not None:
                parameters["frames"] = list(source.frames)
            cases.append(Case(f"{kind} {name}", inputs, _make, parameters))
    return build(
        output, sorted(cases, key=lambda case: case.name), dataset="custom", recipe="folder",
        modality=shown.name if shown.name in all_modalities() else None,
        parameters={
            "seed": seed, "every_mm": every_mm, "slices": slices, **recipe,
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


def _shown(found: list[Source], modality: str | None, window: tuple[float, float] | None) -> Modality:
    """Return how the images are prepared; a modality called ``custom`` where nothing says what they show."""
    if modality is not None:
        try:
            shown = require_modality(modality)
        except ValueError as error:
            raise PrepError(str(error)) from None
    else:
        chosen = [modality_for_dicom(s.modality, s.body_part) for s in found if s.kind == "dicom"]
        names = sorted({m.name if m else "none" for m in chosen})
        if len(names) > 1 and window is None:
            raise PrepError(f"the DICOM files show several modalities ({', '.join(names)}): name one by --modality")
        agreed = chosen[0] if len(names) == 1 else None
        shown = agreed or Modality("custom", "custom", colour=True)
    if window is not None:
        try:
            shown = replace(shown, intensity=Window(float(window[0]), float(window[1])))
        except ValueError as error:
            raise PrepError(f"--window: {error}") from None
    return shown


def _written(intensity: Window | Percentile) -> dict[str, list[float]]:
    return {type(intensity).__name__.lower(): list(astuple(intensity))}


def _inputs(source: Source, patient: str) -> dict[str, Path]:
    """Files by the names of the manifest: of DICOM by patient's hash and number, its paths may name somebody."""
    if source.kind == "dicom":
        return {f"{patient}/{i:05d}": path for i, path in enumerate(source.paths)}
    return {source.name: source.paths[0]}


def _without_ending(path: Path) -> str:
    name = composed(path.as_posix())
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
        keys = [_without_ending(path).removesuffix(path.suffix), composed(path.parent.as_posix())]
    return next((available[key] for key in keys if key in available), None)


def _make(case: Case) -> Iterator[Picture]:
    p = case.parameters
    files = [path for key, path in case.inputs.items() if key != "mask"]
    frames = tuple(p["frames"]) if "frames" in p else None
    source = Source(p["kind"], tuple(files), p["name"], p["n_slices"], p["dicom_modality"], frames=frames)
    ((kind, (low, high)),) = p["intensity"].items()
    intensity = Window(low, high) if kind == "window" else Percentile(low, high)
    shown = Modality("custom", "custom", colour=p["colour"], intensity=intensity)
    try:
        pieces = whole_source(source)
    except ReadError as error:
        raise PrepError(f"{files[0]}: {error}") from None
    labels = _labels(source, pieces, case.inputs["mask"]) if "mask" in case.inputs else None
    first = next(iter(case.inputs)) if p["kind"] != "dicom" else p["patient"]
    visible = with_contrast(pieces, shown)
    for i in _choose(case, source, pieces, labels):
        image, mask = to_8bit(pieces[i], shown, None if labels is None else labels[i])
        name = p["name"] if source.n_slices == 1 else f"{p['name']}_{i:04d}"
        position = place_along(i, visible) if len(pieces) > 1 and p["ascends"] else None
        yield Picture(p["split"], p["class"], name, image, mask, p["patient"], first, i, position)


def _choose(case: Case, source: Source, pieces: list[Slice], labels: np.ndarray | None) -> list[int]:
    """Apply the rule of the module's docstring; raise PrepError where it leaves nothing."""
    if labels is not None:
        areas = [int(label.sum()) for label in labels]
        chosen = [i for i, area in enumerate(areas) if area >= MIN_PIXELS]
        if not any(areas):
            raise PrepError(f"{case.inputs['mask']} marks nothing")
        if not chosen:
            most = f"marks at most {max(areas)} pixels of a slice, {MIN_PIXELS} are needed"
            raise PrepError(f"{case.inputs['mask']} {most}")
    elif len(pieces) == 1:
        return [0]
    else:
        low, high = pieces[0].value_range
        bright = [float((piece.pixels > low + 0.1 * (high - low)).mean()) for piece in pieces]
        chosen = [i for i, share in enumerate(bright) if share >= MIN_FOREGROUND]
        if not chosen:
            raise PrepError(f"no slice has {MIN_FOREGROUND:.0%} brighter than a tenth of the range")
    distance = slice_distance(source)
    if distance:
        chosen = apart(chosen, distance, case.parameters["every_mm"])
    return spread(chosen, case.parameters["slices"])


def _labels(source: Source, pieces: list[Slice], mask: Path) -> np.ndarray:
    """Read a mask on the grid of its image, (N, H, W) bool, or say why it does not fit."""
    shape = (len(pieces), *pieces[0].pixels.shape[:2])
    labels = read_marks(mask)[None] if source.kind == "raster" else mask_volume(pieces, mask)
    if labels.shape != shape:
        raise PrepError(f"{mask} is of {labels.shape}, its image {source.paths[0]} of {shape} (slices, rows, columns)")
    if source.n_slices > 1 and labels.all():
        raise PrepError(f"{mask} marks everything: what is not marked must be 0 in it")
    return labels
