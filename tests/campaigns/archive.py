"""Score a made archive whole and with workers and runs killed at random, and compare; measure what it costs.

    python tests/campaigns/archive.py --series 400 --slices 50 --workers 4 --kills 10 --executors processes ray

Writes an archive of MR series (64 x 64), indexes it, and then

* scores part of it by ``python -m invad_med score`` and the same part by ``archive score`` with one worker, in turn,
  for core-seconds a slice of each,
* scores it undisturbed with one and with two workers, for slices a second; the last is the reference,
* scores it while something is killed with -9 at moments drawn at random (a worker, or the run with what it started,
  which is then started again) so many times, by each executor.

Every merged table must have each slice of the files once and be the reference, every number of it. Prints what was
measured, and as JSON in the end. Linux alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
from pydicom.uid import generate_uid

from invad_med.bench.made import FOLDER, make_series

ARCHIVE = [sys.executable, "-m", "invad_med", "archive"]
NEVER_MIND = ["--gate", "false"]  # so small images are unlike those of any model


def make_archive(folder: Path, series: int, slices: int) -> None:
    """Write series that differ by noise, each in a folder of its own and of a study of its own."""
    template = make_series(folder / "template", slices, 64) / FOLDER
    datasets = [pydicom.dcmread(path) for path in sorted(template.iterdir())]
    pixels = np.stack([ds.pixel_array for ds in datasets])
    rng = np.random.default_rng(0)
    for k in range(series):
        target = folder / "archive" / FOLDER / f"s{k:05d}"
        target.mkdir(parents=True)
        noisy = np.clip(pixels + rng.normal(0, 20, pixels.shape), 0, 4000).astype("<u2")
        for i, ds in enumerate(datasets):
            ds.StudyInstanceUID, ds.SeriesInstanceUID = (generate_uid(entropy_srcs=[word, str(k)]) for word in "ab")
            uid = generate_uid(entropy_srcs=[f"c {k} {i}"])  # it joins words: 1, 11 and 11, 1 would be the same
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid
            ds.PixelData = noisy[i].tobytes()
            ds.save_as(target / f"{i:04d}.dcm", enforce_file_format=True)


def run(*words: str, timeout: float = 7200) -> tuple[float, float]:
    """Run a command to its end; return its seconds, and core-seconds of it and all that it started."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(list(words), capture_output=True, text=True, timeout=timeout)
    if done.returncode:
        raise AssertionError(f"status {done.returncode}: {' '.join(words)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cores = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - begun, cores


def descendants(number: int) -> list[int]:
    """Return the processes that a process started, and those that these started."""
    found: list[int] = []
    for task in Path(f"/proc/{number}/task").glob("*"):
        try:
            own = [int(word) for word in (task / "children").read_text().split()]
        except OSError:
            own = []
        found += [*own, *(n for child in own for n in descendants(child))]
    return found


def workers_of(number: int) -> list[int]:
    """Return those of its descendants that score: processes of ours, or of Ray with a task in hand."""
    result = []
    for child in descendants(number):
        try:
            command = Path(f"/proc/{child}/cmdline").read_bytes()
        except OSError:
            continue
        if b"spawn_main" in command or command.startswith(b"ray::"):
            result.append(child)
    return result


def memory_of(number: int) -> float:
    """Return the memory of a process in MB."""
    try:
        status = Path(f"/proc/{number}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024
    except (OSError, IndexError):
        return 0.0


def kill(number: int) -> None:
    """Kill a process, if it is there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(number, signal.SIGKILL)


def disturbed(work: Path, options: list[str], kills: int, gap: float, rng: random.Random) -> dict[str, float]:
    """Score while something is killed now and then; return how often what was, and the most memory of a worker.

    ``cluster`` counts the runs that ended because Ray's own node did, which a loaded machine may bring about.
    """
    count = {"worker": 0, "run": 0, "cluster": 0, "starts": 0}
    early, late = 0.0, 0.0
    while True:
        count["starts"] += 1
        with tempfile.TemporaryFile("w+") as said:
            process = subprocess.Popen([*ARCHIVE, "score", str(work), *options], stdout=said, stderr=said)
            due = time.monotonic() + rng.uniform(0.2, 2 * gap)
            begun = time.monotonic()
            while process.poll() is None:
                time.sleep(0.05)
                workers = workers_of(process.pid)
                largest = max(map(memory_of, workers), default=0.0)
                if time.monotonic() < begun + 60:
                    early = max(early, largest)
                late = max(late, largest)
                if count["worker"] + count["run"] >= kills or time.monotonic() < due or not workers:
                    continue
                due = time.monotonic() + rng.uniform(0.2, 2 * gap)
                if rng.random() < 0.4:
                    count["run"] += 1
                    started = descendants(process.pid)
                    kill(process.pid)
                    if rng.random() < 0.5:  # with all that it started, as the end of a machine would
                        for child in started:
                            kill(child)
                    break
                count["worker"] += 1
                kill(rng.choice(workers))
            status = process.wait()
            if status == 0:
                return {**count, "worker_mb_first_minute": early, "worker_mb": late}
            if status > 0:
                said.seek(0)
                words = said.read()
                if "workers in a row were lost" not in words or count["cluster"] == 5:
                    raise AssertionError(f"status {status}: {words[-3000:]}")
                count["cluster"] += 1  # Ray's own node went: the same command again, as a user would


def merged(work: Path) -> pd.DataFrame:
    """Merge and return the table of slices."""
    run(*ARCHIVE, "merge", str(work), "--out", str(work / "merged"))
    return pd.read_parquet(work / "merged" / "slices.parquet")


def fresh(base: Path, name: str) -> Path:
    """Return a working folder with the index alone."""
    work = base / name
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    for file in ("index.parquet", "secret"):
        shutil.copy(base / "whole" / file, work)
    return work


def main() -> int:
    """Make, score, kill, compare; return 1 if any table is not what it must be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=40)
    parser.add_argument("--slices", type=int, default=50, help="of a series (50)")
    parser.add_argument("--shard_slices", type=int, default=500, help="(500)")
    parser.add_argument("--workers", type=int, default=4, help="of the disturbed runs (4)")
    parser.add_argument("--kills", type=int, default=10, help="(10)")
    parser.add_argument("--gap", type=float, default=8.0, help="mean seconds between two kills (8)")
    parser.add_argument("--executors", nargs="+", choices=("processes", "ray"), default=["processes", "ray"])
    parser.add_argument("--part", type=int, default=20, help="series whose cost is compared with score (20)")
    parser.add_argument("--rounds", type=int, default=2, help="of that comparison (2)")
    parser.add_argument("--alone", type=int, nargs="+", default=[1, 2], help="workers of undisturbed runs (1 2)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder to work in, kept")
    given = parser.parse_args()
    base = given.keep or Path(tempfile.mkdtemp(prefix="invad-archive-"))
    os.environ["OMP_NUM_THREADS"] = "1"
    found: dict[str, object] = {"slices": given.series * given.slices, "cores": len(os.sched_getaffinity(0))}
    if not (base / "archive").exists():
        make_archive(base, given.series, given.slices)

    part = base / "part"
    if not part.exists():
        for k in range(given.part):
            shutil.copytree(base / "archive" / FOLDER / f"s{k:05d}", part / FOLDER / f"s{k:05d}")
    costs: dict[str, list[float]] = {"score": [], "archive": []}
    for r in range(given.rounds):
        _, cores = run(*ARCHIVE[:-1], "score", str(part), "--output_dir", str(base / f"plain{r}"), *NEVER_MIND)
        costs["score"].append(cores)
        shutil.rmtree(base / f"cost{r}", ignore_errors=True)
        _, cores = run(*ARCHIVE, "index", str(part), "--out", str(base / f"cost{r}"))
        _, more = run(*ARCHIVE, "score", str(base / f"cost{r}"), "--workers", "1", *NEVER_MIND)
        costs["archive"].append(cores + more)
    count = given.part * given.slices
    found["core_ms_a_slice"] = {name: [round(1000 * c / count, 2) for c in values] for name, values in costs.items()}
    print(json.dumps(found["core_ms_a_slice"]), flush=True)

    if not (base / "whole" / "index.parquet").exists():
        words = ["--out", str(base / "whole"), "--shard_slices", str(given.shard_slices)]
        found["index_s"] = run(*ARCHIVE, "index", str(base / "archive"), *words)
    for workers in given.alone:
        work = base / "whole" if workers == given.alone[-1] else fresh(base, f"w{workers}")
        seconds, cores = run(*ARCHIVE, "score", str(work), "--workers", str(workers), *NEVER_MIND)
        found[f"workers_{workers}"] = {"seconds": seconds, "core_s": cores, "slices_s": count_of(work) / seconds}
        print(workers, json.dumps(found[f"workers_{workers}"]), flush=True)
    reference = merged(base / "whole")
    files = {str(pydicom.dcmread(p, stop_before_pixels=True).SOPInstanceUID) for p in base.glob("archive/**/*.dcm")}
    wrong = int({key.partition("#")[0] for key in reference.key} != files or len(reference) != len(files))
    wrong += sum(not reference.equals(merged(base / f"w{workers}")) for workers in given.alone[:-1])
    for number, executor in enumerate(given.executors):
        work, rng = fresh(base, executor), random.Random(given.seed + number)
        words = ["--executor", executor, "--workers", str(given.workers), *NEVER_MIND]
        begun = time.monotonic()
        killed = disturbed(work, words, given.kills, given.gap, rng)
        same = reference.equals(merged(work))
        wrong += not same
        found[executor] = {**killed, "seconds": time.monotonic() - begun, "same": same}
        print(executor, json.dumps(found[executor]), flush=True)
    print(json.dumps(found, indent=1))
    return int(wrong > 0)


def count_of(work: Path) -> int:
    """Return the number of slices in an index."""
    return len(pd.read_parquet(work / "index.parquet", columns=["slice"]))


if __name__ == "__main__":
    raise SystemExit(main())
