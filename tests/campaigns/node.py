"""Send studies to a node that is killed at random moments and whose disk fills, and compare what comes of them.

    python -m tests.campaigns.node --studies 20 --kills 5

Studies of one to ten images, in five transfer syntaxes, go to ``python -m invad_med listen`` by DCMTK's storescu and
dcmsend and by pynetdicom: split over associations that are shuffled among studies, parts of them repeated, some under
wrong titles. Senders repeat until they are answered with success, as an archive's queue does. Images of other patients
under the UIDs of studies that are there must be refused.
Meanwhile the node is killed with SIGKILL and started again, and once its disk is full for some seconds. In the end

- every image must be stored as it was sent, and every study be sent in one version, or in several that say so;
- every object must be what ``python -m invad_med score`` writes of the images of its version, but for times;
- no object may have come in two forms, be of another study, or be missing; no word of a patient may show.

Then more studies go to a node that is left alone: its memory, and seconds from the last image to the last object.
The folder of the node lies on a file system of its own in memory where that may be mounted, else files are kept from
growing.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

sys.path.append(str(Path(__file__).parents[1]))

from node_made import NAME, SCORING, Node, archive, send, timeless, wait, write_study
from orthanc import free_port

from invad_med.__main__ import main as command
from invad_med.node.instances import OTHER_PATIENT
from invad_med.node.receiving import quiet
from invad_med.node.store import State, Store

SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless, JPEGLSLossless, JPEG2000Lossless)
PROPOSED = {RLELossless: ["-xr"], JPEGLSLossless: ["-xt"], JPEG2000Lossless: ["-xv"]}
DCMTK = Path(shutil.which("dcmsend") or "/").parent


@dataclass
class Made:
    """A study: its UID, its files, their syntax, and when the last image was answered with success."""

    uid: str
    files: list[Path]
    syntax: pydicom.uid.UID
    answered: float = 0.0


@dataclass
class Delivery:
    """What goes over one association: files of a study, by which tool, after so many seconds, with which titles."""

    study: Made
    files: list[Path]
    tool: str
    after: float
    called: str = "INVAD"
    calling: str | None = None
    expected: bool = True


def make_study(folder: Path, seed: int, rng: random.Random) -> Made:
    """Write a study in one of the syntaxes."""
    files = write_study(folder, seed, rng.randint(1, 5), series=rng.randint(1, 2))
    syntax = SYNTAXES[seed % len(SYNTAXES)]
    for path in files:
        ds = pydicom.dcmread(path)
        if syntax.is_compressed:
            ds.compress(syntax, generate_instance_uid=False)
        ds.file_meta.TransferSyntaxUID = syntax
        ds.save_as(path, implicit_vr=syntax.is_implicit_VR, little_endian=True)
    return Made(str(ds.StudyInstanceUID), files, syntax)


def deliveries(studies: list[Made], seconds: float, rng: random.Random) -> list[Delivery]:
    """Split studies over associations, repeat parts, and mix them with what must be refused."""
    found = []
    for study in studies:
        files, begun = rng.sample(study.files, len(study.files)), rng.uniform(0, seconds)
        cuts = sorted(rng.sample(range(1, len(files)), min(len(files) - 1, rng.randint(0, 2))))
        parts = [files[a:b] for a, b in zip([0, *cuts], [*cuts, len(files)], strict=True)]
        parts += [rng.sample(files, rng.randint(1, len(files)))] * (rng.random() < 0.3)
        for part in parts:
            tool = rng.choice(["storescu", "dcmsend", "pynetdicom"])
            found.append(Delivery(study, part, tool, begun + rng.uniform(0, 1.5)))
        if rng.random() < 0.1:
            wrong = {"called": "OTHER"} if rng.random() < 0.5 else {"calling": "STRANGER"}
            found.append(Delivery(study, files, "pynetdicom", begun, expected=False, **wrong))
    return sorted(found, key=lambda d: d.after)


def deliver(delivery: Delivery, port: int) -> bool:
    """Send once; return whether all was answered with success."""
    if delivery.tool == "pynetdicom":
        statuses = send(delivery.files, port, delivery.called, delivery.calling or "PACS")
        return all(status == 0 for status in statuses)
    report = delivery.study.files[0].parents[2] / f"report-{threading.get_ident()}"
    more = PROPOSED.get(delivery.study.syntax, []) if delivery.tool == "storescu" else ["-dn", "+crf", report]
    done = subprocess.run(
        [DCMTK / delivery.tool, "-aec", "INVAD", *more, "127.0.0.1", str(port), *delivery.files], capture_output=True
    )
    if done.returncode or delivery.tool == "storescu":
        return done.returncode == 0
    said = re.search(r"with status SUCCESS\s*: (\d+)", report.read_text())  # dcmsend ends with 0 whatever is answered
    return bool(said) and int(said[1]) == len(delivery.files)


def intrude(study: Made, port: int, called: str = "INVAD") -> int | None:
    """Send an image of another patient under the UID of a study that is there; return what is answered."""
    folder = study.files[0].parents[2] / "others" / study.files[0].parent.name
    seed = 10**6 + int(folder.name)
    return send(write_study(folder, seed, 1, patient=f"SECRET{seed}", study=study.uid), port, called)[0]


class Senders:
    """Threads that deliver at the times given, again and again until success."""

    def __init__(self, work: list[Delivery], port: int, threads: int = 3) -> None:
        self.work, self.port, self.tries = list(work), port, Counter[str]()
        self.wrong: list[str] = []
        self._lock, self._begun = threading.Lock(), time.monotonic()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self.work:
                    return
                delivery = self.work.pop(0)
            time.sleep(max(0.0, delivery.after - (time.monotonic() - self._begun)))
            if not delivery.expected:
                if deliver(delivery, self.port):
                    self.wrong.append("wrong titles were let in")
                self.tries["refused titles"] += 1
                continue
            while not deliver(delivery, self.port):
                self.tries["again"] += 1
                time.sleep(0.3)
            self.tries[delivery.tool] += 1
            delivery.study.answered = time.time()


@contextlib.contextmanager
def disk(folder: Path, size: str):
    """Give a folder whose disk can be full: of its own, in memory, where that may be mounted."""
    folder.mkdir()
    mounted = not subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True
    ).returncode
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", folder], check=True)


@contextlib.contextmanager
def full(folder: Path, mounted: bool, node: Node):
    """Have no room for anything for a while."""
    if not mounted:
        before = resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE, (0, before[1]))
        yield
        resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE, before)
        return
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 4096)
    yield
    filler.unlink()


def memory(process: int) -> float:
    """Return the resident memory of a process in MiB."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def settled(store: Store, studies: list[Made]) -> bool:
    """Return whether every study is there, of all its images, and sent or set aside."""
    for made in studies:
        study = store.name_of(made.uid)
        versions = store.versions(study)
        if store.is_new(study) or not versions:
            return False
        if any(v.state not in (State.SENT, State.FAILED) for v in versions):
            return False
    return True


def scored(folder: Path, output: Path) -> dict[str, pydicom.Dataset]:
    """Return the objects that the command makes of a folder, by UID."""
    given = ["--output_dir", str(output), "--deterministic_uids", "--report", "false", *SCORING]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert command(["score", str(folder), *given]) == 0
    found = {str(ds.SOPInstanceUID): ds for ds in map(pydicom.dcmread, (output / "dicom").rglob("*.dcm"))}
    shutil.rmtree(output)
    return found


def text_of(report: pydicom.Dataset) -> str:
    return " ".join(str(e.value) for e in report.iterall() if e.keyword == "TextValue")


def faults_of(made: Made, store: Store, got: list[pydicom.Dataset], base: Path) -> list[str]:
    """Return what is wrong with a study and its objects."""
    versions, faults = store.versions(store.name_of(made.uid)), []
    held = {str(ds.SOPInstanceUID): ds for ds in map(pydicom.dcmread, versions[-1].images.iterdir())}
    for path in made.files:
        ds = pydicom.dcmread(path)
        if not (other := held.pop(str(ds.SOPInstanceUID), None)):
            faults.append("an image is lost")
        elif (other.pixel_array != ds.pixel_array).any() or other.PatientID != ds.PatientID:
            faults.append("an image differs")
    faults += ["an image too many"] * len(held)
    if any(v.state is not State.SENT for v in versions):
        faults.append("not sent: " + "; ".join(str(m.said) for v in versions if (m := v.mark("failed"))))
    rest = {str(ds.SOPInstanceUID): ds for ds in got}
    known: dict[str, pydicom.Dataset] = {}
    for version in versions:
        sources = version.images if version is not versions[-1] else made.files[0].parent
        expected = scored(sources, base / "score")
        for uid, ds in expected.items():
            if uid in known:
                continue
            if uid in rest:
                if timeless(rest.pop(uid)) != timeless(ds):
                    faults.append(f"{ds.Modality} differs from the command's")
            elif ds.Modality == "SR" and version.number > 1:
                said = [u for u, r in rest.items() if r.Modality == "SR" and f"Version {version.number} " in text_of(r)]
                faults += ["a report of a new version is missing"] * (not said)
                for u in said:
                    del rest[u]
            else:
                faults.append(f"{ds.Modality} is missing")
        known |= expected
    return faults + ["an object too many"] * len(rest)


def main() -> int:
    """Run; return 1 if anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=20, help="while the node is killed (default: %(default)s)")
    parser.add_argument("--kills", type=int, default=5, help="of the node (default: %(default)s)")
    parser.add_argument("--steady", type=int, default=20, help="studies for a node left alone (default: %(default)s)")
    parser.add_argument("--quiet", type=float, default=3.0, help="seconds that complete a study (default: %(default)g)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    quiet()
    rng, base = random.Random(given.seed), Path(tempfile.mkdtemp(prefix="invad-node-"))
    begun = time.monotonic()
    count = given.studies + given.steady
    studies = [make_study(base / "in" / f"{k:03d}", 1000 * given.seed + k, rng) for k in range(count)]
    killed, steady = studies[: given.studies], studies[given.studies :]
    with disk(base / "disk", "2g") as mounted, archive() as kept:
        node = Node(base / "disk" / "storage", free_port(), f"ARCHIVE@127.0.0.1:{kept.port}", quiet=given.quiet)
        node.log = base / "node.log"
        each = 5.0  # seconds for a kill, on average
        *flowing, spare = killed  # the last comes first while the disk is full
        senders = Senders(deliveries(flowing, each * given.kills, rng), node.port)
        fill = rng.randrange(max(1, given.kills // 2))
        refused, others, lost = Counter[int | None](), Counter[int | None](), 0
        for kill in range(given.kills):
            time.sleep(rng.uniform(0.1, 2 * each - 4))
            if kill == fill:
                with full(base / "disk", mounted, node):
                    answers, kept_here = send(spare.files, node.port), Store(node.storage)
                    refused.update(answers)  # one may fit into what is left
                    lost = answers.count(0) - kept_here.received(kept_here.name_of(spare.uid))
                    time.sleep(3.0)
            elif there := [made for made in flowing if made.answered]:
                others[intrude(rng.choice(there), node.port)] += 1
            node.kill()
            node.start()
        senders.join()
        Senders(deliveries([spare], 0.1, rng), node.port).join()
        store = Store(node.storage)
        wait(lambda: settled(store, killed), 600)
        shaken = time.monotonic() - begun
        print(
            f"{given.studies} studies, {sum(len(s.files) for s in killed)} images, {given.kills} kills, "
            f"{dict(senders.tries)}; disk {'full' if mounted else 'closed'} once, answers then {dict(refused)}; "
            f"images of other patients answered {dict(others)}; {shaken:.0f} s",
            flush=True,
        )
        node.stop()
        node.start()
        first, resident = memory(node.process.pid), []
        for k in range(0, len(steady), max(1, len(steady) // 8)):
            part = steady[k : k + max(1, len(steady) // 8)]
            Senders(deliveries(part, 1.0 * len(part), rng), node.port).join()
            wait(lambda part=part: settled(store, part), 300)
            resident.append(memory(node.process.pid))
        status = node.status()
        after = node.stop()
        kept_words = (
            "\n".join(str(p.relative_to(base / "disk")) for p in node.storage.rglob("*")) + status + node.said()
        )
        wrong = Counter(senders.wrong)
        wrong["a word of a patient shows"] += sum(word in kept_words for word in (NAME, "SECRET", "1.2.826.0"))
        wrong["a full disk was answered with success"] += max(0, lost)
        wrong["another patient was let in"] += others.total() - others[OTHER_PATIENT] - others[None]
        wrong["the node did not end well"] += after != 0
        wrong["an object came in two forms"] += sum(len(forms) > 1 for forms in kept.forms.values())
        known = {made.uid for made in studies}
        wrong["an object of no study"] += sum(ds.StudyInstanceUID not in known for ds in kept.objects.values())
        versions = Counter(len(store.versions(store.name_of(made.uid))) for made in studies)
        for made in studies:
            for fault in faults_of(made, store, kept.of(made.uid), base):
                wrong[fault] += 1
        late = sorted(kept.last[made.uid] - made.answered - given.quiet for made in steady)
    wrong = +wrong
    print(
        f"studies by number of versions: {dict(versions)}; objects {len(kept.objects)}, sent {kept.times.total()} times"
    )
    if late:
        print(
            f"left alone: memory {first:.0f} MiB at the start, then {', '.join(f'{m:.0f}' for m in resident)}; seconds "
            f"from the last image to the last object, without the {given.quiet:g} of quiet: median "
            f"{late[len(late) // 2]:.2f}, highest {late[-1]:.2f}"
        )
    print(f"{'wrong: ' + str(dict(wrong)) + '; see ' + str(base) if wrong else 'nothing wrong'}; "
          f"{time.monotonic() - begun:.0f} s")  # fmt: skip
    if not wrong:
        shutil.rmtree(base)
    return bool(wrong)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    raise SystemExit(main())
