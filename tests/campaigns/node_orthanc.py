"""Send studies to Orthanc, whose node is killed at random moments, and compare what Orthanc holds in the end.

    python -m tests.campaigns.node_orthanc --studies 20 --kills 5

Orthanc (Debian's, with DICOMweb) runs on loopback with the configuration and the script of docs/orthanc, so that it
sends stable studies to ``python -m invad_med listen``, whose results go back into it, in one run by C-STORE and in
another by STOW-RS. Studies come as in `tests.campaigns.node`: by three tools, in five transfer syntaxes, split over
associations, repeated, shuffled. Meanwhile the node is killed with SIGKILL and started again, and Orthanc is
restarted once. Then the last images of some studies come, other studies come again, unchanged and with other pixels,
and an image of another patient under the UID of a study. In the end

- Orthanc must hold every image as it was sent and exactly the objects that ``python -m invad_med score`` writes of each
  version of its study, but for times: each once, in the right study of the right patient;
- what came late must have made a version, and what came again must not;
- for a while after, Orthanc must get and send nothing more.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import pydicom

sys.path.append(str(Path(__file__).parents[1]))

from node_made import REPOSITORY, Node, send, wait
from orthanc import free_port, get, orthanc

from invad_med.node.receiving import quiet
from invad_med.node.store import Store
from tests.campaigns.node import Made, Senders, deliveries, faults_of, intrude, make_study, settled

EXAMPLE = REPOSITORY / "docs" / "orthanc"
STABLE = 2  # seconds
FORWARDS = ("store", "stow")


@dataclass(frozen=True)
class Orthanc:
    """Orthanc with the example of docs/orthanc.

    Args:
        folder: its files.
        http, dicom: its ports.
        node: port that it sends studies to.
    """

    folder: Path
    http: int
    dicom: int
    node: int

    def run(self) -> contextlib.AbstractContextManager[str]:
        """Run it; gives the DICOMweb root."""
        settings = json.loads((EXAMPLE / "orthanc.json").read_text())
        settings["DicomModalities"]["invad"]["Port"] = self.node
        settings |= {"LuaScripts": [str(EXAMPLE / "invad.lua")], "StableAge": STABLE}
        return orthanc(self.folder, HttpPort=self.http, DicomPort=self.dicom, **settings)

    def forward(self, by: str) -> str:
        """Where the node sends results."""
        return f"ORTHANC@127.0.0.1:{self.dicom}" if by == "store" else f"http://127.0.0.1:{self.http}/dicom-web"

    def ask(self, path: str) -> bytes:
        return get(f"http://127.0.0.1:{self.http}{path}", "*/*")[1]

    def held(self) -> dict[tuple[str, str], list[pydicom.Dataset]]:
        """Return all that it holds, by patient and study."""
        found: dict[tuple[str, str], list[pydicom.Dataset]] = {}
        for study in json.loads(self.ask("/studies?expand")):
            key = study["PatientMainDicomTags"]["PatientID"], study["MainDicomTags"]["StudyInstanceUID"]
            assert key not in found
            found[key] = [
                pydicom.dcmread(BytesIO(self.ask(f"/instances/{instance['ID']}/file")))
                for instance in json.loads(self.ask(f"/studies/{study['ID']}/instances"))
            ]
        return found

    def count(self) -> int:
        return int(json.loads(self.ask("/statistics"))["CountInstances"])


def patient_of(made: Made) -> str:
    return str(pydicom.dcmread(made.files[0], stop_before_pixels=True).PatientID)


def with_other_pixels(path: Path, folder: Path) -> Path:
    """Write another image under the UID of one."""
    ds = pydicom.dcmread(path)
    if ds.file_meta.TransferSyntaxUID.is_compressed:
        ds.decompress(generate_instance_uid=False)
    ds.PixelData = ds.PixelData[::-1]
    folder.mkdir(exist_ok=True)
    ds.save_as(folder / path.name)
    return folder / path.name


def wrong_in_archive(made: Made, found: dict, store: Store, base: Path) -> list[str]:
    """Return what is wrong with a study that Orthanc holds."""
    images = {str(ds.SOPInstanceUID): ds for ds in map(pydicom.dcmread, made.files)}
    patient = patient_of(made)
    faults, results = [], []
    for ds in found.get((patient, made.uid), []):
        if not (image := images.pop(str(ds.SOPInstanceUID), None)):
            results.append(ds)
        elif (image.pixel_array != ds.pixel_array).any():
            faults.append("Orthanc holds an image otherwise")
        if (ds.PatientID, ds.StudyInstanceUID) != (patient, made.uid):
            faults.append("an object is of another study")
    return faults + ["Orthanc lacks an image"] * len(images) + faults_of(made, store, results, base)


def campaign(studies: int, kills: int, by: str, seed: int, base: Path, seconds: float = 5.0) -> Counter[str]:
    """Run with results going back by C-STORE or STOW-RS; return what was wrong.

    Args:
        studies: at least 5.
        kills: of the node.
        by: of FORWARDS.
        seed: of all that is random.
        base: folder for everything.
        seconds: between kills, on average.
    """
    rng, begun = random.Random(seed), time.monotonic()
    (base / "orthanc").mkdir(parents=True)
    archive = Orthanc(base / "orthanc", free_port(), free_port(), free_port())
    made = [make_study(base / "in" / f"{k:03d}", 1000 * seed + k, rng) for k in range(studies)]
    late = [study for study in made if len(study.files) > 1][: max(1, studies // 10)]
    first = [replace(study, files=study.files[: -1 if study in late else None]) for study in made]
    wrong = Counter[str]()
    with contextlib.ExitStack() as running:
        running.enter_context(archive.run())
        node = Node(base / "node", archive.node, archive.forward(by), "--allow", "ORTHANC", quiet=3.0)
        running.callback(node.kill)
        senders = Senders([d for d in deliveries(first, seconds * kills, rng) if d.expected], archive.dicom)
        for kill in range(kills):
            time.sleep(rng.uniform(0.1, 2 * seconds - 0.1))
            node.kill()
            if kill == kills // 2:
                running.pop_all().close()
                running.enter_context(archive.run())
                running.callback(lambda: node.kill())
            node.start()
        senders.join()
        store = Store(node.storage)

        def complete(studies: list[Made]) -> None:
            """Wait until all is scored and sent; each question is Orthanc's clock too."""
            wait(lambda: archive.count() and all(store.received(store.name_of(s.uid)) == len(s.files) for s in studies)
                 and settled(store, studies), 900)  # fmt: skip

        complete(first)
        shaken = time.monotonic() - begun
        versions = {study.uid: len(store.versions(store.name_of(study.uid))) for study in made}

        for study in late:
            assert send(study.files[-1:], archive.dicom) == [0]
        again = rng.sample([study for study in made if study not in late], max(1, studies // 10))
        for study in again:
            send([*study.files, with_other_pixels(study.files[0], base / "other pixels")], archive.dicom)
        complete(made)
        time.sleep(2 * STABLE + 4.0)
        for study in made:
            more = len(store.versions(store.name_of(study.uid))) - versions[study.uid]
            wrong["late images made no version"] += study in late and more != 1
            wrong["what came again made a version"] += study not in late and more != 0

        before, calls = archive.count(), node.said().count("from 'ORTHANC'")
        end = time.monotonic() + 15
        while time.monotonic() < end:
            archive.count()
            time.sleep(0.5)
        wrong["objects arrive without end"] += archive.count() != before
        wrong["studies are sent without end"] += node.said().count("from 'ORTHANC'") != calls

        other = rng.choice(again)
        assert intrude(other, archive.dicom, "ORTHANC") == 0  # Orthanc makes another study of it
        wait(lambda: archive.count() and "refused with 0xC100" in node.said(), 60)
        wrong["the node did not end well"] += node.stop() != 0
        held = archive.held()
        wrong["an object is there twice"] += sum(
            n > 1 for n in Counter(str(ds.SOPInstanceUID) for part in held.values() for ds in part).values()
        )
        wrong["a study too many"] += len(held) - len(made) - 1
        strangers = [part for key, part in held.items() if key[0] not in {patient_of(study) for study in made}]
        wrong["another patient's study has results"] += [len(part) for part in strangers] != [1]
    for study in made:
        wrong.update(wrong_in_archive(study, held, store, base))
    images = sum(len(study.files) for study in made)
    print(
        f"results by {by}: {studies} studies, {images} images, {kills} kills, {dict(senders.tries)}; {shaken:.0f} s; "
        f"studies by number of versions {dict(Counter(len(store.versions(store.name_of(s.uid))) for s in made))}, "
        f"{len(late)} with late images, {len(again)} sent again; Orthanc holds {before} objects; "
        f"{node.said().count('held already')} times it sent what the node had, "
        f"{(archive.folder / 'log').read_text().count('not sent to invad')} times in vain; "
        f"{'wrong: ' + str(dict(+wrong)) if +wrong else 'nothing wrong'}; {time.monotonic() - begun:.0f} s",
        flush=True,
    )
    return +wrong


def main() -> int:
    """Run; return 1 if anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=20, help="in each run, at least 5 (default: %(default)s)")
    parser.add_argument("--kills", type=int, default=5, help="of the node in each run (default: %(default)s)")
    parser.add_argument("--by", nargs="+", choices=FORWARDS, default=FORWARDS, help="a run each (default: both)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    quiet()
    base = Path(tempfile.mkdtemp(prefix="invad-orthanc-"))
    wrong = [campaign(given.studies, given.kills, by, given.seed, base / by) for by in given.by]
    if any(wrong):
        print(f"see {base}")
        return 1
    shutil.rmtree(base)
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    raise SystemExit(main())
