"""BraTS2021 FLAIR volumes and tumour segmentations to the Brain set.

``--source`` holds ``<id>/<id>_flair.nii.gz`` and ``<id>/<id>_seg.nii.gz``, at any depth.

``bmad``   Slices 60..99 as stored (x down, y right), min-max per slice, ``bone`` colours (RGBA), masks coloured too.
           Patients in order of how many of these slices are free of tumour: 424 to train, 162 to test good, 39 to valid
           good, all their free slices; of the rest 11 to valid (every 10th slice), the others to test (every 8th) as
           Ungood, without a look at the segmentation. Numbers are for 1,251 patients and scale with the source.
``clean``  Patients to one split each (60/10/30 %; 0/25/75 % of those with tumour on every slice); slices in display
           orientation, one grey scale per volume; good are slices without tumour on them or their neighbours, all of
           them in train, up to 4 per patient in valid and test, beside up to 5 with at least 10 tumour pixels.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import cli
from data_prep.layout import Case, Picture, PrepError, Report, build, run_all
from data_prep.splits import assign, shuffled, spread
from data_prep.volumes import imsave, niftis_by_name, read_labels, read_volume, stored_volume, to_8bit
from invad_med.data.contrast import with_contrast
from invad_med.data.modalities import all_modalities
from invad_med.data.places import place_along

SHARES = {"train": 0.6, "valid": 0.1, "test": 0.3}  # of patients, recipe clean
PUBLISHED = {"all": 1251, "train": 424, "test": 162, "valid": 39, "valid abnormal": 11}  # patients
MIN_PIXELS = 10
MARGIN = 1  # slices next to a tumour that are not taken as good
_GOOD, _UNGOOD = 4, 5  # slices per patient of valid and test


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this source."""
    cli.add_common(parser, recipes=True)
    parser.add_argument("--first", type=int, default=60, metavar="N", help="first axial slice (default: %(default)s)")
    parser.add_argument("--last", type=int, default=99, metavar="N", help="last axial slice (default: %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Build what parsed arguments ask for."""
    return cli.tell(prepare(first=arguments.first, last=arguments.last, **cli.common(arguments)), arguments)


def prepare(
    source: Path,
    output: Path,
    *,
    recipe: str = "clean",
    first: int = 60,
    last: int = 99,
    seed: int = 0,
    workers: int = 1,
    progress: bool = True,
) -> Report:
    """Build the Brain set.

    Args:
        source: folder of BraTS patients.
        output: folder of the set.
        recipe: ``bmad`` or ``clean``.
        first, last: axial slices considered, 0-based, both included.
        seed: of the division.
        workers, progress: see `data_prep.layout.build`.

    Raises:
        PrepError: no patient found.
    """
    patients, problems = find(source)
    areas: dict[str, list[int]] = {}
    jobs = [(name, flair, seg, recipe) for name, (flair, seg) in sorted(patients.items())]
    for (name, *_), result in run_all(_areas, jobs, workers, progress, "look for tumours"):
        if isinstance(result, Exception):
            problems.append(f"{name}: {result}")
        else:
            areas[name] = result
    for name in [name for name, area in areas.items() if not any(area)]:
        problems.append(f"{patients[name][1]} marks nothing: which of its slices are normal is not known")
        del areas[name]
    areas = {name: areas[name] for name in sorted(areas)}
    plan = (_plan_bmad if recipe == "bmad" else _plan_clean)(areas, first, last, seed)
    problems += [f"{name} gives no slice: none of {first}..{last} is of use" for name in areas if not plan.get(name)]
    cases = [
        Case(
            name,
            {f"{name}_flair": patients[name][0], f"{name}_seg": patients[name][1]},
            _make_bmad if recipe == "bmad" else _make_clean,
            {"slices": slices, "patient": name},
        )
        for name, slices in sorted(plan.items())
        if slices
    ]
    parameters: dict[str, Any] = {"first": first, "last": last, "seed": seed}
    if recipe == "clean":
        parameters |= {"shares": SHARES, "min_pixels": MIN_PIXELS, "margin": MARGIN, "per_patient": [_GOOD, _UNGOOD]}
    return build(
        output, cases, dataset="brain", recipe=recipe, parameters=parameters, workers=workers, progress=progress,
        problems=problems,
    )  # fmt: skip


def find(source: Path) -> tuple[dict[str, tuple[Path, Path]], list[str]]:
    """Find patients: id -> (FLAIR, segmentation), and what is missing."""
    files = niftis_by_name(source)
    patients, problems = {}, []
    for name in sorted(files):
        if name.endswith("_flair"):
            patient = name.removesuffix("_flair")
            seg = files.get(f"{patient}_seg")
            if seg is None:
                problems.append(f"{files[name]} has no {patient}_seg.nii.gz beside it")
            else:
                patients[patient] = (files[name], seg)
    if not patients:
        raise PrepError(f"no <id>_flair.nii.gz with <id>_seg.nii.gz below {source}")
    return patients, problems


def _areas(job: tuple[str, Path, Path, str]) -> list[int]:
    """Tumour pixels per slice."""
    _, flair, seg, recipe = job
    labels = stored_volume(seg).transpose(2, 0, 1) if recipe == "bmad" else read_labels(seg, flair)
    return [int((piece != 0).sum()) for piece in labels]


def _plan_bmad(areas: dict[str, list[int]], first: int, last: int, seed: int) -> dict[str, list[list[Any]]]:
    """Patient -> [split, class, slice]..."""
    taken = {name: range(first, min(last + 1, len(area))) for name, area in areas.items()}
    free = {name: [z for z in taken[name] if areas[name][z] == 0] for name in areas}
    ranked = sorted((n for n in areas if free[n]), key=lambda n: (-len(free[n]), n))
    plan: dict[str, list[list[Any]]] = {}
    for split in ("train", "test", "valid"):
        count = max(1, round(PUBLISHED[split] * len(areas) / PUBLISHED["all"]))
        for name in ranked[:count]:
            plan[name] = [[split, "good", z] for z in free[name]]
        ranked = ranked[count:]
    rest = shuffled(set(areas) - set(plan), seed)
    count = max(1, round(PUBLISHED["valid abnormal"] * len(areas) / PUBLISHED["all"]))
    for i, name in enumerate(rest):
        split, step = ("valid", 10) if i < count else ("test", 8)
        plan[name] = [[split, "Ungood", z] for z in taken[name][::step]]
    return plan


def _plan_clean(areas: dict[str, list[int]], first: int, last: int, seed: int) -> dict[str, list[list[Any]]]:
    considered = {name: range(first, min(last + 1, len(area))) for name, area in areas.items()}
    good = {
        name: [z for z in considered[name] if not any(area[max(0, z - MARGIN) : z + MARGIN + 1])]
        for name, area in areas.items()
    }
    # Whoever has no slice without tumour can teach nothing normal: such patients only go where Ungood is wanted.
    where = assign([n for n in areas if good[n]], SHARES, seed)
    where |= assign([n for n in areas if not good[n]], {s: n for s, n in SHARES.items() if s != "train"}, seed)
    plan: dict[str, list[list[Any]]] = {}
    for name, split in where.items():
        if split == "train":
            plan[name] = [[split, "good", z] for z in good[name]]
        else:
            bad = [z for z in considered[name] if areas[name][z] >= MIN_PIXELS]
            plan[name] = [[split, "good", z] for z in spread(good[name], _GOOD)]
            plan[name] += [[split, "Ungood", z] for z in spread(bad, _UNGOOD)]
    return plan


def _make_bmad(case: Case) -> Iterator[Picture]:
    name = case.parameters["patient"]
    flair, seg = (stored_volume(case.inputs[f"{name}_{kind}"]) for kind in ("flair", "seg"))
    shown = np.flatnonzero(np.ptp(flair, axis=(0, 1))).tolist()
    for split, kind, z in case.parameters["slices"]:
        number = name.split("_")[-1]
        image, mask = (imsave(volume[:, :, z], "bone") for volume in (flair, seg))
        yield Picture(split, kind, f"{number}_{z}", image, mask, number, f"{name}_flair", z, place_along(z, shown))


def _make_clean(case: Case) -> Iterator[Picture]:
    name = case.parameters["patient"]
    volume = read_volume(case.inputs[f"{name}_flair"], case.inputs[f"{name}_seg"])
    assert volume.labels is not None
    brain = all_modalities()["brain"]
    shown = with_contrast(volume.slices, brain)
    for split, kind, z in case.parameters["slices"]:
        image, mask = to_8bit(volume.slices[z], brain, volume.labels[z])
        yield Picture(split, kind, f"{name}_{z:03d}", image, mask, name, f"{name}_flair", z, place_along(z, shown))
