"""What the commands of all sources share: options, and what is said at the end."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from data_prep.layout import Report

RECIPES = ("bmad", "clean")
INCOMPLETE = 3  # exit status of a build that had to leave something out, as of a run that did


def add_common(parser: argparse.ArgumentParser, recipes: bool, source: bool = True) -> None:
    """Add --source, --output, --recipe (where there are two), --seed, --workers and --quiet."""
    if source:
        parser.add_argument("--source", type=Path, required=True, metavar="DIR", help="folder of the original data")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the set to make")
    if recipes:
        parser.add_argument(
            "--recipe", choices=RECIPES, default="clean",
            help="bmad: what the benchmark did, for comparison; clean: patients in one split, windows and slices "
            "checked (default: %(default)s)",
        )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of whatever is drawn (default: %(default)s)")
    parser.add_argument(
        "--workers", type=int, default=max(1, (os.cpu_count() or 2) // 2), metavar="N",
        help="processes (default: half the cores, here %(default)s)",
    )  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def add_salt(parser: argparse.ArgumentParser) -> None:
    """Add --salt, for sources whose patients are named by a hash of their DICOM Patient ID."""
    parser.add_argument(
        "--salt", default="", metavar="TEXT",
        help="secret that goes into the hash by which patients are named; keep it to get the same names again",
    )  # fmt: skip


def common(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the shared options as keyword arguments of a source's ``prepare``."""
    names = [name for name in ("source", "output", "recipe", "seed", "workers") if name in arguments]
    return {**{name: getattr(arguments, name) for name in names}, "progress": not arguments.quiet}


def tell(report: Report, arguments: argparse.Namespace) -> int:
    """Print what was built; return the exit status: 3 (incomplete) if something could not be."""
    for split, classes in report.counts.items():
        print(f"{split}: " + ", ".join(f"{n} {kind}" for kind, n in classes.items()))
    print(f"{arguments.output}: {report.made} cases made, {report.kept} already there")
    for problem in report.problems:
        print(f"problem: {problem}", file=sys.stderr)
    return INCOMPLETE if report.problems else 0
