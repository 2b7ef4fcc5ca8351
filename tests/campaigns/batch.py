"""A folder tree of damaged files among good ones, and the command run on it under limits."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.campaigns.damage import damaged
from tests.campaigns.seeds import Seed

REPOSITORY = Path(__file__).parents[2]
CONFIG = REPOSITORY / "bundles" / "invad" / "configs" / "inference.json"
GOOD = ("png_deep", "nifti_float32", "dicom_explicit", "dicom_series", "tiff_pages", "jpeg_grey", "dicom_enhanced",
        "dicom_cr_window")  # fmt: skip
_NAMES = (".dcm", ".png", ".nii", ".nii.gz", ".tif", ".jpg", "", ".bin", ".txt", ".1")


@dataclass(frozen=True)
class Case:
    """One input of which files were damaged.

    Args:
        number: with the seed of the campaign it gives the same case again.
        seed: what it was made from.
        files: path below the tree -> content, intact members of a series included.
        changed: how many of them were damaged.
    """

    number: int
    seed: str
    files: dict[str, bytes]
    changed: int

    @property
    def places(self) -> tuple[str, ...]:
        """How the names of inputs begin that hold files of this case."""
        first = next(iter(self.files))
        folder, _, name = first.rpartition("/")
        return (f"{folder}/",) if "case-" in folder else (f"{folder}/{name.partition('.')[0]}",)


def make_case(seeds: Sequence[Seed], campaign: int, number: int) -> Case:
    """Return the case of a number: a seed damaged, sometimes under another name or beside good files."""
    random = np.random.default_rng([campaign, number])
    seed = seeds[int(random.integers(len(seeds)))]
    names = list(seed.files)
    chosen = set(random.permutation(names)[: int(random.integers(1, 3))]) if len(names) > 1 else set(names)
    folder = f"{seed.folder}/case-{number:06d}"
    renamed = len(names) == 1 and random.random() < 0.06
    among = len(names) == 1 and seed.format != "dicom" and random.random() < 0.1
    files = {}
    for name in names:
        content = damaged(seed, seed.files[name], random) if name in chosen else seed.files[name]
        stem, dot, ending = name.partition(".")
        ending = _NAMES[int(random.integers(len(_NAMES)))] if renamed else dot + ending
        files[f"{seed.folder}/good/m{number:06d}{ending}" if among else f"{folder}/{stem}{ending}"] = content
    return Case(number, seed.name, files, len(chosen))


def write_tree(root: Path, seeds: Sequence[Seed], cases: Sequence[Case] = ()) -> None:
    """Write the good files and the cases below a folder."""
    good = {f"{s.folder}/good/{s.name}/{n}": c for s in seeds if s.name in GOOD for n, c in s.files.items()}
    for files in (good, *(case.files for case in cases)):
        for name, content in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


@dataclass(frozen=True)
class Run:
    """How the command ended: status (None if it was stopped for time), what it said, seconds, largest memory so far."""

    status: int | None
    out: str
    err: str
    seconds: float
    peak: float


def run_command(tree: Path, output: Path, options: Sequence[str] = (), limit: float = 900, memory: float = 12) -> Run:
    """Run inference on a tree; the gate is off, as it would withhold every score of the noise in it.

    Args:
        tree, output: folders.
        options: further words.
        limit: seconds after which it is stopped.
        memory: GiB of address space that it may have.
    """
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(CONFIG), "--dataset_dir", str(tree),
               "--output_dir", str(output), "--gate", "false", *options]  # fmt: skip
    start = time.monotonic()
    size = int(memory * 2**30)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), "PYTHONFAULTHANDLER": "1"}
    status: int | None
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=REPOSITORY, env=environment,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (size, size)),
    ) as process:  # fmt: skip
        try:
            out, err = process.communicate(timeout=limit)
            status = process.returncode
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            status = None
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    said = [re.sub(r"[^\r\n]*\r", "", text.decode("utf-8", "replace")) for text in (out, err)]
    return Run(status, said[0], said[1], time.monotonic() - start, peak)
