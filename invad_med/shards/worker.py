"""What every worker does, whatever started it: take a shard that nobody has, score it, commit it, and so on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from invad_med.detection.models import ModelFiles
from invad_med.files import append_whole, flush, remove_partials
from invad_med.shards.lease import Lease
from invad_med.shards.models import LoadedModels
from invad_med.shards.parquet import commit, to_table
from invad_med.shards.shard import Row, score_shard
from invad_med.shards.work import Settings, Work

MOST_OF_SOURCE, MOST_OF_SHARD = 3, 9  # processes that may end over it


@dataclass(frozen=True)
class Job:
    """What workers are started with.

    Args:
        folder: the working folder.
        shards: which may be taken, in this order.
        settings: of the folder.
        files: the checkpoints.
    """

    folder: Path
    shards: tuple[int, ...]
    settings: Settings
    files: ModelFiles


def work(job: Job) -> None:
    """Score shards until none is left that nobody else has.

    Args:
        job: which shards.

    Raises:
        OSError: the folder cannot be written to, or what was indexed is not there.
        OtherSettings, FileNotFoundError, ValueError, RuntimeError: as `LoadedModels`.
    """
    place, models = Work(job.folder), LoadedModels(job.settings, job.files)
    while sum(_score(place, models, shard) for shard in in_order(place, place.undone(job.shards))):
        pass  # what others gave free meanwhile


def _score(place: Work, models: LoadedModels, shard: int) -> bool:
    """Score and commit a shard; return False if it is done, or another has it."""
    lease = None if place.scores(shard).exists() else Lease.take(place.lease(shard))
    if lease is None:
        return False
    if place.scores(shard).exists():  # since then
        lease.put_back()
        return False
    aside = _set_aside(place, shard, lease)
    with lease:
        place.require_folders()
        rows = score_shard(
            models,
            place.index.entries(shard),
            place.results(shard),
            aside,
            lambda source: lease.note(source=source),
            lambda slices: lease.note(slices=slices),
            place.index.secret if models.settings.hash_keys else None,
            careful=bool(ended_over(place, shard)),
        )
        place.require_folders()  # a drive that went away leaves rows that say nothing
        commit(to_table(Row, rows), place.scores(shard))
        for folder in {path.parent for path in place.results(shard).rglob("*.partial")}:
            remove_partials(folder)
    return True


def in_order(place: Work, shards: Sequence[int]) -> list[int]:
    """Return shards in the order in which they are taken: those that processes ended over come last."""
    return sorted(shards, key=lambda shard: place.ended(shard).exists())


def free(place: Work, shards: Sequence[int]) -> bool:
    """Return whether a worker could take one of some shards that are not scored."""
    for shard in shards:
        if lease := Lease.take(place.lease(shard)):
            lease.put_back()
            return True
    return False


def ended_over(place: Work, shard: int) -> list[int]:
    """Return which source each process had in hand that ended over a shard, -1 for none."""
    try:
        return [int(word) for word in place.ended(shard).read_text().split()]
    except FileNotFoundError:
        return []


def _set_aside(place: Work, shard: int, lease: Lease) -> set[int]:
    """Note it if a process ended over a shard, and return the sources that are not to be touched any more."""
    if lease.left is not None:
        with place.ended(shard).open("a+b", buffering=0) as file:
            append_whole(file, f"{lease.left.source}\n".encode())
        flush(place.ended(shard))
    ended = Counter(ended_over(place, shard))
    if ended.total() >= MOST_OF_SHARD:
        return {entry.source for entry in place.index.entries(shard)}
    return {source for source, count in ended.items() if count >= MOST_OF_SOURCE and source >= 0}
