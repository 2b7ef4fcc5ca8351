"""Kill runs of the main command at random moments, run them again, and compare with a run that was not killed.

    python tests/campaigns/kills.py --kills 200 --seed 0 --processes 2

Every trial is one output folder: the command is started, killed by SIGTERM or SIGKILL at a moment drawn at random (one
in four anywhere from its start, the others once results are being written), started again, and so on until it ends by
itself. Then every file must be what the run that was not killed left: tables, pictures and maps byte by byte, DICOM
objects but for UIDs, dates and times; and no other file may be there.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
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


def command(folder: Path, output: Path) -> list[str]:
    """Return the main command."""
    run = [sys.executable, "-m", "monai.bundle", "run", "--config_file", f"{root()}/configs/inference.json"]
    return [*run, "--dataset_dir", str(folder), "--output_dir", str(output), "--device", "cpu"]


def run(folder: Path, output: Path, number: int = 0, early: float = 0.0, late: float | None = None) -> int | None:
    """Run the command; kill it after ``early`` seconds, or ``late`` seconds after results begin; return the status.

    Returns:
        None if it was killed.
    """
    process = subprocess.Popen(command(folder, output), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    begun = time.monotonic()
    if number:
        while process.poll() is None:
            since = time.monotonic() - begun
            if late is not None:
                if not list(output.glob("scores.csv")):
                    time.sleep(0.005)
                    continue
                early, late = since + late, None
            if since >= early:
                process.send_signal(number)
                break
            time.sleep(0.002)
    words, _ = process.communicate()
    if process.returncode == -number and number:
        return None
    if process.returncode != 3:
        raise AssertionError(f"status {process.returncode} instead of 3\n{words[-3000:]}")
    return process.returncode


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


def trial(seed: int, base: Path, duration: float, scoring: float) -> Counter[str]:
    """Kill one run again and again until it ends, compare, and return how often by which signal."""
    rng, output, kills = random.Random(seed), base / f"trial-{seed}", Counter[str]()
    while True:
        number = rng.choice([signal.SIGTERM, signal.SIGKILL])
        early, late = rng.uniform(0, duration), None if rng.random() < 0.25 else rng.uniform(0, scoring)
        if kills.total() >= 6:  # a run that is always killed before it gets on would never end
            number = 0
        if run(base / "in", output, number, early, late) is not None:
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
    parser.add_argument("--processes", type=int, default=1, help="trials at a time (default: 1)")
    given = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="invad-kills-"))
    make_input(base / "in")
    begun = time.monotonic()
    run(base / "in", base / "whole")
    duration = time.monotonic() - begun
    kills, failed, seed = Counter[str](), 0, given.seed
    with tqdm(total=given.kills, desc="killed", unit="run") as bar, ThreadPoolExecutor(given.processes) as pool:
        while kills.total() < given.kills:
            batch = [pool.submit(trial, seed + i, base, duration, duration / 3) for i in range(given.processes)]
            seed += given.processes
            for job in batch:
                try:
                    kills += job.result()
                except AssertionError as error:
                    failed += 1
                    tqdm.write(str(error))
            bar.update(kills.total() - bar.n)
    print(
        f"{kills.total()} runs killed ({dict(kills)}), {seed - given.seed} trials from seed {given.seed}, "
        f"{failed} wrong, {time.monotonic() - begun:.0f} s"
    )
    return bool(failed)


if __name__ == "__main__":
    raise SystemExit(main())
