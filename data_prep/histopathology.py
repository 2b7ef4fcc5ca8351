"""Camelyon16 whole-slide TIFF to the Histopathology set: tiles of 256 x 256 pixels of the finest level.

``--source`` holds ``normal_*.tif`` and ``test_*.tif`` slides and, for slides with metastases, annotations of the same
name as ``.xml`` beside them or in a folder beside theirs. A test slide without annotation is taken as normal: fetch all
of them. Training slides with tumour are not used. OpenSlide reads tile by tile: memory does not grow with the slide.

``bmad``   Tiles around the centres listed in ``--coords DIR`` (``{train,valid,test}_good.txt`` and
           ``{valid,test}_bad.txt`` with lines ``slide,x,y``), which BMAD's repository has in
           data_processing/histopathology/coords.
``clean``  With ``--coords``: the same, each tile once, and a slide of test gives no tile to valid. Without: a grid of
           tiles with at least half tissue, up to ``--tiles`` per slide and class; Ungood are at least half, good not at
           all inside an annotation; 15 % of the test slides go to valid.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep import cli
from data_prep.layout import Case, Picture, PrepError, Report, build, run_all
from data_prep.slides import TILE, Slide, grid_tiles
from data_prep.splits import assign, shuffled

SHARES = {"valid": 0.15, "test": 0.85}  # of test slides, recipe clean
_LISTS = {
    "train_good": ("train", "good"),
    "valid_good": ("valid", "good"),
    "valid_bad": ("valid", "Ungood"),
    "test_good": ("test", "good"),
    "test_bad": ("test", "Ungood"),
}
_SUFFIXES = {".tif", ".tiff", ".svs", ".ndpi", ".mrxs"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this source."""
    cli.add_common(parser, recipes=True)
    parser.add_argument("--coords", type=Path, metavar="DIR", help="folder of the lists of tile centres")
    parser.add_argument("--tiles", type=int, default=50, metavar="N", help="per slide and class (default: %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Build what parsed arguments ask for."""
    report = prepare(coords=arguments.coords, tiles=arguments.tiles, **cli.common(arguments))
    return cli.tell(report, arguments)


def prepare(
    source: Path,
    output: Path,
    *,
    recipe: str = "clean",
    coords: Path | None = None,
    tiles: int = 50,
    seed: int = 0,
    workers: int = 1,
    progress: bool = True,
) -> Report:
    """Build the Histopathology set.

    Args:
        source: folder of slides and annotations.
        output: folder of the set.
        recipe: ``bmad`` (needs ``coords``) or ``clean``.
        coords: folder of the lists of tile centres, or None for a grid over the tissue.
        tiles: at most so many per slide and class; for the grid only.
        seed: of the division and of the choice of tiles.
        workers, progress: see `data_prep.layout.build`; a process needs about 0.3 GB.

    Raises:
        PrepError: no slide found; ``bmad`` without coordinates; a list with a broken line.
    """
    slides = find(source)
    problems: list[str] = []
    if coords is not None:
        plan = read_lists(coords)
        if recipe == "clean":
            plan = _without_overlap(plan)
        missing = sorted(set(plan) - set(slides))
        problems += [f"slide {name}, named in {coords}, is not below {source}" for name in missing]
    elif recipe == "bmad":
        raise PrepError("recipe bmad takes the tiles that BMAD lists: give their folder as --coords")
    else:
        plan = {}
        where = {name: "train" for name in slides if name.startswith("normal")}
        where |= assign([name for name in slides if name.startswith("test")], SHARES, seed)
        jobs = [(name, slides[name], _annotation(slides[name])) for name in sorted(where)]
        for (name, *_), result in run_all(grid_tiles, jobs, workers, progress, "look for tissue"):
            if isinstance(result, Exception):
                problems.append(f"{name}: {result}")
                continue
            for kind, centres in result.items():
                if kind == "Ungood" and where[name] == "train":
                    continue
                chosen = shuffled((f"{x},{y}" for x, y in centres), seed)[:tiles]
                for x, y in sorted(tuple(map(int, key.split(","))) for key in chosen):
                    plan.setdefault(name, []).append([where[name], kind, x, y])
    cases = [
        Case(name, {slides[name].name: slides[name]}, _make, {"slide": name, "tiles": plan[name]})
        for name in sorted(plan)
        if name in slides
    ]
    if not cases:
        raise PrepError(f"no slide below {source} gives a tile; slides are named normal_<n>.tif and test_<n>.tif")
    parameters: dict[str, Any] = {"seed": seed, "tile": TILE}
    if coords is None:
        parameters |= {"tiles": tiles, "shares": SHARES}
    return build(
        output, cases, dataset="histopathology", recipe=recipe, parameters=parameters, workers=workers,
        progress=progress, problems=problems,
    )  # fmt: skip


def find(source: Path) -> dict[str, Path]:
    """Find slides: name in lower case, without extension -> file."""
    if not source.is_dir():
        raise PrepError(f"{source} is not a folder")
    files = sorted(p for p in source.rglob("*") if p.suffix.casefold() in _SUFFIXES and not p.name.startswith("."))
    if not files:
        raise PrepError(f"no slide ({', '.join(sorted(_SUFFIXES))}) below {source}")
    return {path.stem.casefold(): path for path in files}


def read_lists(coords: Path) -> dict[str, list[list[Any]]]:
    """Read the lists of tile centres: slide -> [split, class, x, y]..., as listed.

    Raises:
        PrepError: there is none, or a line is not ``slide,x,y``.
    """
    plan: dict[str, list[list[Any]]] = {}
    for name, (split, kind) in _LISTS.items():
        path = coords / f"{name}.txt"
        if not path.is_file():
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
            parts = line.strip().split(",")
            if len(parts) == 3 and all(p.strip().isdigit() for p in parts[1:]):
                plan.setdefault(parts[0].strip().casefold(), []).append([split, kind, int(parts[1]), int(parts[2])])
            elif line.strip():
                raise PrepError(f"{path}, line {number}: {line.strip()!r} is not slide,x,y")
    if not plan:
        raise PrepError(f"none of {', '.join(f'{name}.txt' for name in _LISTS)} in {coords}")
    return plan


def _without_overlap(plan: dict[str, list[list[Any]]]) -> dict[str, list[list[Any]]]:
    """Keep each tile once, and of each slide only the split that comes last in train, valid, test."""
    order = ["train", "valid", "test"]
    clean = {}
    for name, tiles in plan.items():
        last = max((tile[0] for tile in tiles), key=order.index)
        unique = {tuple(tile[2:]): tile for tile in tiles if tile[0] == last}
        clean[name] = list(unique.values())
    return clean


def _annotation(slide: Path) -> Path | None:
    """The annotation of a slide: beside it or in a folder beside its own."""
    for folder in (slide.parent, *sorted(p for p in slide.parent.parent.iterdir() if p.is_dir())):
        path = folder / f"{slide.stem}.xml"
        if path.is_file():
            return path
    return None


def _make(case: Case) -> Iterator[Picture]:
    name = case.parameters["slide"]
    (source,) = case.inputs
    taken: set[tuple[str, str, int, int]] = set()
    with Slide(case.inputs[source]) as slide:
        for split, kind, x, y in case.parameters["tiles"]:
            if (split, kind, x, y) in taken:
                continue  # BMAD lists one tile twice; there is one file of that name
            taken.add((split, kind, x, y))
            yield Picture(split, kind, f"{name}_{x}_{y}", slide.tile(x, y), None, name, source)
