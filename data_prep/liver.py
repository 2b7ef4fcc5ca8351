"""BTCV and LiTS abdominal CT with organ and lesion labels to the Liver set.

``--source`` holds, at any depth, BTCV as ``img0001.nii.gz`` and ``label0001.nii.gz`` (liver is label 6) and LiTS as
``volume-0.nii`` and ``segmentation-0.nii`` (liver 1, lesion 2), gzipped or not.

``bmad``   Train: every BTCV slice with liver, its Hounsfield units not clipped. Valid and test: every LiTS slice with
           liver, clipped to -200..250 HU, one in ten to valid, drawn by slice, so that patients are in both. All are
           scaled by the slice's own minimum and maximum, blackened outside the liver, flipped upside down as stored,
           and histogram-equalised the benchmark's way. (It used 1,659 LiTS slices of volumes it does not list.)
``clean``  Whole slices in display orientation, -200..250 HU throughout, square pixels. Train: BTCV and lesion-free
           slices of 50 % of the LiTS patients, so that the source does not tell train from test; the other patients go
           to valid (10 %) or test (40 %), each with up to 8 slices of liver without lesion and up to 8 with at least 10
           lesion pixels, at least 5 mm apart.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import cli
from data_prep.layout import Case, Picture, PrepError, Report, build, run_all
from data_prep.splits import apart, assign, shuffled, spread
from data_prep.volumes import imsave, niftis_by_name, read_volume, stored_volume, to_8bit
from invad_med.data.modalities import all_modalities

SHARES = {"train": 0.5, "valid": 0.1, "test": 0.4}  # of LiTS patients, recipe clean
VALID_SHARE = 0.1  # of LiTS slices, recipe bmad
MIN_PIXELS = 10  # of lesion in an Ungood slice
MIN_LIVER = 400  # mm2 of liver in a slice, recipe clean: less is the very top or tip
EVERY_MM = 5.0
PER_PATIENT = 8  # slices of a class, valid and test
_BTCV_LIVER = 6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this source."""
    cli.add_common(parser, recipes=True)


def run(arguments: argparse.Namespace) -> int:
    """Build what parsed arguments ask for."""
    return cli.tell(prepare(**cli.common(arguments)), arguments)


def prepare(
    source: Path, output: Path, *, recipe: str = "clean", seed: int = 0, workers: int = 1, progress: bool = True
) -> Report:
    """Build the Liver set.

    Args:
        source: folder of BTCV and LiTS volumes; one of the two may be missing.
        output: folder of the set.
        recipe: ``bmad`` or ``clean``.
        seed: of the division.
        workers, progress: see `data_prep.layout.build`.

    Raises:
        PrepError: no volume found.
    """
    volumes, problems = find(source)
    areas: dict[str, dict[str, Any]] = {}
    jobs = [(name, *paths, recipe) for name, paths in sorted(volumes.items())]
    for (name, *_), result in run_all(_areas, jobs, workers, progress, "look for livers"):
        if isinstance(result, Exception):
            problems.append(f"{name}: {result}")
        else:
            areas[name] = result
    for name in [name for name, area in areas.items() if not any(area["liver"])]:
        problems.append(f"{volumes[name][1]} marks no liver")
        del areas[name]
    areas = {name: areas[name] for name in sorted(areas)}
    plan = (_plan_bmad if recipe == "bmad" else _plan_clean)(areas, seed)
    problems += [f"{name} gives no slice: too little liver" for name in areas if not plan.get(name)]
    cases = [
        Case(
            name,
            {f"{name}_image": volumes[name][0], f"{name}_label": volumes[name][1]},
            _make_bmad if recipe == "bmad" else _make_clean,
            {"slices": slices, "volume": name},
        )
        for name, slices in sorted(plan.items())
        if slices
    ]
    parameters: dict[str, Any] = {"seed": seed, "valid_share": VALID_SHARE}
    if recipe == "clean":
        parameters = {
            "seed": seed, "shares": SHARES, "min_pixels": MIN_PIXELS, "min_liver_mm2": MIN_LIVER,
            "every_mm": EVERY_MM, "per_patient": PER_PATIENT, "window": asdict(all_modalities()["liver"].intensity),
        }  # fmt: skip
    return build(
        output, cases, dataset="liver", recipe=recipe, parameters=parameters, workers=workers, progress=progress,
        problems=problems,
    )  # fmt: skip


def find(source: Path) -> tuple[dict[str, tuple[Path, Path]], list[str]]:
    """Find volumes: ``btcv0001`` or ``lits000`` -> (image, label), and what is missing."""
    files = niftis_by_name(source)
    volumes, problems = {}, []
    for name in sorted(files):
        for pattern, partner, label in (
            (r"img(\d+)", "btcv{:04d}", "label{}"),
            (r"volume-(\d+)", "lits{:03d}", "segmentation-{}"),
        ):
            if match := re.fullmatch(pattern, name):
                other = files.get(label.format(match[1]))
                if partner.format(int(match[1])) in volumes:
                    problems.append(f"{files[name]} has the number of another volume")
                elif other is None:
                    problems.append(f"{files[name]} has no {label.format(match[1])}.nii.gz")
                else:
                    volumes[partner.format(int(match[1]))] = (files[name], other)
    if not volumes:
        raise PrepError(f"neither img<N>/label<N> (BTCV) nor volume-<N>/segmentation-<N> (LiTS) volumes below {source}")
    return volumes, problems


def _organs(name: str, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return liver (lesions included) and lesion, bool, of a label volume."""
    labels = np.rint(labels)
    if name.startswith("btcv"):
        return labels == _BTCV_LIVER, np.zeros(labels.shape, dtype=bool)
    return labels > 0, labels == 2


def _areas(job: tuple[str, Path, Path, str]) -> dict[str, Any]:
    """Pixels of liver and lesion per slice; pixel area in mm2 and distance of slices in mm."""
    name, image, label, recipe = job
    if recipe == "bmad":
        labels, area, distance = stored_volume(label).transpose(2, 0, 1), 1.0, 1.0
    else:
        volume = read_volume(image, label)
        assert volume.labels is not None
        rows, columns = volume.slices[0].spacing or (1.0, 1.0)
        labels, area, distance = volume.labels, rows * columns, volume.distance
    liver, lesion = _organs(name, labels)
    return {"liver": liver.sum((1, 2)).tolist(), "lesion": lesion.sum((1, 2)).tolist(), "area": area, "mm": distance}


def _plan_bmad(areas: dict[str, dict[str, Any]], seed: int) -> dict[str, list[list[Any]]]:
    """Volume -> [split, class, slice]..."""
    plan: dict[str, list[list[Any]]] = {}
    slices = {(name, z): a["lesion"][z] > 0 for name, a in areas.items() for z, n in enumerate(a["liver"]) if n}
    keys = {f"{name} {z}": (name, z) for name, z in slices if name.startswith("lits")}
    valid = {keys[key] for key in shuffled(keys, seed)[: round(VALID_SHARE * len(keys))]}
    for (name, z), lesion in slices.items():
        split = "train" if name.startswith("btcv") else "valid" if (name, z) in valid else "test"
        plan.setdefault(name, []).append([split, "Ungood" if lesion else "good", z])
    return plan


def _plan_clean(areas: dict[str, dict[str, Any]], seed: int) -> dict[str, list[list[Any]]]:
    where = {name: "train" for name in areas if name.startswith("btcv")}
    where |= assign([name for name in areas if name.startswith("lits")], SHARES, seed)
    plan: dict[str, list[list[Any]]] = {}
    for name, split in where.items():
        a = areas[name]
        liver = [z for z, n in enumerate(a["liver"]) if n * a["area"] >= MIN_LIVER]
        good = apart([z for z in liver if a["lesion"][z] == 0], a["mm"], EVERY_MM)
        bad = apart([z for z in liver if a["lesion"][z] >= MIN_PIXELS], a["mm"], EVERY_MM)
        plan[name] = [[split, "good", z] for z in (good if split == "train" else spread(good, PER_PATIENT))]
        if split != "train":
            plan[name] += [[split, "Ungood", z] for z in spread(bad, PER_PATIENT)]
    return plan


def _make_bmad(case: Case) -> Iterator[Picture]:
    name = case.parameters["volume"]
    image, labels = (stored_volume(case.inputs[f"{name}_{kind}"]) for kind in ("image", "label"))
    liver, lesion = _organs(name, labels)
    if name.startswith("lits"):
        image = np.clip(image, -200, 250)
    for split, kind, z in case.parameters["slices"]:
        inside = imsave(image[:, :, z], "gray")[..., 0] * liver[:, :, z]
        picture, mask = equalise(inside[::-1]), lesion[::-1, :, z]
        yield Picture(split, kind, f"{name}_{z}", picture, mask, name, f"{name}_image", z)


def _make_clean(case: Case) -> Iterator[Picture]:
    name = case.parameters["volume"]
    volume = read_volume(case.inputs[f"{name}_image"], case.inputs[f"{name}_label"])
    assert volume.labels is not None
    _, lesion = _organs(name, volume.labels)
    for split, kind, z in case.parameters["slices"]:
        picture, mask = to_8bit(volume.slices[z], all_modalities()["liver"], lesion[z])
        yield Picture(split, kind, f"{name}_{z:04d}", picture, mask, name, f"{name}_image", z)


def equalise(image: np.ndarray) -> np.ndarray:
    """Equalise (H, W) uint8 as the benchmark did: black does not count, and dark values are squeezed to 30..150."""
    counts = np.bincount(image.ravel(), minlength=256).astype(np.float64)
    counts[0] = 0
    if not counts.any():
        return image.copy()
    table = np.floor(255 * np.cumsum(counts / counts.sum()) + 1e-9)
    dark = (table > 0) & (table < 150)
    table[dark] = np.floor(table[dark] / 150 * 120 + 30)
    return table.astype(np.uint8)[image]
