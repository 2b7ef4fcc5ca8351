"""What lies where in a node's folder, for a reader: counts, and why anything is not further."""

from __future__ import annotations

from collections import Counter
from datetime import datetime

from invad_med.node.store import State, Store


def describe(store: Store) -> str:
    """Return how many studies are how far, and why those that are not further are not; names are digests.

    Only reads, also while another process listens.
    """
    counts, images = Counter[str](), 0
    failed: list[str] = []
    late: list[str] = []
    for study in sorted(store.studies()):
        versions = store.versions(study)
        images += store.received(study)
        counts["receiving"] += store.is_new(study)
        for version in versions:
            state = version.state
            counts[str(state)] += 1
            name = f"  {study} version {version.number}, "
            if state is State.FAILED and version == versions[-1] and (mark := version.mark(str(state))):
                failed.append(f"{name}{_time(mark.at)}: {mark.said}")
            elif state is not State.SENT and (mark := version.mark("trouble")):
                late.append(f"{name}{_time(mark.at)}: {mark.said}")
        counts["studies"] += 1
    lines = [
        f"received  {images} images of {counts['studies']} studies; {counts['receiving']} of them hold images that no "
        "result is made of yet",
        f"waiting   {counts[State.WAITING]} to be scored",
        f"scored    {counts[State.SCORED]} to be sent",
        f"sent      {counts[State.SENT]}",
        f"failed    {counts[State.FAILED]}",
    ]
    if late:
        lines += ["", "not further yet, tried again:", *late]
    if failed:
        lines += ["", "set aside, until more of the study comes:", *failed]
    return "\n".join(lines)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).isoformat(" ", "seconds")
