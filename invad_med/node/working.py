"""What a node does with studies: wait until they are quiet, score them one after the other, send what was made.

A study is complete when nothing of it has arrived for so many seconds, counted from its last instance or from when the
process began to listen, whichever is later: after a restart half a study would look quiet at once. What is done then
can be cut anywhere and goes on where it was: see the markers of `invad_med.node.store`.
"""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from invad_med.node.scoring import NotWritten
from invad_med.node.sending import Declined, Destination, Unreachable
from invad_med.node.store import State, Store, Version
from invad_med.readers.dicom.headers import header_uid

audit = logging.getLogger("invad_med.node")

_CRASHES = 5  # times that the process may end while a study is scored before it has to wait
_FAULTS = 3  # times that results may not be written for another reason than a full disk
_LONGEST = 300.0  # seconds between two attempts
_TICK = 0.2  # seconds
_HOUR, _DAY = 3600.0, 86400.0


def pause(attempt: int) -> float:
    """Return how many seconds to wait after so many failed attempts, from 1: 1, 2, 4 and so on, 300 at most."""
    return min(_LONGEST, 2.0 ** min(attempt - 1, 20))


def rest_of(version: Version) -> float:
    """Return how many seconds a version must not be scored that may have ended the process: up to a day from the last.

    It is never given up: what ended the process may have been somebody who killed it.
    """
    over = version.begun - _CRASHES
    if over < 0:
        return 0.0
    passed = max(0.0, time.time() - version.begun_at)  # a clock that was set back does not make it longer
    return min(_DAY, 60.0 * 2 ** min(over, 20)) - passed


class Worker:
    """Scores studies once they are complete; `arrived` may be called by any thread, all else by one.

    Args:
        store: where they lie.
        score: scores a version, and returns what came of it; see `invad_med.node.scoring.Resident`.
        scored: told of every version that has results to be sent.
        quiet: seconds without an instance after which a study is complete.
        keep: seconds after which a study that was sent is removed; None for never.
    """

    def __init__(
        self,
        store: Store,
        score: Callable[[Version], str],
        scored: Callable[[Version], object],
        quiet: float,
        keep: float | None = None,
    ) -> None:
        self.store, self.quiet, self.keep = store, quiet, keep
        self._score, self._scored = score, scored
        self._lock = threading.Lock()
        self._due: dict[str, float] = {}
        self._attempts = Counter[str]()  # that failed, by study
        for study in store.studies():
            versions = store.versions(study)
            state = versions[-1].state if versions else None
            if state is State.WAITING:
                self._due[study] = 0.0
            elif store.is_new(study):
                self.arrived(study)
            for version in versions:
                if version.state is State.SCORED:
                    scored(version)

    def arrived(self, study: str) -> None:
        """Take note that something of a study has arrived."""
        with self._lock:
            self._due[study] = time.monotonic() + self.quiet

    def run(self, stop: threading.Event) -> None:
        """Score what is complete, until told to stop; a study in hand is done first."""
        tidied = -_HOUR
        while not stop.is_set():
            if self.step():
                continue
            if time.monotonic() - tidied > _HOUR:
                self.tidy()
                tidied = time.monotonic()
            stop.wait(_TICK)

    def tidy(self) -> None:
        """Remove studies that were sent long enough ago."""
        if self.keep is None:
            return
        removed = 0
        for study in list(self.store.studies()):
            try:
                removed += self.store.forget(study, time.time() - self.keep)
            except OSError as error:
                audit.warning("study %s not removed: %s", study, error.strerror)
        if removed:
            audit.info("%d studies removed, sent more than %g days ago", removed, self.keep / _DAY)

    def step(self) -> bool:
        """Do what is due of one study; return whether anything was.

        One that has ended the process before comes after the others.
        """
        now = time.monotonic()
        with self._lock:
            due = [study for study, at in self._due.items() if at <= now]
        if not due:
            return False
        study = min(due, key=lambda name: (self._crashes(name), self._due[name]))
        with self._lock:
            if self._due[study] > now:  # something has arrived
                return True
            del self._due[study]
        try:
            self._advance(study)
        except OSError as error:
            self._later(study, error.strerror or "input or output error")
        return True

    def _crashes(self, study: str) -> int:
        versions = self.store.versions(study)
        return versions[-1].begun if versions else 0

    def _advance(self, study: str) -> None:
        """Score the newest version of a study if it is not, else begin one if there is anything new."""
        versions = self.store.versions(study)
        if versions and versions[-1].state is State.WAITING:
            self._finish(versions[-1])
        elif self.store.is_new(study):
            version = self.store.snapshot(study)
            audit.info("study %s complete: version %d, of %d images", study, version.number, _count(version))
            self._finish(version)
        with self._lock:
            if study not in self._due and study not in self._attempts and self.store.is_new(study):
                self._due[study] = time.monotonic() + self.quiet

    def _finish(self, version: Version) -> None:
        """Score a version, and note how that went.

        Raises:
            OSError: that could not be noted.
        """
        if (rest := rest_of(version)) > 0:
            with self._lock:
                self._due[version.study] = time.monotonic() + rest
            said = f"the process has ended {version.begun} times while it was scored; again in {rest:.0f} s"
            self.store.trouble(version, said)
            audit.warning("study %s version %d: %s", version.study, version.number, said)
            return
        with self.store.begun(version):
            self._try(version)

    def _try(self, version: Version) -> None:
        try:
            said = self._score(version)
        except NotWritten as error:
            if error.full or self._attempts[version.study] + 1 < _FAULTS:
                self._later(version.study, str(error), version)
            else:
                self._fail(version, str(error))
            return
        except ValueError as error:
            self._fail(version, str(error))
            return
        except OSError as error:
            self._later(version.study, error.strerror or "input or output error", version)
            return
        except Exception as error:  # libraries quote values, which can be the patient's name
            audit.debug("scoring", exc_info=True)
            self._fail(version, f"scoring failed ({type(error).__name__})")
            return
        self.store.end(version, State.SCORED, said)
        self._attempts.pop(version.study, None)
        audit.info("study %s version %d scored: %s", version.study, version.number, said)
        self._scored(version)

    def _fail(self, version: Version, reason: str) -> None:
        self.store.end(version, State.FAILED, reason)
        self._attempts.pop(version.study, None)
        audit.warning("study %s version %d set aside: %s", version.study, version.number, reason)

    def _later(self, study: str, reason: str, version: Version | None = None) -> None:
        """Try a study again, after a while."""
        self._attempts[study] += 1
        wait = pause(self._attempts[study])
        with self._lock:
            self._due[study] = max(self._due.get(study, 0.0), time.monotonic() + wait)
        if version is not None:
            self.store.trouble(version, reason)
        audit.warning("study %s again in %.0f s: %s", study, wait, reason)


class Sender:
    """Sends results in a thread of its own, again and again until they are stored.

    While nobody answers all wait; what is declined holds nothing else up.

    Args:
        store: where they lie.
        destination: where they go.
    """

    def __init__(self, store: Store, destination: Destination) -> None:
        self.store, self.destination = store, destination
        self._lock = threading.Lock()
        self._queue: list[tuple[float, str, int, Version]] = []
        self._attempts = Counter[Path]()
        self._silent = 0  # attempts at which nobody answered, one after the other
        self._resume = 0.0
        self._thread: threading.Thread | None = None

    def add(self, version: Version) -> None:
        """Take a version that is to be sent."""
        self._put(version, time.monotonic())

    def start(self, stop: threading.Event) -> None:
        """Begin to send, until told to stop."""

        def work() -> None:
            while not stop.is_set():
                if not self.step():
                    stop.wait(_TICK)

        self._thread = threading.Thread(target=work, name="sender", daemon=True)
        self._thread.start()

    def join(self, seconds: float) -> None:
        """Wait for what is being sent; what is cut is sent again by the next process."""
        if self._thread is not None:
            self._thread.join(seconds)

    def step(self) -> bool:
        """Send what is due of one version; return whether anything was."""
        now = time.monotonic()
        with self._lock:
            if now < self._resume or not self._queue or self._queue[0][0] > now:
                return False
            due, study, number, version = heapq.heappop(self._queue)
            before = [other[0] for other in self._queue if other[1] == study and other[2] < number]
            if before:  # the older one first, which this one says that it replaces
                heapq.heappush(self._queue, (max(before) + _TICK, study, number, version))
                return False
        try:
            said = self._send(version)
            self.store.end(version, State.SENT, said)
        except Unreachable as error:
            self._silent += 1
            self._resume = now + pause(self._silent)
            self._put(version, due)
            self.store.trouble(version, f"{self.destination.name}: {error}")
            audit.warning("%s: %s; again in %.0f s", self.destination.name, error, pause(self._silent))
            return True
        except Declined as error:
            self._again(version, f"{self.destination.name}: {error}")
        except OSError as error:
            self._again(version, error.strerror or "input or output error")
        except Exception as error:  # libraries quote values, which can be the patient's name
            audit.debug("sending", exc_info=True)
            self._again(version, f"not sent ({type(error).__name__})")
        else:
            self._attempts.pop(version.folder, None)
            audit.info("study %s version %d sent: %s", version.study, version.number, said)
        self._silent = 0
        return True

    def _again(self, version: Version, reason: str) -> None:
        self._attempts[version.folder] += 1
        wait = pause(self._attempts[version.folder])
        self._put(version, time.monotonic() + wait)
        self.store.trouble(version, reason)
        audit.warning("study %s version %d again in %.0f s: %s", version.study, version.number, wait, reason)

    def _put(self, version: Version, due: float) -> None:
        with self._lock:
            heapq.heappush(self._queue, (due, version.study, version.number, version))

    def _send(self, version: Version) -> str:
        """Send the objects of a version that an earlier one did not send; return what was sent.

        Raises:
            Unreachable, Declined: see `invad_med.node.sending.Destination`; an object is of another study.
        """
        objects, scored = version.objects, version.mark(State.SCORED)
        made = scored.objects if scored else None
        gone = set(made or ()) - {path.relative_to(version.results).as_posix() for path in objects}
        if gone:
            raise Declined(f"{len(gone)} of its results are gone from the folder: nothing is sent; restore them")
        if {self.store.name_of(header_uid(path, "StudyInstanceUID")) for path in objects} != {version.study}:
            raise Declined("an object is of another study: nothing is sent")
        sent = {
            header_uid(path, "SOPInstanceUID")
            for earlier in self.store.versions(version.study)[: version.number - 1]
            if earlier.state is State.SENT and self._went_here(earlier)
            for path in earlier.objects
        }
        new: Sequence[Path] = [path for path in objects if header_uid(path, "SOPInstanceUID") not in sent]
        if new:
            self.destination.send(new)
        return f"{len(new)} objects to {self.destination.name}"

    def _went_here(self, version: Version) -> bool:
        mark = version.mark(State.SENT)
        return mark is not None and mark.said.endswith(f" objects to {self.destination.name}")


def _count(version: Version) -> int:
    return sum(1 for _ in version.images.iterdir())
