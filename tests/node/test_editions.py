"""What a report says of the versions before, and what becomes of objects that a destination does not take."""

import re

import pydicom
import pytest
from node_made import archive, put, write_study

from invad_med.commands.score import CONFIG
from invad_med.inference.run import RunOptions
from invad_med.node.receiving import Receiver, Titles
from invad_med.node.scoring import Resident
from invad_med.node.sending import Declined, Peer, Unreachable
from invad_med.node.status import describe
from invad_med.node.working import Worker
from invad_med.options import plain_keys, settings_of


def score(store, paths, **given):
    """Keep files and score their study by a node that was started with such keys; return the reports of its version."""
    for path in paths:
        put(store, path)
    given = {
        "report": False,
        "gate": False,
        "device": "cpu",
        "dicom_out": ["report"],
        "deterministic_uids": True,
        **given,
    }
    resident = Resident(store, RunOptions(**{**plain_keys(CONFIG), **given}), settings_of(CONFIG, given))
    versions = []
    worker = Worker(store, resident, versions.append, 0)
    assert worker.step()
    return {ds.SeriesNumber // 100: ds for ds in map(pydicom.dcmread, versions[-1].objects)}


def said(report):
    """Return what a report says of its version, and the UIDs of those that it names as replaced."""
    words = " ".join(str(e.value) for e in report.iterall() if e.keyword == "TextValue")
    named = [o for s in report.get("PredecessorDocumentsSequence", ()) for r in s.ReferencedSeriesSequence
             for o in r.ReferencedSOPSequence]  # fmt: skip
    return re.findall(r"Version \d.*?version \d, of \d\.", words), [o.ReferencedSOPInstanceUID for o in named]


def test_a_node_of_other_settings_names_the_report_that_it_replaces(store, tmp_path):
    paths = write_study(tmp_path / "a", 1, 2, series=2)
    first = score(store, paths[:3])
    again = score(store, paths[3:], batch_size=1)  # shapes nothing: the first series keeps its report
    assert again[1].SOPInstanceUID == first[1].SOPInstanceUID and said(again[1]) == ([], [])
    other = score(store, write_study(tmp_path / "a", 1, 1, series=3)[2:], false_positive_rate=0.2)
    words = ["Version 3 of this report, of 2 stored images; it replaces version 2, of 2."]
    assert said(other[1]) == (words, [first[1].SOPInstanceUID])
    assert said(other[2]) == (words, [again[2].SOPInstanceUID])
    assert said(other[3]) == ([], [])


def test_what_comes_back_as_it_was_is_a_version_of_its_own(store, tmp_path):
    (path,) = write_study(tmp_path / "a", 1, 1)
    ds = pydicom.dcmread(path)
    ds.PatientSex = "O"
    ds.save_as(tmp_path / "b.dcm")
    reports = [score(store, [p])[1] for p in (path, tmp_path / "b.dcm", path)]
    assert len({report.SOPInstanceUID for report in reports}) == 3
    assert said(reports[2]) == (
        ["Version 3 of this report, of 1 stored images; it replaces version 2, of 1."], [reports[1].SOPInstanceUID]
    )  # fmt: skip


def test_status_names_what_failed_until_there_is_a_version_after_it(store, tmp_path):
    paths = write_study(tmp_path / "a", 1, 2)

    def fail(version):
        raise ValueError("no model for it")

    worker = Worker(store, fail, print, 0)
    for path, number in zip(paths, "12", strict=True):
        worker.arrived(put(store, path))
        assert worker.step()
        assert re.findall(r"version (\d), .*: no model for it", describe(store)) == [number]


def test_an_object_that_ends_the_association_keeps_no_other_away(tmp_path):
    paths = write_study(tmp_path / "a", 1, 6)
    uids = [str(pydicom.dcmread(path).SOPInstanceUID) for path in paths]
    with archive() as kept:
        peer = Peer("ARCHIVE", "127.0.0.1", kept.port, "INVAD")
        kept.ends_at = uids[1]
        with pytest.raises(
            Declined, match=r"it ended the association, or gave no answer, at MR Image Storage \(1 of 6"
        ):
            peer.send(paths)
        assert set(uids) - set(kept.objects) == {uids[1]}
        kept.objects.clear()
        with pytest.raises(Declined, match=r"\(3 of 6 objects"):  # one after the other: the rest is not tried
            peer.send([paths[1]] * 3 + paths[:1] + paths[2:4])
        assert not kept.objects
    with pytest.raises(Unreachable, match="it cannot be reached"):
        peer.send(paths)


def test_a_node_is_no_destination(store, tmp_path):
    paths = write_study(tmp_path / "a", 1, 1)
    receiver = Receiver(store, Titles("INVAD", ("INVAD",)), print)
    port = receiver.start("127.0.0.1", 0)
    try:
        with pytest.raises(Declined, match="it is a node of this program, which keeps no results"):
            Peer("INVAD", "127.0.0.1", port, "INVAD").send(paths)
    finally:
        receiver.stop()
    assert not list(store.studies())
