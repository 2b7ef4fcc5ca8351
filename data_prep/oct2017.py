"""Kermany's OCT2017 to the OCT2017 set.

``--source`` holds ``{train,val,test}/{NORMAL,CNV,DME,DRUSEN}/<class>-<patient>-<n>.jpeg``, at any depth. NORMAL is
good, the others are Ungood; of train only NORMAL is used. Pixels are those of the file, as 8-bit grey.

``bmad``   As released: what lies in a folder is in that split, so that a patient may be in
           two.
``clean``  The same, less the pictures that would put a patient in two splits: a patient of test is in no other split,
           one of valid not in train. (The number in a file's name is taken as the patient, whatever the class.)
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from data_prep import cli
from data_prep.layout import Case, Picture, PrepError, Report, build
from data_prep.pictures import find_pictures, read_grey

_BATCH = 256  # pictures of a case
_SPLITS = {"train": "train", "val": "valid", "valid": "valid", "test": "test"}
_CLASSES = ("NORMAL", "CNV", "DME", "DRUSEN")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this source."""
    cli.add_common(parser, recipes=True)


def run(arguments: argparse.Namespace) -> int:
    """Build what parsed arguments ask for."""
    return cli.tell(prepare(**cli.common(arguments)), arguments)


def prepare(
    source: Path, output: Path, *, recipe: str = "clean", seed: int = 0, workers: int = 1, progress: bool = True
) -> Report:
    """Build the OCT2017 set.

    Args:
        source: folder of the release.
        output: folder of the set.
        recipe: ``bmad`` or ``clean``.
        seed: not used, nothing is drawn.
        workers, progress: see `data_prep.layout.build`.

    Raises:
        PrepError: no picture found.
    """
    found = find(source)
    if recipe == "clean":
        patients = {s: {patient for _, split, _, patient in found if split == s} for s in ("valid", "test")}
        taken = {"train": patients["valid"] | patients["test"], "valid": patients["test"], "test": set()}
        found = [item for item in found if item[3] not in taken[item[1]]]
    cases = []
    for i in range(0, len(found), _BATCH):
        batch = found[i : i + _BATCH]
        inputs = {f"{split}/{finding}/{path.name}": path for path, split, finding, _ in batch}
        rows = [[f"{split}/{finding}/{path.name}", split, finding, patient] for path, split, finding, patient in batch]
        cases.append(Case(f"pictures {i}", inputs, _make, {"pictures": rows}))
    return build(output, cases, dataset="oct2017", recipe=recipe, parameters={}, workers=workers, progress=progress)


def find(source: Path) -> list[tuple[Path, str, str, str]]:
    """Find pictures: (path, split, finding, patient), sorted by split, finding and name."""
    found = []
    for path in find_pictures(source):
        parts = [part.casefold() for part in path.relative_to(source).parts]
        split = _SPLITS.get(parts[-3]) if len(parts) > 2 else _SPLITS.get(source.name.casefold())
        finding = path.parent.name.upper()
        match = re.match(r"[A-Za-z]+-(\d+)-\d+$", path.stem)
        if split and finding in _CLASSES and not (split == "train" and finding != "NORMAL"):
            found.append((path, split, finding, match[1] if match else path.stem))
    if not found:
        raise PrepError(f"no {{train,val,test}}/{{NORMAL,CNV,DME,DRUSEN}} folder with images below {source}")
    return sorted(found, key=lambda f: (f[1], f[2], f[0].name, f[0]))


def _make(case: Case) -> Iterator[Picture]:
    for key, split, finding, patient in case.parameters["pictures"]:
        kind = "good" if finding == "NORMAL" else "Ungood"
        name = Path(key).stem
        yield Picture(split, kind, name, read_grey(case.inputs[key]), None, patient, key, finding=finding)
