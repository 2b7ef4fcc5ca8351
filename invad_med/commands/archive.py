"""Score an archive of any size: up to millions of slices, in parts, by many workers, in as many runs as it takes.

  index DIR... --out WORK   read all headers, divide whole series into shards (writes WORK/index.parquet)
  score WORK                score the shards that are not scored; run it again after anything that cut it
  status WORK               how far it is, how long the rest takes, what could not be scored
  merge WORK --out DIR      one table of all slices (slices.parquet, slices.csv) and a worklist of the studies

A shard counts as scored when its file lies in WORK/scores, so nothing is lost or doubled, whatever is killed. Scores
are those of python -m invad_med score. Several runs, on several machines, may work at one WORK. More: docs/archive.md.
Each step has its own help: python -m invad_med archive score --help
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from invad_med import __version__
from invad_med.bundle import root
from invad_med.commands.arguments import count
from invad_med.commands.score import CONFIG, add_keys, keys_given
from invad_med.detection import model_files
from invad_med.detection.serve import usual_device
from invad_med.inference.results import INCOMPLETE
from invad_med.options import OptionError, plain_keys, refuse_secrets

EXAMPLES = """\
  python -m invad_med archive index /data/pacs --out work
  python -m invad_med archive score work --workers 8
  python -m invad_med archive score work --shard $SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT
  python -m invad_med archive score work --executor ray
  python -m invad_med archive status work
  python -m invad_med archive merge work --out results --viewer_url 'https://HOST/viewer?StudyInstanceUIDs={study}'
"""

_KEYS = ("ckpt_path", "modality", "false_positive_rate", "gate", "batch_size", "device", "engine")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take one of the four steps and what it needs."""
    steps = parser.add_subparsers(dest="step", required=True, metavar="STEP", help="index, score, status or merge")
    index = _step(steps, "index", "Read all headers below folders, and divide whole series into shards.", _index)
    index.add_argument("folders", metavar="DIR", nargs="+", type=Path, help="folder, searched below, or one file")
    index.add_argument("--out", metavar="WORK", type=Path, required=True, help="working folder, made if need be")
    index.add_argument(
        "--shard_slices", type=count, default=2000, metavar="N", help="slices of a shard, about (%(default)s)"
    )

    score = _step(steps, "score", "Score the shards of WORK that are not scored.", _score)
    score.add_argument("work", metavar="WORK", type=Path, help="working folder that index made")
    score.add_argument("--workers", type=count, metavar="N", help="processes at once (one for each core)")
    score.add_argument(
        "--shard", type=_part, metavar="K/N", help="take every N-th shard alone, from the K-th, K from 1 to N: for "
        "arrays of jobs; under torchrun it is RANK + 1 of WORLD_SIZE"
    )  # fmt: skip
    score.add_argument(
        "--executor", choices=("processes", "ray"), default="processes", help="what runs the workers (%(default)s)"
    )
    score.add_argument("--no_maps", action="store_true", help="write no anomaly maps, only the rows")
    score.add_argument("--hash_keys", action="store_true", help="digests in place of SOP Instance UIDs in the rows")
    score.add_argument(
        "--retry", action="store_true", help="first take back shards with slices that could not be read or scored"
    )
    add_keys(score, _KEYS)

    status = _step(steps, "status", "Say how far WORK is scored.", _status)
    status.add_argument("work", metavar="WORK", type=Path, help="working folder")

    merge = _step(steps, "merge", "Write one table of all slices of WORK, and the worklist of its studies.", _merge)
    merge.add_argument("work", metavar="WORK", type=Path, help="working folder, all of it scored")
    merge.add_argument("--out", metavar="DIR", type=Path, required=True, help="for the table and the worklist")
    merge.add_argument(
        "--viewer_url", metavar="URL", help="links into a viewer: its address with {study} in place of the Study "
        "Instance UID, {series} of the series; the UIDs then stand in the worklist"
    )  # fmt: skip
    merge.add_argument("--top", type=count, default=500, metavar="N", help="studies on the page (%(default)s)")
    merge.add_argument("--hash_keys", action="store_true", help="digests in place of SOP Instance UIDs in the table")
    merge.add_argument("--partial", action="store_true", help="take what is scored so far")


def run(options: argparse.Namespace) -> int:
    """Do the step; return 0, 3 if anything could not be read or scored, 2 if the step could not be done."""
    logging.basicConfig(
        level=os.environ.get("LOGLEVEL", "INFO"), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        status: int = options.do(options)
    except (ValueError, RuntimeError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return status


def _step(steps: Any, name: str, text: str, do: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = steps.add_parser(name, help=text, description=text, allow_abbrev=False)
    parser.set_defaults(do=do)
    return parser


def _part(word: str) -> tuple[int, int]:
    first, _, count = word.partition("/")
    if not (first.isdecimal() and count.isdecimal() and 1 <= int(first) <= int(count)):
        raise argparse.ArgumentTypeError(f"{word!r} is no part such as 3/10, which is the third of ten")
    return int(first), int(count)


def _index(options: argparse.Namespace) -> int:
    from invad_med.shards.index import write_index

    with tqdm(desc="index", unit="slice") as bar:
        index = write_index(options.folders, options.out, options.shard_slices, bar.update)
    slices = sum(map(index.slices, range(index.shards)))
    besides = f"; passed over: {index.passed_over}" if index.passed_over else ""
    copies = f"; {index.copies} slices have the SOP Instance UID and frame of another" if index.copies else ""
    print(f"{slices} slices and unreadable files in {index.shards} shards{copies}{besides}.")
    print(f"The index in {options.out} holds paths and UIDs: keep it as you keep the images.")
    return 0


def _score(options: argparse.Namespace) -> int:
    from invad_med.shards.executors import Process, Worker, look_after
    from invad_med.shards.models import model_digests
    from invad_med.shards.status import WRONG, described, state_of
    from invad_med.shards.work import Settings, Work
    from invad_med.shards.worker import Job

    given = {**plain_keys(CONFIG), **keys_given(options)}
    refuse_secrets(keys_given(options))
    place = Work(options.work)
    place.require_folders()
    models_dir = f"{root()}/models"
    files = model_files(given["ckpt_path"] or f"{models_dir}/model.pt", models_dir, given["modality"])
    settings = Settings(
        version=__version__,
        models=model_digests(files),
        default=str(files.default),
        modality=given["modality"],
        false_positive_rate=given["false_positive_rate"],
        gate=given["gate"],
        batch_size=given["batch_size"],
        engine=given["engine"],
        device=str(given["device"] or usual_device()),
        maps=not options.no_maps,
        hash_keys=options.hash_keys,
    )
    place.agree(settings)
    part, parts = options.shard or _of_torchrun() or (1, 1)
    mine = range(part - 1, place.index.shards, parts)
    if options.retry:
        for shard in place.committed(mine):
            if any(place.statuses(shard).get(word) for word in WRONG):
                place.again(shard)
    job = Job(options.work, tuple(place.undone(mine)), settings, files)
    workers = options.workers or (1 if "WORLD_SIZE" in os.environ else _cores())
    threads = max(1, _cores() // workers)
    with _terminable(), tqdm(desc="scoring", unit="slice", total=sum(map(place.index.slices, job.shards))) as bar:

        def said(slices: int) -> None:
            bar.update(slices - bar.n)

        if options.executor == "ray":
            from invad_med.shards.on_ray import Task, cluster

            def on_ray(job: Job) -> Worker:
                return Task(job, threads)

            with cluster(workers):
                look_after(on_ray, job, workers, said)
        else:

            def here(job: Job) -> Worker:
                return Process(job, threads)

            look_after(here, job, workers, said)
    state = state_of(place)
    print(f"{described(state)}\nRows in {options.work.resolve()}/scores. Research use only.")
    return INCOMPLETE if state.wrong else 0


@contextmanager
def _terminable() -> Iterator[None]:
    """End by an exception at SIGTERM, so that workers are ended too."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _of_torchrun() -> tuple[int, int] | None:
    try:
        return int(os.environ["RANK"]) + 1, int(os.environ["WORLD_SIZE"])
    except KeyError:
        return None
    except ValueError:
        raise OptionError("RANK and WORLD_SIZE are set, but are no numbers: unset them, or give --shard K/N") from None


def _status(options: argparse.Namespace) -> int:
    from invad_med.shards.status import described, state_of
    from invad_med.shards.work import Work

    print(described(state_of(Work(options.work))))
    return 0


def _merge(options: argparse.Namespace) -> int:
    from invad_med.shards.merge import merge
    from invad_med.shards.work import Work
    from invad_med.shards.worklist import require_link

    if options.viewer_url is not None:
        require_link(options.viewer_url)
    place = Work(options.work)
    with tqdm(desc="merge", unit="shard", total=place.index.shards) as bar:
        merged = merge(
            place, options.out, options.viewer_url, options.top, options.hash_keys, options.partial, bar.update
        )
    names = ", ".join(path.name for path in merged.files)
    if lacking := str(merged.lacking):
        print(f"{lacking}: see python -m invad_med archive status {options.work}, and score --retry", file=sys.stderr)
    print(f"{merged.slices} slices, {merged.studies} studies. In {options.out.resolve()}: {names}. Research use only.")
    return INCOMPLETE if merged.lacking.shards else 0
