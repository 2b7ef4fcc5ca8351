"""A node's folder and its queue in one process, where faults can be made: full disks, crashes, clocks."""

import errno
import itertools
import os
import shutil

import pydicom
import pytest
from node_made import put, send, write_study
from pydicom.uid import JPEGLSLossless, RLELossless

from invad_med.node import store as module
from invad_med.node.instances import Instance, read_instance
from invad_med.node.receiving import Receiver, Titles
from invad_med.node.scoring import NotWritten
from invad_med.node.sending import Declined, Unreachable
from invad_med.node.store import State, Store, Taken
from invad_med.node.working import Sender, Worker, pause


class Clock:
    """Seconds that a test lets pass."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr("invad_med.node.working.time.monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def make(version):
    """Make one object, as scoring would."""
    (image, *_) = sorted(version.images.iterdir())
    (version.results / "dicom").mkdir(parents=True, exist_ok=True)
    (version.results / "dicom" / "overlay.dcm").write_bytes(image.read_bytes())
    return "1 object"


def test_other_pixels_in_another_syntax_are_another_image(store, tmp_path):
    (path,) = write_study(tmp_path / "a", 1, 1)
    ds = pydicom.dcmread(path)
    instance = read_instance(path.read_bytes(), ds.SOPClassUID, ds.SOPInstanceUID)
    assert store.receive(instance, path.read_bytes()) is Taken.STORED
    for syntax in (RLELossless, JPEGLSLossless):
        for brighter, expected in ((0, Taken.HELD), (1, Taken.CHANGED)):
            ds = pydicom.dcmread(path)
            ds.PixelData = (ds.pixel_array + brighter).astype("<u2").tobytes()
            ds.compress(syntax, generate_instance_uid=False)
            ds.save_as(tmp_path / "again.dcm")
            assert store.receive(instance, (tmp_path / "again.dcm").read_bytes()) is expected
        assert store.receive(instance, path.read_bytes()) is Taken.CHANGED  # back to the first


def test_a_full_disk_is_a_refusal_and_no_loss(store, tmp_path, monkeypatch):
    arrived, paths = [], write_study(tmp_path / "a", 1, 2)
    receiver = Receiver(store, Titles("INVAD", ("PACS",)), arrived.append)
    port = receiver.start("127.0.0.1", 0)
    real = os.fsync

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("invad_med.files.os.fsync", full)
    assert send(paths, port) == [0xA700] * 2 and not arrived
    assert not list(store.folder.rglob("*.dcm")) and not list(store.folder.rglob("*.partial"))
    monkeypatch.setattr("invad_med.files.os.fsync", real)
    study = str(pydicom.dcmread(paths[0]).StudyInstanceUID)
    (other,) = write_study(tmp_path / "other", 2, 1, study=study)
    claimed = store.folder / "studies" / store.name_of(study) / "patient"
    assert not claimed.exists()  # by whom nothing was kept of
    assert send(paths, port) == [0] * 2 and len(arrived) == 2
    assert send([other], port) == [0xC100]
    images = store.folder / "studies" / arrived[0] / "images"
    kept = sorted(pydicom.dcmread(path).PixelData for path in images.iterdir())
    assert kept == sorted(pydicom.dcmread(path).PixelData for path in paths)
    receiver.stop()


def test_a_folder_that_was_copied_makes_no_new_version(store, tmp_path):
    (path,) = write_study(tmp_path / "a", 1, 1)
    study = put(store, path)
    version = store.snapshot(study)
    store.end(version, State.SENT, "")
    shutil.copytree(store.folder, tmp_path / "restored")  # of links that were one file
    restored = Store(tmp_path / "restored")
    restored.open()
    assert not restored.is_new(study)


def test_of_two_first_starts_one_draws_the_secret(tmp_path, monkeypatch):
    drawn, stores = module.secrets.token_hex, []

    def slow(size):
        if not stores:
            stores.append(None)
            stores[0] = Store(tmp_path / "storage")  # the other, meanwhile
        return drawn(size)

    monkeypatch.setattr(module.secrets, "token_hex", slow)
    assert Store(tmp_path / "storage").name_of("1.2") == stores[0].name_of("1.2")
    assert [path.name for path in (tmp_path / "storage").iterdir() if path.is_file()] == ["secret"]


def test_patients_whose_ids_are_no_text_are_told_apart(store, tmp_path):
    found = []
    for k, word in enumerate((b"M\xfcller 71", b"M\xf6ller 71")):
        (path,) = write_study(tmp_path / str(k), k, 1)
        ds = pydicom.dcmread(path)
        ds.SpecificCharacterSet, ds.PatientID = "ISO_IR 192", "M?ller 71"
        ds.save_as(path)
        path.write_bytes(path.read_bytes().replace(b"M?ller 71", word))
        found.append(read_instance(path.read_bytes(), ds.SOPClassUID, ds.SOPInstanceUID).patient)
    assert found[0] != found[1]


def test_success_is_answered_once_file_and_folder_are_on_the_disk(store, tmp_path, monkeypatch):
    order = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        record = lambda *a, name=name, real=real: (order.append(name), real(*a))  # noqa: E731
        monkeypatch.setattr(f"invad_med.files.os.{name}", record)
    (path,) = write_study(tmp_path / "a", 1, 1)
    put(store, path)
    assert order[-3:] == ["fsync", "replace", "fsync"]
    order.clear()
    put(store, path)  # again: nothing is written, but the folder is on the disk before it is answered
    assert order == ["fsync"]


def test_quiet_counts_from_the_last_image_and_from_the_start(store, tmp_path, clock):
    paths = write_study(tmp_path / "a", 1, 3)
    study = put(store, paths[0])
    os.utime(next(iter((store.folder / "studies" / study / "images").iterdir())), (0, 0))  # old, as after a restart
    scored = []
    worker = Worker(store, make, scored.append, 10)
    clock.now += 9
    assert not worker.step() and not scored
    put(store, paths[1])
    worker.arrived(study)
    clock.now += 9
    assert not worker.step()
    clock.now += 2
    assert worker.step() and [v.number for v in scored] == [1] and len(list(scored[0].images.iterdir())) == 2
    clock.now += 100
    assert not worker.step()
    put(store, paths[1])  # held already
    worker.arrived(study)
    clock.now += 100
    assert worker.step() and len(scored) == 1
    put(store, paths[2])
    worker.arrived(study)
    clock.now += 100
    assert worker.step() and [v.number for v in scored] == [1, 2]
    assert [v.state for v in store.versions(study)] == [State.SCORED] * 2


def test_an_image_that_comes_while_its_study_is_scored_makes_a_version(store, tmp_path, clock):
    paths = write_study(tmp_path / "a", 1, 2)
    study, scored = put(store, paths[0]), []

    def score(version):
        if version.number == 1:
            put(store, paths[1])
            worker.arrived(study)
        return make(version)

    worker = Worker(store, score, scored.append, 10)
    clock.now += 10
    assert worker.step() and len(list(scored[0].images.iterdir())) == 1
    assert not worker.step()
    clock.now += 10
    assert worker.step() and len(list(scored[1].images.iterdir())) == 2


def test_what_a_start_finds_goes_on(store, tmp_path, clock):
    paths = write_study(tmp_path / "a", 1, 2)
    study = put(store, paths[0])

    def crash(version):
        raise KeyboardInterrupt  # as good as the end of the process

    worker = Worker(store, crash, lambda version: None, 10)
    clock.now += 10
    with pytest.raises(KeyboardInterrupt):
        worker.step()
    put(store, paths[1])
    scored = []
    worker = Worker(store, make, scored.append, 10)  # the version that was begun, of the image that it was begun of
    assert worker.step() and [v.number for v in scored] == [1] and len(list(scored[0].images.iterdir())) == 1
    assert not worker.step()
    clock.now += 10
    assert worker.step() and [v.number for v in scored] == [1, 2]
    again = []
    Worker(store, make, again.append, 10)
    assert again == scored and store.versions(study)[1].state is State.SCORED


def test_a_study_that_ends_the_process_comes_last_and_then_waits(tmp_path, clock):
    bad, good = write_study(tmp_path / "a", 1, 1), write_study(tmp_path / "b", 2, 1)
    scored = []

    def start():
        store = Store(tmp_path / "storage")
        store.open()
        names = [put(store, paths[0]) for paths in (bad, good)]
        return store, names

    store, (worst, fine) = start()

    def score(version):
        if version.study == worst:
            os._exit(9)
        return make(version)

    def process():
        if not (child := os.fork()):
            worker = Worker(Store(tmp_path / "storage"), score, scored.append, 0.0)
            clock.now += 1
            while worker.step():
                pass
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert [process() for _ in range(7)] == [9, 9, 9, 9, 9, 0, 0]
    (version,) = store.versions(worst)
    assert version.state is State.WAITING and "ended 5 times while it was scored" in version.mark("trouble").said
    assert store.versions(fine)[0].state is State.SCORED
    long_ago = version.begun_at - 61
    os.utime(version.folder / "begun", (long_ago, long_ago))
    assert [process() for _ in range(2)] == [9, 0]  # again after a minute, then after two


@pytest.mark.parametrize(
    ("error", "after", "said"),
    [
        (NotWritten("heatmap not written (No space left on device)", True), State.SCORED, ""),
        (OSError(errno.EIO, "Input/output error"), State.SCORED, ""),
        (NotWritten("heatmap not written (TypeError)", False), State.FAILED, "heatmap not written (TypeError)"),
        (ValueError("nothing can be scored"), State.FAILED, "nothing can be scored"),
        (RuntimeError("Doe^Jane"), State.FAILED, "scoring failed (RuntimeError)"),
    ],
)
def test_what_is_tried_again_and_what_is_set_aside(store, tmp_path, clock, error, after, said):
    study, attempts = put(store, write_study(tmp_path / "a", 1, 1)[0]), []

    def score(version):
        attempts.append(clock.now)
        if len(attempts) <= 4:
            raise error
        return make(version)

    worker = Worker(store, score, lambda version: None, 1)
    for _ in range(300):
        clock.now += 1
        worker.step()
    (version,) = store.versions(study)
    assert version.state is after and not version.begun and version.mark(str(after)).said == (said or "1 object")
    if after is State.SCORED:
        assert [b - a for a, b in itertools.pairwise(attempts)] == [1, 2, 4, 8]


def test_sending_waits_for_who_is_away_and_passes_by_who_declines(store, tmp_path, clock):
    studies = [put(store, write_study(tmp_path / str(seed), seed, 1)[0]) for seed in (1, 2)]
    versions = []
    worker = Worker(store, make, versions.append, 1)
    clock.now += 1
    while worker.step():
        pass
    sent, away = [], [True]

    class Destination:
        name = "PACS@host:104"

        def send(self, paths):
            sent.append(store.name_of(str(pydicom.dcmread(paths[0]).StudyInstanceUID)))
            if away[0]:
                raise Unreachable("nobody")
            if sent[-1] == studies[0]:
                raise Declined("it answers 0xA700")

    sender = Sender(store, Destination())
    for version in versions:
        sender.add(version)
    assert sender.step() and len(sent) == 1 and not sender.step()  # one was tried, and all wait
    clock.now += 1
    assert sender.step() and not sender.step()
    clock.now += 1
    assert not sender.step()
    away[0], clock.now = False, clock.now + 1
    while sender.step():
        pass
    states = {version.study: version.state for version in versions}
    assert states == {studies[0]: State.SCORED, studies[1]: State.SENT}
    assert store.versions(studies[0])[0].mark("trouble").said == "PACS@host:104: it answers 0xA700"


def test_an_object_of_another_study_is_not_sent(store, tmp_path, clock):
    put(store, write_study(tmp_path / "a", 1, 1)[0])
    (other,) = write_study(tmp_path / "b", 2, 1)
    versions, sent = [], []

    def wrong(version):
        make(version)
        (version.results / "dicom" / "report.dcm").write_bytes(other.read_bytes())
        return ""

    worker = Worker(store, wrong, versions.append, 0)
    assert worker.step()

    class Destination:
        name, send = "PACS", lambda self, paths: sent.append(paths)

    sender = Sender(store, Destination())
    sender.add(versions[0])
    assert sender.step() and not sent and "another study" in versions[0].mark("trouble").said


def test_what_was_sent_long_ago_is_removed_if_that_is_asked_for(store, tmp_path, clock, monkeypatch):
    done, unsent = write_study(tmp_path / "a", 1, 2), write_study(tmp_path / "b", 2, 1)
    names, versions = [put(store, done[0]), put(store, unsent[0])], []
    worker = Worker(store, make, versions.append, 0, keep=100)
    while worker.step():
        pass
    (sent,) = (version for version in versions if version.study == names[0])
    store.end(sent, State.SENT, "1 object")
    at = sent.mark("sent").at
    monkeypatch.setattr("invad_med.node.working.time.time", lambda: at + 99)
    worker.tidy()
    assert set(store.studies()) == set(names)
    monkeypatch.setattr("invad_med.node.working.time.time", lambda: at + 101)
    put(store, done[1])  # more of it came: it is not done
    worker.tidy()
    assert set(store.studies()) == set(names)
    worker.arrived(names[0])
    worker.step()
    store.end(store.versions(names[0])[-1], State.SENT, "1 object")
    monkeypatch.setattr("invad_med.node.working.time.time", lambda: at + 1000)
    worker.tidy()
    assert list(store.studies()) == names[1:] and not list((store.folder / "incoming").iterdir())


def test_a_folder_is_one_processs_and_keeps_its_secret(store, tmp_path):
    if not (child := os.fork()):
        try:
            Store(store.folder).open()
        except ValueError as error:
            os._exit(7 if "another process listens with" in str(error) else 1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    put(store, write_study(tmp_path / "a", 1, 1)[0])
    (store.folder / "secret").unlink()
    with pytest.raises(ValueError, match="holds studies, but not the file secret"):
        Store(store.folder)


def test_names_are_digests_under_a_secret(tmp_path):
    one, other = (Store(tmp_path / name) for name in ("a", "b"))
    assert one.name_of("1.2.3") == Store(tmp_path / "a").name_of("1.2.3") != other.name_of("1.2.3")
    assert len(one.name_of("1.2.3")) == 32 and (tmp_path / "a").stat().st_mode & 0o777 == 0o700


def test_one_uid_in_two_studies_is_two_images(store):
    content = module.__doc__.encode()
    for study in ("1.1", "1.2"):
        assert store.receive(Instance("1.9", study, ("ID", "", "", ""), False), content) is Taken.STORED
    assert store.receive(Instance("1.9", "1.1", ("ID", "", "", ""), False), content) is Taken.HELD
    assert store.receive(Instance("1.9", "1.1", ("ID", "", "", ""), False), b"else") is Taken.CHANGED
    assert len(list(store.folder.glob("studies/*/images/*.dcm"))) == 2


def test_pauses_grow_to_five_minutes():
    assert [pause(k) for k in (1, 2, 3, 9, 10, 10**6)] == [1, 2, 4, 256, 300, 300]
