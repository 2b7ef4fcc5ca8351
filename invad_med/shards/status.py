"""How far an archive is scored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from invad_med.data.prediction import Status
from invad_med.shards.lease import holder_of
from invad_med.shards.parquet import pq
from invad_med.shards.shard import FAILED, SET_ASIDE
from invad_med.shards.work import Work
from invad_med.shards.worker import ended_over

WRONG = (str(Status.UNREADABLE), FAILED, SET_ASIDE)  # words of rows that a later run may change
_WINDOW = 3600.0  # seconds before the last commit that the rate is of


@dataclass(frozen=True)
class State:
    """How far an archive is scored.

    Args:
        shards, slices: of the index; a file that cannot be read counts as a slice.
        done_shards, done_slices: that are scored.
        in_hand: shards that are being scored, by what workers say.
        statuses: how many of the slices that are done, by the word of the table.
        aside: of each source that is set aside the shard and its name.
        lost: how many workers ended over shards.
        rate: slices a second of the last hour in which any were done; None while fewer than two shards are.
        copies: how many slices have the key of another.
    """

    shards: int
    slices: int
    done_shards: int
    done_slices: int
    in_hand: int
    statuses: Mapping[str, int]
    aside: tuple[tuple[int, str], ...]
    lost: int
    rate: float | None
    copies: int

    @property
    def remaining(self) -> float | None:
        """Seconds that the rest takes at that rate."""
        return (self.slices - self.done_slices) / self.rate if self.rate else None

    @property
    def wrong(self) -> int:
        """Number of slices and files that could not be read or scored."""
        return sum(self.statuses.get(word, 0) for word in WRONG)


def state_of(place: Work) -> State:
    """Return how far an archive is scored.

    Raises:
        ValueError, OSError: rows cannot be read.
    """
    every = range(place.index.shards)
    done = place.committed()
    statuses, aside = Counter[str](), list[tuple[int, str]]()
    for shard in done:
        counts = place.statuses(shard)
        statuses += counts
        if counts[SET_ASIDE]:
            rows = pq.read_table(place.scores(shard), columns=["status", "input"])
            pairs = zip(rows["input"].to_pylist(), rows["status"].to_pylist(), strict=True)
            aside += [(shard, name) for name in dict.fromkeys(name for name, word in pairs if word == SET_ASIDE)]
    return State(
        shards=len(every),
        slices=sum(map(place.index.slices, every)),
        done_shards=len(done),
        done_slices=sum(map(place.index.slices, done)),
        in_hand=sum(holder_of(place.lease(shard)) is not None for shard in place.undone(every)),
        statuses=statuses,
        aside=tuple(aside),
        lost=sum(len(ended_over(place, shard)) for shard in every),
        rate=_rate(place, done),
        copies=place.index.copies,
    )


def described(state: State) -> str:
    """Return a state in a few lines."""
    lines = [
        f"{state.done_shards} of {state.shards} shards, {state.done_slices} of {state.slices} slices done; "
        f"{state.in_hand} shards in hand"
    ]
    if state.statuses:
        lines.append(", ".join(f"{count} {word}" for word, count in sorted(state.statuses.items())))
    if state.aside:
        names = "; ".join(f"{name} (shard {shard})" for shard, name in state.aside[:20])
        rest = f" and {len(state.aside) - 20} more" if len(state.aside) > 20 else ""
        lines.append(f"set aside, as workers ended over them: {names}{rest}")
    if state.lost:
        lines.append(f"{state.lost} times a worker was lost over a shard")
    if state.copies:
        lines.append(f"{state.copies} slices have the SOP Instance UID and frame of another: copies, each with its row")
    if state.rate and state.done_shards < state.shards:
        lines.append(f"{state.rate:.1f} slices a second lately; the rest takes {_duration(state.remaining or 0.0)}")
    return "\n".join(lines)


def _rate(place: Work, done: list[int]) -> float | None:
    times = sorted((place.scores(shard).stat().st_mtime, shard) for shard in done)
    if len(times) < 2:
        return None
    recent = [(time, shard) for time, shard in times if time >= times[-1][0] - _WINDOW] or times[-1:]
    spent = recent[-1][0] - recent[0][0]
    return sum(place.index.slices(shard) for _, shard in recent[1:]) / spent if spent > 0 else None


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
