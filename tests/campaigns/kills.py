"""Kill runs of the main command at random moments, run them again, and compare with a run that was not killed.

    python tests/campaigns/kills.py --kills 200 --seed 0

Every trial is one output folder: the command is started, killed by SIGTERM or SIGKILL at a moment drawn at random (one
in four anywhere from its start, the others once results are being written), started again, and so on until it ends by
itself. Then every file must be what the run that was not killed left: tables, pictures and maps byte by byte, DICOM
objects but for UIDs, dates and times; and no other file may be there.

The command runs in a process of its own each time, forked from one that has imported what it imports, so that the
moments lie in its work and not in the imports. POSIX systems alone.
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import runpy
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from tqdm import tqdm

from invad_med.bundle import root

RECORD = "progress.jsonl"
_PASSING = {"UI", "DA", "TM", "DT"}  # differ from run to run


def make_input(folder: Path) -> None:
    """Write pictures, a volume, a series and a file that cannot be read."""
    rng = np.random.default_rng(0)
    (folder / "phantom").mkdir(parents=True)
    for i in range(8):
        Image.fromarray(rng.integers(0, 256, (64, 64), dtype=np.uint8)).save(folder / "phantom" / f"{i}.png")
    volume = rng.integers(0, 900, (6, 48, 40), dtype=np.int16)
    nib.save(
        nib.Nifti1Image(volume.T.astype(np.float32), np.diag([2.0, 2.0, 3.0, 1.0])), folder / "phantom" / "v.nii.gz"
    )
    template = pydicom.dcmread(str(get_testdata_file("MR_small.dcm", download=False)))
    template.BodyPartExamined, template.SeriesInstanceUID = "BRAIN", generate_uid(entropy_srcs=["series"])
    (folder / "series").mkdir()
    for k, pixels in enumerate(volume):
        (template.Rows, template.Columns), template.PixelData = pixels.shape, pixels.tobytes()
        template.ImagePositionPatient, template.InstanceNumber = [0, 0, 3 * k], k + 1
        template.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        template.SOPInstanceUID = template.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(k)])
        template.save_as(folder / "series" / f"{k}.dcm")
    (folder / "broken.png").write_bytes(b"")


def start(folder: Path, output: Path, words: Path) -> int:
    """Start the main command in a process of its own, all it says in a file; return the process."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        file = os.open(words, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        run = ["run", "--config_file", f"{root()}/configs/inference.json", "--device", "cpu"]
        sys.argv = ["monai.bundle", *run, "--dataset_dir", str(folder), "--output_dir", str(output)]
        runpy.run_module("monai.bundle", run_name="__main__")
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def run(base: Path, output: Path, number: int = 0, early: float = 0.0, late: float | None = None) -> bool:
    """Run the command; kill it after ``early`` seconds, or ``late`` seconds after results begin.

    Returns:
        whether it was killed.

    Raises:
        AssertionError: it ended otherwise than with status 3: one file cannot be read.
    """
    words = base / f"{output.name}.txt"
    process, begun = start(base / "in", output, words), time.monotonic()
    ended, status = 0, 0
    while not ended:
        since = time.monotonic() - begun
        if late is not None and list(output.glob("scores.csv")):
            early, late = since + late, None
        if number and late is None and since >= early:
            os.kill(process, number)
            _, status = os.waitpid(process, 0)
            break
        time.sleep(0.002)
        ended, status = os.waitpid(process, os.WNOHANG)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == number:
        return True
    if os.waitstatus_to_exitcode(status) != 3:
        raise AssertionError(f"status {os.waitstatus_to_exitcode(status)} instead of 3\n{words.read_text()[-3000:]}")
    return False


def content(path: Path) -> object:
    """Return what must be equal of a file."""
    if path.suffix != ".dcm":
        return path.read_bytes()
    ds = pydicom.dcmread(path)
    return [(str(e.tag), e.value) for e in _lasting(ds)]


def _lasting(ds: Dataset) -> list[pydicom.DataElement]:
    return [e for e in ds.iterall() if e.VR not in _PASSING and e.VR != "SQ"]


def differences(whole: Path, cut: Path) -> list[str]:
    """Return the names of files that differ, are missing or should not be there."""
    names = {p.relative_to(folder) for folder in (whole, cut) for p in folder.rglob("*") if p.is_file()}
    names = {name for name in names if name.name != RECORD}
    return sorted(
        str(name)
        for name in names
        if not (whole / name).is_file() or not (cut / name).is_file() or content(whole / name) != content(cut / name)
    )


def trial(seed: int, base: Path, duration: float) -> Counter[str]:
    """Kill one run again and again until it ends, compare, and return how often by which signal."""
    rng, output, kills = random.Random(seed), base / f"trial-{seed}", Counter[str]()
    while True:
        number = rng.choice([signal.SIGTERM, signal.SIGKILL])
        early, late = rng.uniform(0, duration), None if rng.random() < 0.25 else rng.uniform(0, duration / 2)
        if kills.total() >= 6:  # a run that is always killed before it gets on would never end
            number = 0
        if not run(base, output, number, early, late):
            break
        kills[signal.Signals(number).name] += 1
    wrong = differences(base / "whole", output)
    if wrong:
        raise AssertionError(f"trial {seed}, after {dict(kills)}: {', '.join(wrong)}; see {output}")
    shutil.rmtree(output)
    return kills


def main() -> int:
    """Run trials until so many runs were killed; return 1 if any ended with other results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="runs to be killed (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="of the first trial; each has the next (default: 0)")
    given = parser.parse_args()
    for module in ("monai.bundle", "monai.engines", "monai.data", "invad_med.inference.handler"):
        importlib.import_module(module)
    base = Path(tempfile.mkdtemp(prefix="invad-kills-"))
    make_input(base / "in")
    begun = time.monotonic()
    run(base, base / "whole")
    duration = time.monotonic() - begun
    kills, failed, seed = Counter[str](), 0, given.seed
    with tqdm(total=given.kills, desc="killed", unit="run") as bar:
        while kills.total() < given.kills:
            try:
                kills += trial(seed, base, duration)
            except AssertionError as error:
                failed += 1
                tqdm.write(str(error))
            seed += 1
            bar.update(kills.total() - bar.n)
    print(
        f"{kills.total()} runs killed ({dict(kills)}), {seed - given.seed} trials from seed {given.seed}, "
        f"{failed} wrong, {time.monotonic() - begun:.0f} s; a run that is not killed takes {duration:.1f} s"
    )
    return bool(failed)


if __name__ == "__main__":
    raise SystemExit(main())
