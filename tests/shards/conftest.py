"""A small archive, and what a run over it that nothing disturbs leaves."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from invad_med.__main__ import main
from invad_med.bench.made import make_series
from tests.conftest import environment

COUNTS = (5, 6, 7, 8, 9)  # slices of the series
COMMAND = (sys.executable, "-m", "invad_med", "archive")


@pytest.fixture(scope="session", autouse=True)
def secret():
    """One secret, so that digests of two indices agree."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INVAD_UID_SECRET", "a" * 64)
        yield


def index(folder, work, slices=12):
    assert main(["archive", "index", str(folder), "--out", str(work), "--shard_slices", str(slices)]) == 0
    return work


def score(work, *words):
    """Score with one worker in this process and its child; return the exit status."""
    return main(["archive", "score", str(work), "--workers", "1", "--gate", "false", *words])


def start(work, *words, **options):
    """Start to score as a user would."""
    command = [*COMMAND, "score", str(work), "--gate", "false", *words]
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, **quiet, **{"env": environment(), **options})


def merged(work):
    """Return the table of slices, read by another reader than ours."""
    out = work / "merged"
    assert main(["archive", "merge", str(work), "--out", str(out)]) == 0
    return pd.read_parquet(out / "slices.parquet")


@dataclass(frozen=True)
class Whole:
    folder: Path
    work: Path
    table: pd.DataFrame


@pytest.fixture(scope="session")
def archive(tmp_path_factory):
    """Five series, a picture, a damaged file and a text."""
    folder = tmp_path_factory.mktemp("archive")
    for count in COUNTS:
        make_series(folder / f"c{count}", count, 32)
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "c5" / "phantom" / "picture.png")
    (folder / "c6" / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "readme.txt").write_text("text")
    return folder


@pytest.fixture(scope="session")
def whole(archive, tmp_path_factory):
    """What a run leaves that nothing disturbs."""
    work = index(archive, tmp_path_factory.mktemp("whole"))
    assert score(work) == 3  # one file cannot be read
    return Whole(archive, work, merged(work))
