"""`python -m invad_med listen` through real sockets, beside `python -m invad_med score` of the same files."""

import re
import shutil
import socket
import subprocess
from collections import Counter
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from archive.test_dicomweb import server  # noqa: F401  a small DICOMweb server
from dicom_results import named
from node_made import SCORING, Node, archive, send, timeless, wait, write_study
from orthanc import free_port
from pydicom.uid import ImplicitVRLittleEndian, RLELossless

from invad_med.__main__ import main
from invad_med.node.tls import Credentials

DCMTK = Path(found).parent if (found := shutil.which("dcmsend")) else None  # pynetdicom has a storescu too


@pytest.fixture(scope="module")
def destination():
    with archive() as kept:
        yield kept


@pytest.fixture(scope="module")
def node(tmp_path_factory, destination):
    running = Node(tmp_path_factory.mktemp("node") / "storage", free_port(), f"ARCHIVE@127.0.0.1:{destination.port}")
    yield running
    assert running.stop() == 0, running.said()
    said = running.said() + (running.storage / "audit.log").read_text() + running.status()
    names = "\n".join(str(path.relative_to(running.storage)) for path in running.storage.rglob("*"))
    markers = "".join(path.read_text() for path in running.storage.rglob("*.json") if "results" not in path.parts)
    for word in ("SECRET", "Doe", "Jane", "1.2.826", "Traceback"):
        assert word not in said + names + markers, word


def sent(node, count):
    """Wait until so many versions were sent."""
    return wait(lambda: len(re.findall(r"version \d+ sent", node.said())) >= count)


def score(files, output):
    """Return the objects that the command makes of files, by UID."""
    folder = output / "in"
    folder.mkdir(parents=True)
    for path in files:
        shutil.copy(path, folder)
    given = ["--output_dir", str(output / "out"), "--deterministic_uids", *SCORING, "--report", "false"]
    assert main(["score", str(folder), *given]) == 0
    found = map(pydicom.dcmread, (output / "out" / "dicom").rglob("*.dcm"))
    return {str(ds.SOPInstanceUID): ds for ds in found}


def bytes_of(ds):
    """Return the bytes of a data set, but for the times of its making; file meta information is the transport's."""
    ds = timeless(ds)
    buffer = BytesIO()
    ds.save_as(buffer)
    return str(ds.file_meta.TransferSyntaxUID), buffer.getvalue()[
        132 + 12 + ds.file_meta.FileMetaInformationGroupLength :
    ]


def test_results_are_what_the_command_writes(node, destination, tmp_path):
    paths = write_study(tmp_path / "a", 1, 3, series=2)
    assert send(paths[:4], node.port) == [0] * 4 and send(paths[4:], node.port) == [0, 0]
    study = str(pydicom.dcmread(paths[0]).StudyInstanceUID)
    wait(lambda: len(destination.reports(study)) == 2)
    sent(node, 1)
    expected = score(paths, tmp_path / "score")
    got = {str(ds.SOPInstanceUID): ds for ds in destination.of(study)}
    assert got.keys() == expected.keys() and len(got) == 10
    for uid, ds in got.items():
        assert bytes_of(ds) == bytes_of(expected[uid])

    repeated = send(paths, node.port)  # the same again, also in another syntax: nothing new is made
    ds = pydicom.dcmread(paths[0])
    for syntax in (RLELossless, ImplicitVRLittleEndian):
        if syntax.is_compressed:
            ds.compress(syntax, generate_instance_uid=False)
        else:
            ds.decompress(generate_instance_uid=False)
            ds.file_meta.TransferSyntaxUID = syntax
            ds = pydicom.dcmread(_saved(ds, tmp_path / "other.dcm", implicit=True))
        ds.save_as(tmp_path / f"{syntax.name}.dcm")
        repeated += send([tmp_path / f"{syntax.name}.dcm"], node.port)
    assert repeated == [0] * 8
    results = [_saved(ds, tmp_path / f"own-{k}.dcm") for k, ds in enumerate(got.values())]
    assert send(results, node.port) == [0] * 10  # its own results come back, as archives route them
    late = write_study(tmp_path / "b", 2, 1)
    assert send(late, node.port) == [0]
    wait(lambda: destination.reports(str(pydicom.dcmread(late[0]).StudyInstanceUID)))
    sent(node, 2)
    assert len(destination.of(study)) == 10 and set(destination.times.values()) == {1}
    assert "held already" in node.said() and "10 own result, not kept" in node.said()


def text_of(report):
    return " ".join(str(e.value) for e in report.iterall() if e.keyword == "TextValue")


def _saved(ds, path, implicit=None):
    ds.save_as(path, implicit_vr=implicit, little_endian=None if implicit is None else True)
    return path


def test_late_slices_make_a_version_that_says_so(node, destination, tmp_path):
    whole = write_study(tmp_path / "a", 3, 3, series=2)
    study = str(pydicom.dcmread(whole[0]).StudyInstanceUID)
    assert send([*whole[:2], *whole[3:5]], node.port) == [0] * 4
    wait(lambda: len(destination.reports(study)) == 2)
    (first,) = (ds for ds in destination.reports(study) if ds.SeriesNumber // 100 == 1)
    wait(lambda: f"version 1 sent: {len(destination.of(study))} objects" in node.said())
    assert send(whole[2:3], node.port) == [0]
    wait(lambda: len(destination.reports(study)) == 3)  # the series that did not change has the same report
    (second,) = (r for r in destination.reports(study) if "Version 2" in text_of(r))
    assert "Version 2 of this report, of 3 stored images; it replaces version 1, of 2." in text_of(second)
    series = second.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == first.SOPInstanceUID
    assert all("Version" not in text_of(r) for r in destination.reports(study) if r is not second)
    wait(lambda: "version 2 sent: " in node.said())
    assert send(whole[5:], node.port) == [0]  # of the other series: the one that changed before keeps its report
    wait(lambda: "version 3 sent: " in node.said())
    assert len(destination.reports(study)) == 4
    (third,) = (r for r in destination.reports(study) if "Version 3" in text_of(r))
    assert "Version 3 of this report, of 3 stored images; it replaces version 2, of 2." in text_of(third)
    expected = score(whole, tmp_path / "score")
    changed = [uid for uid, ds in expected.items() if ds.Modality != "SR"]
    got = {str(ds.SOPInstanceUID): ds for ds in destination.of(study)}
    assert all(bytes_of(got[uid]) == bytes_of(expected[uid]) for uid in changed) and len(changed) == 8
    assert set(destination.times.values()) == {1}


def test_a_corrected_instance_makes_a_version(node, destination, tmp_path):
    paths = write_study(tmp_path / "a", 4, 1)
    study = str(pydicom.dcmread(paths[0]).StudyInstanceUID)
    assert send(paths, node.port) == [0]
    wait(lambda: len(destination.reports(study)) == 1)
    ds = pydicom.dcmread(paths[0])
    ds.PatientSex = "O"
    assert send([_saved(ds, tmp_path / "corrected.dcm")], node.port) == [0]
    wait(lambda: len(destination.reports(study)) == 2)
    old, new = destination.reports(study)
    assert new.PatientSex == "O" != old.PatientSex and "Version 2 of this report, of 1 stored images" in text_of(new)


@pytest.mark.parametrize(("called", "calling"), [("OTHER", "PACS"), ("INVAD", "STRANGER")])
def test_wrong_titles_are_refused(node, tmp_path, called, calling):
    paths = write_study(tmp_path, 5, 1)
    assert send(paths, node.port, called, calling) == [None]
    wait(lambda: f"association refused from '{calling}'" in node.said())


def test_two_patients_of_one_study_are_not_mixed(node, destination, tmp_path):
    mine = write_study(tmp_path / "a", 6, 2)
    study = str(pydicom.dcmread(mine[0]).StudyInstanceUID)
    other = write_study(tmp_path / "b", 7, 1, study=study)
    assert send(mine[:1], node.port) == [0]
    assert send([*other, *mine[1:]], node.port) == [0xC100, 0]
    (report,) = wait(lambda: destination.reports(study))
    assert report.PatientID == "SECRET6"
    assert "refused with 0xC100" in node.said() and "another patient has a study of this" in node.said()


def test_what_cannot_be_meant_is_refused(node, tmp_path):
    from pynetdicom import AE
    from pynetdicom.presentation import build_context

    (path,) = write_study(tmp_path, 8, 1)
    ds = pydicom.dcmread(path)
    ae = AE(ae_title="PACS")
    association = ae.associate("127.0.0.1", node.port, [build_context(ds.SOPClassUID, "1.2.840.10008.1.2.1")],
                               ae_title="INVAD")  # fmt: skip
    statuses = []
    for change in ({"StudyInstanceUID": ""}, {"PatientName": "x" * 64}):
        for keyword, value in change.items():
            setattr(ds, keyword, value)
        statuses.append(association.send_c_store(ds).Status)
        ds.StudyInstanceUID = "1.2.3"
    association.release()
    assert statuses == [0xA900, 0]


def test_a_study_that_cannot_be_scored_is_set_aside(node, destination, tmp_path):
    structured = pydicom.dcmread(named("reportsi.dcm"))  # no image
    structured.PatientID, structured.StudyInstanceUID = "SECRET9", "1.2.826.9"
    odd = pydicom.dcmread(write_study(tmp_path / "a", 9, 1)[0])
    odd.PixelData, odd.StudyInstanceUID = odd.PixelData[:100], "1.2.826.10"
    paths = [_saved(structured, tmp_path / "sr.dcm"), _saved(odd, tmp_path / "odd.dcm")]
    assert send(paths, node.port) == [0, 0]
    good = write_study(tmp_path / "b", 10, 1)
    assert send(good, node.port) == [0]
    wait(lambda: destination.reports(str(pydicom.dcmread(good[0]).StudyInstanceUID)))
    wait(lambda: node.said().count("set aside") == 2)
    status = node.status()
    assert re.search(r"failed +2\n", status) and "set aside, until more of the study comes" in status
    assert (
        "object without an image" in status
        and "pixel data" in status
        and re.search(r"sent +\d", status)
        and not destination.of("1.2.826.10")
    )


@pytest.mark.skipif(not DCMTK, reason="DCMTK is not installed")
def test_tools_of_hospitals_send(node, destination, tmp_path):
    first, second = write_study(tmp_path / "a", 11, 2), write_study(tmp_path / "b", 12, 2)
    packed = pydicom.dcmread(named("MR_small_jp2klossless.dcm"))
    packed.PatientID, packed.StudyInstanceUID, packed.BodyPartExamined = "SECRET13", "1.2.826.13", "BRAIN"
    compressed = _saved(packed, tmp_path / "packed.dcm")
    where = ["127.0.0.1", str(node.port)]
    subprocess.run([DCMTK / "storescu", "-aec", "INVAD", *where, *first], check=True)
    subprocess.run([DCMTK / "dcmsend", "-aec", "INVAD", *where, *second], check=True)
    subprocess.run([DCMTK / "storescu", "-aec", "INVAD", "-xv", *where, compressed], check=True)
    for study in (str(pydicom.dcmread(first[0]).StudyInstanceUID), str(pydicom.dcmread(second[0]).StudyInstanceUID)):
        wait(lambda study=study: destination.reports(study))
    wait(lambda: destination.reports("1.2.826.13"))
    held = [p for p in node.storage.glob("studies/*/images/*") if pydicom.dcmread(p).PatientID == "SECRET13"]
    assert [pydicom.dcmread(p).file_meta.TransferSyntaxUID for p in held] == [packed.file_meta.TransferSyntaxUID]
    assert pydicom.dcmread(held[0]).PixelData == packed.PixelData


def test_a_kill_loses_nothing_and_doubles_nothing(tmp_path):
    with archive() as kept:
        node = Node(tmp_path / "storage", free_port(), f"ARCHIVE@127.0.0.1:{kept.port}", quiet=1)
        whole = write_study(tmp_path / "a", 20, 4)
        study = str(pydicom.dcmread(whole[0]).StudyInstanceUID)
        assert send(whole[:2], node.port) == [0, 0]
        node.kill()
        node.start()  # half a study must not look complete because its files are old
        assert send(whole[2:], node.port) == [0, 0]
        wait(lambda: "complete: version 1, of 4 images" in node.said())
        node.kill()  # while it is scored, or shortly before
        kept.status = 0xA700
        node.start()
        wait(lambda: "it answers 0xA700" in node.said())
        assert "it answers 0xA700" in node.status() and "1 to be sent" in node.status()
        kept.status = 0xB000
        wait(lambda: kept.reports(study))
        wait(lambda: "version 1 sent: 6 objects" in node.said())
        node.kill()
        times = dict(kept.times)  # twice for what was taken while others were declined still
        node.start()
        assert node.stop() == 0
        expected = score(whole, tmp_path / "score")
        assert kept.objects.keys() == expected.keys() and kept.times == times
        assert all(len(forms) == 1 for forms in kept.forms.values())
        assert all(bytes_of(kept.objects[uid]) == bytes_of(expected[uid]) for uid in expected)
        assert Counter(p.parent.name for p in node.storage.rglob("*.dcm"))["images"] == 8  # received, and of version 1


def test_results_wait_for_a_destination_that_is_away(tmp_path):
    port = free_port()
    node = Node(tmp_path / "storage", free_port(), f"ARCHIVE@127.0.0.1:{port}")
    paths = write_study(tmp_path / "a", 21, 1)
    assert send(paths, node.port) == [0]
    wait(lambda: "it cannot be reached; again in" in node.said())
    with archive(port) as kept:
        wait(lambda: kept.reports(str(pydicom.dcmread(paths[0]).StudyInstanceUID)))
    assert node.stop() == 0


def test_results_go_to_a_dicomweb_server_and_are_read_back(tmp_path, server):  # noqa: F811
    node = Node(tmp_path / "storage", free_port(), server.root)
    paths = write_study(tmp_path / "a", 22, 2)
    server.refused = "SR"
    assert send(paths, node.port) == [0, 0]
    wait(lambda: "the server refuses it, failure reason 0xa700" in node.status())
    server.refused = None
    wait(lambda: "version 1 sent: 4 objects" in node.said())
    assert node.stop() == 0
    expected = score(paths, tmp_path / "score")
    assert server.stored.keys() == expected.keys() and server.read_back >= 4
    assert all(bytes_of(server.stored[uid]) == bytes_of(expected[uid]) for uid in expected)


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")
def test_tls_asks_both_sides_for_certificates(tmp_path):
    for name in ("node", "stranger"):
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
             "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", tmp_path / f"{name}.key", "-out",
             tmp_path / f"{name}.pem"], check=True, capture_output=True,
        )  # fmt: skip
    certificate, key = tmp_path / "node.pem", tmp_path / "node.key"
    credentials = Credentials(certificate, key, certificate)
    paths = write_study(tmp_path / "a", 23, 1)
    with archive(tls=credentials.server()) as kept:
        given = ["--tls-cert", certificate, "--tls-key", key, "--tls-ca", certificate, "--forward-tls"]
        node = Node(tmp_path / "storage", free_port(), f"ARCHIVE@127.0.0.1:{kept.port}", *given)
        other = Credentials(tmp_path / "stranger.pem", tmp_path / "stranger.key", certificate).client()
        assert send(paths, node.port) == send(paths, node.port, tls=(other, "127.0.0.1")) == [None]
        with socket.create_connection(("127.0.0.1", node.port)):  # one who says nothing keeps nobody out
            assert send(paths, node.port, tls=(credentials.client(), "127.0.0.1")) == [0]
        wait(lambda: kept.reports(str(pydicom.dcmread(paths[0]).StudyInstanceUID)))
        assert node.stop() == 0


def test_words_that_cannot_be_meant(tmp_path, capsys):
    cases = (
        ([], "--forward is missing"),
        (["--forward", "PACS@host"], "nobody may send: name the AE titles that may, by --allow AET"),
        (["--forward", "PACS@host", "--allow", "A"], "a destination is AET@HOST:PORT, or the DICOMweb root"),
        (["--forward", "P@h:1", "--allow", "A" * 17], "is no AE title: 1 to 16 characters"),
        (["--forward", "P@h:1", "--allow", "A", "--quiet", "0"], "--quiet is 0: seconds, more than 0"),
        (["--forward", "P@h:1", "--allow", "A", "--tls-ca", "x"], "TLS needs --tls-cert, --tls-key and --tls-ca"),
        (
            ["--forward", "P@h:1", "--allow", "A", *(f"--tls-{f}=gone" for f in ("cert", "key", "ca"))],
            "no such file: gone",
        ),
        (["--forward", "P@h:1", "--allow", "A", "--dicom_out", "[]"], "dicom_out names no object"),
        (["--forward", "https://u:secret@h/web", "--allow", "A"], "must hold no user and password"),
        (["--status"], "no node has listened with"),
    )
    for number, (words, message) in enumerate(cases):
        assert main(["listen", "--storage", str(tmp_path / str(number)), *words]) == 2
        said = capsys.readouterr().err
        assert message in said and "secret" not in said, said
