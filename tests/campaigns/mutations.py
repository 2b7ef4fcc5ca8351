"""Damage files by the thousand and run the command on them: none may crash it, hang it, get lost or harm another.

    python -m tests.campaigns.mutations --count 10000 --seed 1

Every batch is a folder tree of damaged files among good ones. A batch that was judged is not run again by the same
seed and size of batch if --keep names the same folder; a batch with faults stays there with its tree and output.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from tests.campaigns.batch import make_case, run_command, write_tree
from tests.campaigns.judge import good_rows, judge, rows_of, unforeseen
from tests.campaigns.quick import quick
from tests.campaigns.seeds import seeds

OPTIONS: tuple[tuple[str, ...], ...] = (  # reports of noise, all of which is abnormal, take most of a run
    ("--dicom_out", "overlay segmentation"),
    ("--dicom_out", "secondary_capture", "--deterministic_uids", "true", "--study_by", "folder"),
    ("--dicom_out", "parametric_map segmentation presentation_state", "--anonymize", "true"),
    (),
    ("--dicom_out", "overlay parametric_map"),
    ("--dicom_out", "none", "--study_by", "folder"),
    ("--dicom_out", "none"),
    ("--dicom_out", "none", "--study_by", "folder"),
)


def main() -> int:
    """Run the campaign and return 0 if no batch had a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="damaged files (default 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the campaign: the same seed, the same files")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--batch", type=int, default=400, help="damaged files a run (default 400)")
    parser.add_argument("--minutes", type=float, default=600, help="start no batch after that time")
    parser.add_argument("--limit", type=float, default=900, help="seconds that a run may take (default 900)")
    parser.add_argument("--memory", type=float, default=12, help="GiB of address space for a run (default 12)")
    parser.add_argument("--keep", type=Path, help="folder for records, and for the trees of batches with faults")
    parser.add_argument("--quick", action="store_true", help="leave the network out and run case by case, in process")
    given = parser.parse_args()
    keep = given.keep or Path(tempfile.mkdtemp(prefix="mutations-"))
    keep.mkdir(parents=True, exist_ok=True)
    kinds = seeds()
    if given.quick:
        numbers = range(given.first, given.first + given.count)
        faults = []
        for start in tqdm(range(0, given.count, 50), unit="batch", mininterval=5):
            faults += quick(kinds, given.seed, numbers[start : start + 50], keep)
        print("\n".join(faults), f"{len(faults)} fault(s) in {given.count} cases", sep="\n")
        return int(bool(faults))
    return _campaign(given, keep, kinds)


def _campaign(given: argparse.Namespace, keep: Path, kinds: list) -> int:
    began = time.monotonic()
    for options in [()]:
        with tempfile.TemporaryDirectory() as folder:
            write_tree(Path(folder, "in"), kinds)
            run = run_command(Path(folder, "in"), Path(folder, "out"), options, given.limit, given.memory)
            if run.status != 0:
                print(run.err[-3000:])
                return 2
            reference = good_rows(Path(folder, "out"))
    total: Counter[str] = Counter()
    odd: Counter[str] = Counter()
    faulty, number, batch = 0, given.first, 0
    with tqdm(total=given.count, unit="file", mininterval=5) as bar:
        while total["damaged files"] < given.count and (time.monotonic() - began) / 60 < given.minutes:
            cases, size = [], min(given.batch, given.count - total["damaged files"])
            while sum(case.changed for case in cases) < size:
                cases.append(make_case(kinds, given.seed, number))
                number += 1
            record = keep / f"seed{given.seed}-case{cases[0].number}-{size}.json"
            options = OPTIONS[batch % len(OPTIONS)]
            if record.exists():
                found = json.loads(record.read_text())
            else:
                found = _batch(given, keep / record.stem, kinds, cases, options, reference)
                record.write_text(json.dumps(found, indent=1))
            total.update(found["counts"])
            odd.update(found["odd"])
            for fault in found["faults"]:
                faulty += 1
                tqdm.write(f"{record.stem}: {fault}")
            batch += 1
            bar.update(sum(case.changed for case in cases))
    which = {"seed": given.seed, "cases": f"{given.first} to {number - 1}", "batches": batch}
    print(json.dumps(which | total, indent=1))
    print(f"{faulty} fault(s), {(time.monotonic() - began) / 60:.1f} minutes")
    for what, count in odd.most_common():
        print(f"{count:6d}  {what}")
    return int(faulty > 0)


def _batch(given: argparse.Namespace, folder: Path, kinds: list, cases: list, options: tuple, reference: list) -> dict:
    shutil.rmtree(folder, ignore_errors=True)
    tree, output = folder / "in", folder / "out"
    write_tree(tree, kinds, cases)
    run = run_command(tree, output, options, given.limit, given.memory)
    faults = judge(tree, output, run, cases, reference)
    (folder / "said.txt").write_text(run.out + run.err)
    ended = run.status in (0, 3)
    made = {"damaged files": sum(case.changed for case in cases), "inputs": len(cases), "seconds": round(run.seconds)}
    counts = Counter(made)
    counts.update(row["status"] for row in (rows_of(output) if ended else ()))
    odd = unforeseen(run, output) if ended else {}
    if not faults:
        shutil.rmtree(folder)
    return {"faults": faults, "counts": counts, "odd": odd, "peak GiB": run.peak}


if __name__ == "__main__":
    sys.exit(main())
