"""Where a node keeps everything: a queue of folders and marker files that survives the end of the process anywhere.

| below the folder | holds |
|---|---|
| ``secret`` | what names are mixed with, so that nobody can test a guess of a UID |
| ``lock`` | held by the process that listens |
| ``incoming`` | what is being written; removed at the start |
| ``studies/NAME/patient`` | a digest of whose study it is |
| ``studies/NAME/images`` | what was received, as sent, one file an instance |
| ``studies/NAME/versions/0001/images`` | those of them that a result was made of: links to the same files |
| ``studies/NAME/versions/0001/results`` | what ``score`` writes of them |
| ``.../0001/begun`` | a byte for every time that scoring was begun and not ended |
| ``.../0001/scored.json``, ``sent.json``, ``failed.json`` | how far it is; the last says why no further |
| ``.../0001/trouble.json`` | why it is not further yet |

A study's name is a digest of its Study Instance UID and the secret, an image's one of its SOP Instance UID: neither
names nor markers say who the patient is. What the files hold does.
"""

from __future__ import annotations

import contextlib
import filecmp
import hmac
import json
import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from invad_med.files import flush, held, partial_of, write_durably
from invad_med.node.instances import OTHER_PATIENT, Instance, NotTaken, same_image

_STRIPES = 64  # locks that studies share


class State(str, Enum):
    """How far a version of a study's results is."""

    WAITING = "waiting"
    SCORED = "scored"
    SENT = "sent"
    FAILED = "failed"

    __str__ = str.__str__


class Taken(str, Enum):
    """What became of an instance that was not refused."""

    STORED = "stored"
    HELD = "held already"
    CHANGED = "stored in place of another of the same UID"

    __str__ = str.__str__


@dataclass(frozen=True)
class Mark:
    """What a marker file states.

    Args:
        said: in words that name no patient.
        at: when, in seconds since 1970.
        objects: of a version that was scored, below its results.
    """

    said: str
    at: float
    objects: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Version:
    """One version of a study's results.

    Args:
        study: name of the study.
        number: from 1.
        folder: of it.
    """

    study: str
    number: int
    folder: Path

    @property
    def images(self) -> Path:
        """Folder of what it is made of."""
        return self.folder / "images"

    @property
    def results(self) -> Path:
        """Folder of what was made."""
        return self.folder / "results"

    @property
    def objects(self) -> list[Path]:
        """DICOM objects in place, reports last: they refer to the others' images."""
        found = self.results.glob("dicom/**/*.dcm")
        return sorted(found, key=lambda path: (path.name == "report.dcm", path))

    @property
    def state(self) -> State:
        """How far it is."""
        reached = (s for s in (State.FAILED, State.SENT, State.SCORED) if (self.folder / f"{s}.json").exists())
        return next(reached, State.WAITING)

    @property
    def begun(self) -> int:
        """How often scoring was begun and not ended."""
        try:
            return (self.folder / "begun").stat().st_size
        except FileNotFoundError:
            return 0

    @property
    def begun_at(self) -> float:
        """When scoring was begun last and not ended, in seconds since 1970; 0 where it always was."""
        try:
            return (self.folder / "begun").stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def mark(self, what: str) -> Mark | None:
        """Return what a marker states; None where there is none.

        Args:
            what: a `State`, or ``trouble``.
        """
        try:
            stated = json.loads((self.folder / f"{what}.json").read_text(encoding="utf-8"))
            objects = stated.get("objects")
            return Mark(str(stated["said"]), float(stated["at"]), None if objects is None else tuple(objects))
        except (OSError, ValueError, KeyError, TypeError):
            return None


class Store:
    """The folder of a node; several threads may use it.

    Args:
        folder: made if need be, for this user alone.

    Raises:
        ValueError: it holds studies, but no secret that goes with them.
        OSError: it cannot be used.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._locks = [threading.Lock() for _ in range(_STRIPES)]
        self._incoming, self._studies = self.folder / "incoming", self.folder / "studies"
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        secret = self.folder / "secret"
        if not secret.exists():
            if next(self.studies(), None) is not None:
                raise ValueError(f"{self.folder} holds studies, but not the file secret that names them: bring it back")
            drawn = partial_of(secret)
            write_durably(drawn, secrets.token_hex(32).encode())
            drawn.chmod(0o600)
            with contextlib.suppress(FileExistsError):  # another process was quicker: its secret counts
                os.link(drawn, secret)
            drawn.unlink()
            flush(self.folder)
        self._secret = secret.read_bytes()

    def open(self) -> None:
        """Take the folder for this process, and remove what an earlier one left half written.

        Raises:
            ValueError: another process has it.
            OSError: it cannot be written to, or its file system has no hard links.
        """
        self._lock = (self.folder / "lock").open("ab")
        if not held(self._lock):
            raise ValueError(f"another process listens with {self.folder}: stop it, or give another --storage")
        for folder in (self._incoming, self._studies):
            folder.mkdir(exist_ok=True)
        for left in self._incoming.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        probe = self._incoming / "probe"
        probe.write_bytes(b"")
        os.link(probe, self._incoming / "link")
        for path in (probe, self._incoming / "link"):
            path.unlink()
        flush(self.folder)
        for study in list(self.studies()):
            self._link_again(study)

    def _link_again(self, study: str) -> None:
        """Link the images of versions to those received where a copy of the folder has made two files of one.

        Raises:
            OSError: that fails.
        """
        images = self._studies / study / "images"
        there = inodes(images)
        for version in self.versions(study):
            for name, inode in inodes(version.images).items():
                path = version.images / name
                if there.get(name, inode) != inode and filecmp.cmp(images / name, path, shallow=False):
                    link = self._incoming / name
                    os.link(images / name, link)
                    os.replace(link, path)

    def name_of(self, study: str) -> str:
        """Return the name of the study of a Study Instance UID: 32 hex digits."""
        return self._digest("study", study)

    def receive(self, instance: Instance, content: bytes) -> Taken:
        """Keep an instance, so that it is there whatever happens next.

        One that is held already, encoded in whatever way, is not written again; one that says something else takes the
        place of that held under its UID.

        Args:
            instance: what it says of itself.
            content: the file.

        Raises:
            NotTaken: the study is of another patient.
            OSError: it could not be kept.
        """
        name = self.name_of(instance.study)
        folder = self._studies / name
        path = folder / "images" / f"{self._digest('image', instance.uid)}.dcm"
        with self._locked(name):
            self._claim(folder, self._digest("patient", json.dumps(instance.patient)))
            taken = Taken.STORED
            if path.exists():
                same = path.stat().st_size == len(content) and path.read_bytes() == content
                if same or same_image(path, content):
                    flush(path.parent)
                    return Taken.HELD
                taken = Taken.CHANGED
            try:
                write_durably(path, content, self._incoming)
            except OSError:
                if not inodes(path.parent):  # nothing of the study is here, so that it is nobody's yet
                    (folder / "patient").unlink(missing_ok=True)
                raise
        return taken

    def studies(self) -> Iterator[str]:
        """Yield the names of the studies of which anything was received."""
        with contextlib.suppress(FileNotFoundError), os.scandir(self._studies) as found:
            yield from (entry.name for entry in found if entry.is_dir())

    def received(self, study: str) -> int:
        """Return how many images of a study were received."""
        return len(inodes(self._studies / study / "images"))

    def versions(self, study: str) -> list[Version]:
        """Return the versions of a study's results, the oldest first."""
        folder = self._studies / study / "versions"
        try:
            names = sorted(name for name in os.listdir(folder) if name.isdecimal())
        except FileNotFoundError:
            names = []
        return [Version(study, int(name), folder / name) for name in names]

    def is_new(self, study: str) -> bool:
        """Return whether images were received that the newest version is not made of."""
        versions = self.versions(study)
        there = inodes(self._studies / study / "images")
        return bool(there) and (not versions or inodes(versions[-1].images) != there)

    def snapshot(self, study: str) -> Version:
        """Begin a version of all images that were received.

        Raises:
            OSError: it cannot be begun; there is no such version then.
        """
        folder, number = self._studies / study / "versions", len(self.versions(study)) + 1
        make_folder(folder)
        for left in folder.glob(".*"):
            shutil.rmtree(left)
        partial = folder / f".{number:04d}"
        partial.mkdir()
        (partial / "images").mkdir()
        for name in inodes(self._studies / study / "images"):
            os.link(self._studies / study / "images" / name, partial / "images" / name)
        flush(partial / "images")
        flush(partial)
        version = Version(study, number, folder / f"{number:04d}")
        partial.rename(version.folder)
        flush(folder)
        return version

    @contextlib.contextmanager
    def begun(self, version: Version) -> Iterator[None]:
        """Note that a version is being scored, until that ends but with the process.

        Raises:
            OSError: that cannot be noted.
        """
        path = version.folder / "begun"
        with path.open("ab") as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
        try:
            yield
        finally:
            path.unlink()

    def end(self, version: Version, state: State, said: str) -> None:
        """Note how far a version is, once all that belongs to it is on the disk.

        Args:
            version: it.
            state: reached.
            said: in words that name no patient.

        Raises:
            OSError: that cannot be noted.
        """
        names = None
        if state is State.SCORED:
            objects = version.objects
            names = [path.relative_to(version.results).as_posix() for path in objects]
            folders = {folder for path in objects for folder in path.parents if folder.is_relative_to(version.folder)}
            for path in [*objects, *sorted(folders)]:
                flush(path)
        self._state(version, str(state), said, names)
        (version.folder / "trouble.json").unlink(missing_ok=True)

    def forget(self, study: str, before: float) -> bool:
        """Remove a study with all that was made of it, if all of it was sent before a time; return whether it was.

        Args:
            study: name of it.
            before: seconds since 1970.

        Raises:
            OSError: it cannot be removed, or not all of it.
        """
        with self._locked(study):
            mark = versions[-1].mark(State.SENT) if (versions := self.versions(study)) else None
            if mark is None or mark.at >= before or self.is_new(study):
                return False
            if any(version.state is State.SCORED for version in versions):
                return False
            gone = self._incoming / study
            (self._studies / study).rename(gone)
        shutil.rmtree(gone)
        return True

    def trouble(self, version: Version, said: str) -> None:
        """Note why a version is not further yet, if that can be written."""
        with contextlib.suppress(OSError):
            self._state(version, "trouble", said)

    def _state(self, version: Version, what: str, said: str, objects: Sequence[str] | None = None) -> None:
        content = json.dumps({"said": said, "at": time.time(), "objects": objects}).encode()
        write_durably(version.folder / f"{what}.json", content, self._incoming)

    def _claim(self, folder: Path, patient: str) -> None:
        """Make a study's folders, if need be, for one patient.

        Raises:
            NotTaken: it is of another.
        """
        mark = folder / "patient"
        if not mark.exists():
            make_folder(folder)
            make_folder(folder / "images")
            write_durably(mark, patient.encode(), self._incoming)
        if mark.read_bytes() != patient.encode():
            raise NotTaken(
                OTHER_PATIENT,
                "another patient has a study of this Study Instance UID here: ID, issuer or birth date differ",
            )

    def _locked(self, study: str) -> threading.Lock:
        return self._locks[int(study[:4], 16) % _STRIPES]

    def _digest(self, kind: str, value: str) -> str:
        return hmac.new(self._secret, f"{kind}\0{value}".encode("utf-8", "replace"), "sha256").hexdigest()[:32]


def inodes(folder: Path) -> dict[str, int]:
    """Return the images in a folder, by name, each with what two links to the same file share."""
    try:
        with os.scandir(folder) as found:
            return {entry.name: entry.inode() for entry in found}
    except FileNotFoundError:
        return {}


def make_folder(folder: Path) -> None:
    """Make a folder, if it is not there, that is there after a failure of power too.

    Raises:
        OSError: it cannot be made.
    """
    folder.mkdir(exist_ok=True)
    flush(folder.parent)
