"""RESC retinal OCT volumes with oedema labels to the RESC set.

``--source`` holds the training and the validation set (folders with "train" and "valid" in their names), each with
``original_images/<volume>/<n>.bmp`` and ``label_images/<volume>/<n>.bmp``; endings as ``.img`` and ``_labelMark`` of
the volumes' folders are ignored. Every label but 0 (oedema, fluid, detachment) is anomalous.

``bmad``   Train: slices of the training set without label. Valid and test: all slices of the validation set, 115 in
           1,920 to valid, drawn by slice within good and Ungood, so that patients are in both.
``clean``  As ``bmad``, but the validation set's patients go to valid (20 %) or test (80 %) as a whole, slices next to a
           labelled one are no good ones, and Ungood slices have at least 10 labelled pixels.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep import cli
from data_prep.layout import Case, Picture, PrepError, Report, build, run_all
from data_prep.pictures import find_pictures, read_grey, read_marks
from data_prep.splits import assign, portion, shuffled

SHARES = {"valid": 0.2, "test": 0.8}  # of patients, recipe clean
PUBLISHED = {"good": {"valid": 45, "test": 1041}, "Ungood": {"valid": 70, "test": 764}}  # slices, recipe bmad
MIN_PIXELS = 10
_ENDINGS = re.compile(r"(_labelmark|\.img)+$", re.IGNORECASE)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this source."""
    cli.add_common(parser, recipes=True)


def run(arguments: argparse.Namespace) -> int:
    """Build what parsed arguments ask for."""
    return cli.tell(prepare(**cli.common(arguments)), arguments)


def prepare(
    source: Path, output: Path, *, recipe: str = "clean", seed: int = 0, workers: int = 1, progress: bool = True
) -> Report:
    """Build the RESC set.

    Args:
        source: folder of the released training and validation sets.
        output: folder of the set.
        recipe: ``bmad`` or ``clean``.
        seed: of the division.
        workers, progress: see `data_prep.layout.build`.

    Raises:
        PrepError: no volume found.
    """
    volumes, problems = find(source)
    areas: dict[str, dict[int, int]] = {}
    for (name, _), result in run_all(_areas, sorted(volumes.items()), workers, progress, "look for labels"):
        if isinstance(result, Exception):
            problems.append(f"{name}: {result}")
        else:
            areas[name] = result
    plan = (_plan_bmad if recipe == "bmad" else _plan_clean)({n: areas[n] for n in sorted(areas)}, seed)
    cases = []
    for name, slices in sorted(plan.items()):
        used = {f"{name}/{n}": files for n, files in volumes[name].items() if n in {z for _, _, z in slices}}
        inputs = {f"{key} {kind}": path for key, files in used.items() for kind, path in files.items()}
        cases.append(Case(name, inputs, _make, {"volume": name, "slices": slices}))
    parameters: dict[str, Any] = {"seed": seed}
    if recipe == "clean":
        parameters |= {"shares": SHARES, "min_pixels": MIN_PIXELS}
    return build(
        output, cases, dataset="resc", recipe=recipe, parameters=parameters, workers=workers, progress=progress,
        problems=problems,
    )  # fmt: skip


def find(source: Path) -> tuple[dict[str, dict[int, dict[str, Path]]], list[str]]:
    """Find slices: ``train_<volume>`` or ``valid_<volume>`` -> number -> image and label; and what is missing."""
    volumes: dict[str, dict[int, dict[str, Path]]] = {}
    for path in find_pictures(source):
        parts = path.relative_to(source).parts
        kinds = {"original_images": "image", "label_images": "label"}
        kind = next((kinds[part.casefold()] for part in parts if part.casefold() in kinds), None)
        top = "/".join(parts).casefold()
        split = "train" if "train" in top else "valid" if "valid" in top else None
        if kind and split and path.stem.isdigit():
            volume = volumes.setdefault(f"{split}_{_ENDINGS.sub('', path.parent.name)}", {})
            volume.setdefault(int(path.stem), {})[kind] = path
    problems = []
    for _, volume in sorted(volumes.items()):
        for number, files in sorted(volume.items()):
            if set(files) != {"image", "label"}:
                problems.append(f"{next(iter(files.values()))} has no {'label' if 'image' in files else 'image'}")
                del volume[number]
    if not any(volumes.values()):
        raise PrepError(f"no train or valid folder with original_images and label_images below {source}")
    return {name: dict(sorted(volume.items())) for name, volume in volumes.items()}, problems


def _areas(job: tuple[str, dict[int, dict[str, Path]]]) -> dict[int, int]:
    """Labelled pixels per slice."""
    return {number: int(read_marks(files["label"]).sum()) for number, files in job[1].items()}


def _plan_bmad(areas: dict[str, dict[int, int]], seed: int) -> dict[str, list[list[Any]]]:
    """Volume -> [split, class, slice]..."""
    plan: dict[str, list[list[Any]]] = {}
    pools: dict[str, dict[str, tuple[str, int]]] = {"good": {}, "Ungood": {}}
    for name, area in areas.items():
        for number, pixels in area.items():
            if name.startswith("valid"):
                pools["Ungood" if pixels else "good"][f"{name} {number}"] = (name, number)
            elif not pixels:
                plan.setdefault(name, []).append(["train", "good", number])
    for kind, pool in pools.items():
        valid = portion(len(pool), PUBLISHED[kind])["valid"]
        for i, key in enumerate(shuffled(pool, seed)):
            name, number = pool[key]
            plan.setdefault(name, []).append(["valid" if i < valid else "test", kind, number])
    return {name: sorted(slices, key=lambda s: s[2]) for name, slices in plan.items()}


def _plan_clean(areas: dict[str, dict[int, int]], seed: int) -> dict[str, list[list[Any]]]:
    where = {name: "train" for name in areas if name.startswith("train")}
    where |= assign([name for name in areas if name.startswith("valid")], SHARES, seed)
    plan: dict[str, list[list[Any]]] = {}
    for name, area in areas.items():
        for number, pixels in area.items():
            if not any(area.get(n, 0) for n in (number - 1, number, number + 1)):
                plan.setdefault(name, []).append([where[name], "good", number])
            elif pixels >= MIN_PIXELS and where[name] != "train":
                plan.setdefault(name, []).append([where[name], "Ungood", number])
    return plan


def _make(case: Case) -> Iterator[Picture]:
    name = case.parameters["volume"]
    for split, kind, number in case.parameters["slices"]:
        image = read_grey(case.inputs[f"{name}/{number} image"])
        label = read_marks(case.inputs[f"{name}/{number} label"])
        if image.shape != label.shape:
            raise PrepError(f"{case.inputs[f'{name}/{number} label']} has another size than its image")
        yield Picture(split, kind, f"{name}_{number:03d}", image, label, name, f"{name}/{number}", number)
