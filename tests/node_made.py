"""Studies for a DICOM node, a node as a user starts it, and a destination that keeps what it gets."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import generate_uid

REPOSITORY = Path(__file__).parents[1]
SCORING = ["--gate", "false", "--device", "cpu"]  # noise is unlike any image
TIMES = ("ContentDate", "ContentTime", "InstanceCreationDate", "InstanceCreationTime", "SeriesDate", "SeriesTime",
         "DateTime", "ObservationDateTime", "ContributionDateTime")  # fmt: skip
NAME = "Doe^Jane"  # of every patient; must not be seen anywhere


def write_study(folder, seed, slices, patient=None, study=None, series=1, first=0):
    """Write MR images of noise, the same for the same arguments, and return their paths."""
    from pydicom.data import get_testdata_file

    base = pydicom.dcmread(get_testdata_file("MR_small.dcm", download=False))
    base.remove_private_tags()
    uid = lambda *words: generate_uid(entropy_srcs=[" ".join(map(str, ("node", seed, *words)))])  # noqa: E731
    base.PatientName, base.PatientID = NAME, patient or f"SECRET{seed}"
    base.StudyInstanceUID = study or uid("study")
    base.FrameOfReferenceUID, base.BodyPartExamined = uid("frame"), "BRAIN"
    base.Rows = base.Columns = 64
    base.PixelSpacing, base.ImageOrientationPatient, base.SliceThickness = [1, 1], [1, 0, 0, 0, 1, 0], 3
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(series):
        base.SeriesInstanceUID, base.SeriesNumber = uid("series", number), number + 1
        for k in range(first, first + slices):
            rng = np.random.default_rng([seed, number, k])
            base.SOPInstanceUID = base.file_meta.MediaStorageSOPInstanceUID = uid(number, k)
            base.ImagePositionPatient, base.InstanceNumber = [0, 0, 3 * k], k + 1
            base.PixelData = rng.integers(0, 900, (64, 64), dtype=np.int16).tobytes()
            paths.append(folder / f"{number}-{k}.dcm")
            base.save_as(paths[-1])
    return paths


def put(store, path):
    """Keep a file in a node's store, and return the name of its study."""
    from invad_med.node.instances import read_instance

    ds = pydicom.dcmread(path)
    instance = read_instance(Path(path).read_bytes(), ds.SOPClassUID, ds.SOPInstanceUID)
    store.receive(instance, Path(path).read_bytes())
    return store.name_of(instance.study)


def send(paths, port, called="INVAD", calling="PACS", tls=None):
    """Send files by pynetdicom; return the status of each, None where the association was refused or ended."""
    from pynetdicom import AE
    from pynetdicom.presentation import build_context

    files = [pydicom.dcmread(path) for path in paths]
    ae = AE(ae_title=calling)
    kinds = {(str(ds.SOPClassUID), str(ds.file_meta.TransferSyntaxUID)) for ds in files}
    contexts = [build_context(*kind) for kind in sorted(kinds)]
    association = ae.associate("127.0.0.1", port, contexts, ae_title=called, tls_args=tls)
    if not association.is_established:
        return [None] * len(paths)
    result = []
    for ds in files:
        try:
            result.append(association.send_c_store(ds).get("Status"))
        except RuntimeError:  # the association has ended
            result.append(None)
    association.release()
    return result


@dataclass
class Archive:
    """A destination: objects that arrived by their UID, how often, in which forms, and when the last of a study did."""

    port: int
    status: int = 0x0000
    ends_at: str = ""  # UID of the object at which it ends the association
    objects: dict = field(default_factory=dict)
    times: Counter = field(default_factory=Counter)
    forms: dict = field(default_factory=dict)
    last: dict = field(default_factory=dict)

    def reports(self, study):
        return [ds for ds in self.of(study) if ds.Modality == "SR"]

    def of(self, study):
        return [ds for ds in self.objects.values() if ds.StudyInstanceUID == study]


@contextmanager
def archive(port=0, tls=None):
    """Run a destination called ARCHIVE on loopback that keeps objects in memory."""
    from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt

    ae = AE(ae_title="ARCHIVE")
    for context in AllStoragePresentationContexts:
        ae.add_supported_context(context.abstract_syntax, ALL_TRANSFER_SYNTAXES)
    ae.require_called_aet = True

    def keep(event):
        if event.request.AffectedSOPInstanceUID == kept.ends_at:
            event.assoc.abort()
            return 0xC000
        if kept.status in (0x0000, 0xB000):
            content = event.encoded_dataset()
            ds = pydicom.dcmread(BytesIO(content))
            uid = str(ds.SOPInstanceUID)
            kept.times[uid] += 1
            kept.objects[uid] = ds
            kept.forms.setdefault(uid, set()).add(hashlib.sha256(content).digest())
            kept.last[str(ds.StudyInstanceUID)] = time.time()
        return kept.status

    kept = Archive(port)
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, keep)], ssl_context=tls)
    kept.port = server.server_address[1]
    try:
        yield kept
    finally:
        server.shutdown()


class Node:
    """``python -m invad_med listen`` in a process of its own.

    Args:
        storage: its folder.
        port: of it; the same after `restart`.
        forward: where results go.
        more: options.
    """

    def __init__(self, storage, port, forward, *more, quiet=0.5):
        self.storage, self.port = storage, port
        self.log = storage.parent / f"{storage.name}.log"
        self.command = [
            sys.executable, "-m", "invad_med", "listen", "--storage", storage, "--port", port, "--allow", "PACS",
            "STORESCU", "DCMSEND", "--forward", forward, "--quiet", quiet, *SCORING, *more,
        ]  # fmt: skip
        self.start()

    def start(self):
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
        before = self.said().count("listens at")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([str(w) for w in self.command], stdout=log, stderr=log, env=env)
        wait(lambda: self.said().count("listens at") > before or self.process.poll() is not None)
        assert self.process.poll() is None, self.said()

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def said(self):
        return self.log.read_text() if self.log.exists() else ""

    def status(self):
        done = subprocess.run(
            [*map(str, self.command[:4]), "--storage", str(self.storage), "--status"],
            capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, check=True,
        )  # fmt: skip
        return done.stdout


def wait(condition, seconds=60):
    """Wait until something is true, and return it."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return found


def timeless(ds):
    """Return what must be equal of an object, whenever it was made."""
    for element in list(ds.iterall()):
        if element.keyword in TIMES:
            element.value = ""
    return ds
