"""Studies by DICOMweb from a small server that misbehaves on demand; tests/pacs has a real one."""

import copy
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pydicom
import pytest
from dicom_results import make_series, named, result_of
from pydicom.uid import ImplicitVRLittleEndian, JPEGLSLossless, RLELossless, generate_uid

from invad_med.archive import dicomweb as web
from invad_med.bundle import root
from invad_med.inference.inputs import list_inputs
from invad_med.readers.sources import read_slice, scan
from invad_med.writers.dicom.export import KINDS, DicomWriter

pytestmark = pytest.mark.filterwarnings("ignore")
STUDY, SERIES = generate_uid(), generate_uid()
SECRET, TOKEN, EDGE = "ZZQ", "sesame-4711", b"edge-of-a-part"
REPOSITORY = Path(__file__).parents[2]


class Handler(BaseHTTPRequestHandler):
    """QIDO-RS in pages of two, WADO-RS, STOW-RS; ``server`` holds what it knows and how it misbehaves."""

    def log_message(self, *_):
        pass

    def answer(self, code, body, kind="application/dicom+json; charset=utf-8"):
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        url = urlsplit(self.path)
        token = self.server.token
        if self.server.status or (token and self.headers.get("Authorization") != f"Bearer {token}"):
            self.answer(self.server.status or 401, b"who is there?", "text/plain")
        elif url.path.endswith("/instances"):
            start = int(parse_qs(url.query).get("offset", ["0"])[0])
            if "SOPInstanceUID" in parse_qs(url.query) and self.server.stored:
                held = self.server.stored.values()
                return self.answer(200, json.dumps([json.loads(ds.to_json()) for ds in held]).encode())
            rows = [{"00080018": {"vr": "UI", "Value": [uid]}, "0020000E": {"vr": "UI", "Value": [SERIES]}}
                    for uid in list(self.server.images)[start : start + 2]]  # fmt: skip
            self.answer(200, json.dumps(rows).encode())
        elif "/instances/" in url.path:
            self.server.asked.append(self.headers["Accept"])
            if self.server.hang:
                self.server.hang.wait(60)
            uid = url.path.rsplit("/", 1)[1]
            if uid not in self.server.images:
                return self.hand_back(uid, url.path)
            content = self.server.images[uid]
            if content is None:
                return self.answer(500, b"", "text/plain")
            body = b"--%s\r\nContent-Type: application/dicom\r\n\r\n" % EDGE + content + b"\r\n--%s--" % EDGE
            self.answer(200, body, f'multipart/related; type="application/dicom"; boundary={EDGE.decode()}')
        else:
            self.answer(200, b"[]")

    def hand_back(self, uid, path):
        """Answer with an object that was stored, as the server changed it."""
        self.server.read_back += 1
        ds = self.server.stored.get(uid)
        if self.server.closed or ds is None or f"/series/{ds.SeriesInstanceUID}/" not in path:
            return self.answer(self.server.closed or 404, b"", "text/plain")
        content = BytesIO()
        (self.server.changes or (lambda ds: ds))(copy.deepcopy(ds)).save_as(content, enforce_file_format=True)
        body = b"--%s\r\nContent-Type: application/dicom\r\n\r\n" % EDGE + content.getvalue() + b"\r\n--%s--" % EDGE
        self.answer(200, body, f'multipart/related; type="application/dicom"; boundary={EDGE.decode()}')

    def do_POST(self):
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers["Content-Length"]))
        head = b"Content-Type: " + self.headers["Content-Type"].encode() + b"\r\n\r\n"
        (part,) = message_from_bytes(head + body.lstrip(b"\r\n")).get_payload()
        ds = pydicom.dcmread(BytesIO(part.get_payload(decode=True)))
        item = {"00081155": {"vr": "UI", "Value": [ds.SOPInstanceUID]}}
        if ds.Modality == self.server.refused:
            item["00081197"] = {"vr": "US", "Value": [0xA700]}
            self.answer(409, json.dumps({"00081198": {"vr": "SQ", "Value": [item]}}).encode())
        elif self.server.says_duplicate and ds.SOPInstanceUID in self.server.stored:
            item["00081197"] = {"vr": "US", "Value": [0x0111]}
            self.answer(409, json.dumps({"00081198": {"vr": "SQ", "Value": [item]}}).encode())
        else:  # as Orthanc does, the first of a UID is kept, and every one confirmed
            self.server.stored.setdefault(ds.SOPInstanceUID, ds)
            self.answer(200, json.dumps({"00081199": {"vr": "SQ", "Value": [item]}}).encode())


@pytest.fixture
def server():
    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.images, found.stored, found.asked = {}, {}, []
    found.token = found.status = found.hang = found.refused = None
    found.read_back, found.closed, found.changes, found.says_duplicate = 0, None, None, False
    found.root = f"http://127.0.0.1:{found.server_port}/dicom-web"
    for number in range(3):
        ds = pydicom.dcmread(named("MR_small.dcm"))
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.PatientName, ds.PatientID = STUDY, SERIES, f"{SECRET}^Jo", SECRET
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        ds.BodyPartExamined = "HEAD"
        ds.ImagePositionPatient = [0, 0, 5 * number]
        if number == 0:
            ds.compress(JPEGLSLossless, generate_instance_uid=False)
        content = BytesIO()
        ds.save_as(content)
        found.images[str(ds.SOPInstanceUID)] = content.getvalue()
    thread = threading.Thread(target=found.serve_forever, daemon=True)
    thread.start()
    yield found
    if found.hang:
        found.hang.set()
    found.shutdown()
    found.server_close()


@pytest.fixture
def private(tmp_path, monkeypatch):
    """Where fetched images go."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def inputs(address):
    return list_inputs(address, ["brain"], "brain")


@pytest.mark.parametrize("rest", ["", f"/series/{SERIES}", "/"], ids=["study", "series", "slash"])
def test_a_study_is_read_as_from_a_folder_and_leaves_nothing(server, private, rest):
    found = inputs(f"{server.root}/studies/{STUDY}{rest}")
    (folder,) = private.iterdir()
    assert folder.stat().st_mode & 0o077 == 0
    (source,) = {i.source for i in found.items}
    assert source.n_slices == 3 and not found.problems
    assert read_slice(source, 0).pixels.max() == pydicom.dcmread(named("MR_small.dcm")).pixel_array.max()
    syntaxes = [pydicom.dcmread(p).file_meta.TransferSyntaxUID for p in source.paths]
    assert syntaxes[0] == JPEGLSLossless and all("transfer-syntax=*" in a for a in server.asked)
    assert not any(uid in str(p) for p in folder.rglob("*") for uid in (*server.images, STUDY, SERIES, SECRET))
    del found
    assert not list(private.iterdir())


def test_one_instance_that_fails_is_named_and_stops_no_other(server, private):
    first = next(iter(server.images))
    server.images[first] = None
    found = inputs(f"{server.root}/studies/{STUDY}")
    assert len(found.items) == 2
    (problem,) = found.problems
    assert problem.reason == "not fetched: the server answers 500 (Internal Server Error)"
    assert first not in problem.path.name and problem.path.parent == found.base
    (alone,) = inputs(f"{server.root}/studies/{STUDY}/series/{SERIES}/instances/{list(server.images)[1]}").items
    assert alone.source.n_slices == 1


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, r"cannot be asked for the study: the server answers 401 \(Unauthorized\); name user and password in "),
        (403, r"403 \(Forbidden\); name user .* in ~/.netrc or a token in INVAD_SOURCE_TOKEN"),
        (404, r"404 \(Not Found\); is the address right\?"),
    ],
)
def test_a_server_that_refuses_is_quoted(server, private, status, message):
    server.status = status
    with pytest.raises(ConnectionError, match=message) as caught:
        inputs(f"{server.root}/studies/{STUDY}")
    assert STUDY not in str(caught.value) and not list(private.iterdir())


def test_what_cannot_be_fetched_at_all_is_an_error(server, private):
    address = f"{server.root}/studies/{STUDY}"
    server.images = dict.fromkeys(server.images)
    with pytest.raises(ConnectionError, match=r"none of 3 images\. not fetched: the server answers 500"):
        inputs(address)
    server.images = {}
    with pytest.raises(ConnectionError, match="has no image of that study"):
        inputs(address)
    server.shutdown()
    server.server_close()
    with pytest.raises(ConnectionError, match="the server cannot be reached"):
        inputs(address)
    with pytest.raises(ConnectionError, match=r"destination 127.0.0.1:\d+ cannot be used: the server cannot"):
        web.Destination(server.root)
    assert not list(private.iterdir())


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://host/dicom-web", "names a whole server, not a study; expected is https://HOST/dicom-web/studies/UID"),
        ("http://host/dicom-web/studies", "names a whole server"),
        ("http://host/dicom-web/patients/1.2", "names a whole server"),
        ("http://host/dicom-web/studies/1.2/metadata", "not the address of a DICOMweb study"),
        ("http://host/viewer?study=1.2", "not the address of a DICOMweb study"),
        ("https://jo:ZZQ@host/dicom-web/studies/1.2", "must hold no user and password, they end up in logs"),
    ],
)
def test_other_addresses_are_refused_with_the_form_expected(address, message):
    with pytest.raises(ValueError, match=message) as caught:
        inputs(address)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("end", ["studies", "studies/1.2"])
def test_a_destination_is_a_whole_server(end):
    with pytest.raises(ValueError, match="the destination is the DICOMweb root of a server"):
        web.Destination(f"http://host/dicom-web/{end}")


def test_a_token_is_sent_and_a_wrong_one_stops_before_anything_is_scored(server, private, monkeypatch):
    server.token = TOKEN
    monkeypatch.setenv(web.DESTINATION_TOKEN, "another")
    monkeypatch.setenv(web.SOURCE_TOKEN, TOKEN)
    assert len(inputs(f"{server.root}/studies/{STUDY}").items) == 3
    with pytest.raises(ConnectionError, match=r"401 \(Unauthorized\); .* a token in INVAD_DESTINATION_TOKEN"):
        web.Destination(server.root)


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    """Every kind of object about a CT of four slices, by file name."""
    folder = tmp_path_factory.mktemp("objects")
    source, _ = make_series(folder / "in", np.random.default_rng(0).integers(0, 2000, (4, 32, 24)))
    return {p.name: p for p in DicomWriter(folder, KINDS)(result_of(source)).written}


def another(path, folder, change):
    """Write an object of the same UID that is not the same, and return its path."""
    ds = pydicom.dcmread(path)
    change(ds)
    folder.mkdir(exist_ok=True)
    ds.save_as(folder / path.name, enforce_file_format=True)
    return folder / path.name


def bend(keyword):
    """Return what changes one byte of an element."""

    def change(ds):
        content = bytearray(ds[keyword].value)
        content[-2] ^= 1
        ds[keyword].value = bytes(content)

    return change


def reworded(ds):
    ds.DerivationDescription = ds.DerivationDescription.replace("threshold", "limit")


def rescored(ds):
    found = next(e for item in ds.iterall() if item.keyword == "MeasuredValueSequence" for e in item.value)
    found.NumericValue = float(found.NumericValue) + 0.001


def moved(ds):
    ds.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient[2] += 0.5


def less(ds):
    del ds.GraphicAnnotationSequence[1]


def placed_elsewhere(ds):
    ds.SeriesInstanceUID = generate_uid()


OTHERS = [
    ("parametric_map.dcm", bend("FloatPixelData")),
    ("segmentation_binary.dcm", bend("PixelData")),
    ("segmentation_fractional.dcm", bend("PixelData")),
    ("secondary_capture.dcm", bend("PixelData")),
    ("overlay_s001.dcm", bend(0x60003000)),
    ("overlay_s001.dcm", reworded),
    ("parametric_map.dcm", moved),
    ("report.dcm", rescored),
    ("presentation_state.dcm", less),
    ("blending.dcm", lambda ds: setattr(ds.BlendingDisplaySequence[0], "RelativeOpacity", 0.25)),
    ("report.dcm", placed_elsewhere),
]


@pytest.mark.parametrize(("name", "change"), OTHERS, ids=lambda v: v if isinstance(v, str) else "")
def test_an_object_that_the_archive_discards_is_not_stored(name, change, server, objects, tmp_path):
    web.Destination(server.root).store([another(objects[name], tmp_path / "earlier", change)])
    archive = web.Destination(server.root)
    archive.store(objects.values())
    assert archive.stored == len(objects) - 1
    ((reason, count),) = archive.failed.items()
    assert count == 1 and "keeps another object that it held under the same UID; remove that one there" in reason


def made_later(ds):
    for element in ds.iterall():
        if element.VR in ("DA", "TM", "DT") and element.value:
            element.value = {"DA": "20990101", "TM": "101112", "DT": "20990101101112"}[element.VR]


def corrected(ds):
    ds.PatientName, ds.PatientID, ds.AccessionNumber, ds.StudyDescription = "Doe^Jo", "7", "A1", "corrected"
    ds.RetrieveAETitle, ds.InstitutionName, ds.StudyID = "PACS", "Here", "9"
    ds.add_new(0x00091001, "LO", "theirs")
    changed = pydicom.Dataset()
    changed.ReasonForTheAttributeModification = "COERCE"
    ds.OriginalAttributesSequence, ds.BodyPartExamined = [changed], "CHEST"
    return ds


def compressed(ds):
    if "PixelData" in ds and ds.BitsAllocated > 1:
        ds.compress(RLELossless, generate_instance_uid=False)
    return ds


def implicit(ds):
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    again = pydicom.Dataset(ds)
    again.file_meta = ds.file_meta
    return again


@pytest.mark.parametrize("changes", [None, corrected, compressed, implicit])
def test_what_the_archive_touches_is_stored_all_the_same_and_once_more(changes, server, objects, tmp_path, caplog):
    server.changes = changes
    for paths in (objects.values(), [another(p, tmp_path / "later", made_later) for p in objects.values()]):
        archive = web.Destination(server.root)
        archive.store(paths)
        assert (archive.stored, archive.failed) == (len(objects), {})
    assert server.read_back == 2 * len(objects) and not caplog.records


def test_one_that_the_archive_compresses_is_compared_as_decoded(server, objects, tmp_path):
    path = objects["secondary_capture.dcm"]
    web.Destination(server.root).store([another(path, tmp_path / "earlier", bend("PixelData"))])
    server.changes, archive = compressed, web.Destination(server.root)
    archive.store([path])
    assert archive.stored == 0 and len(archive.failed) == 1


@pytest.mark.parametrize(("status", "asked"), [(401, 1), (403, 1), (405, 1), (501, 1), (404, 11), (500, 11), (406, 11)])
def test_an_archive_that_hands_nothing_out_is_believed_and_that_is_said_once(server, objects, caplog, status, asked):
    server.closed, archive = status, web.Destination(server.root)
    server.stored["1.2.3"] = pydicom.dcmread(objects["report.dcm"])  # so that it can be searched
    with caplog.at_level(logging.WARNING):
        archive.store(objects.values())
        archive.store(list(objects.values())[:1])
    assert (archive.stored, archive.failed) == (len(objects) + 1, {})
    assert len(objects) == 11 and server.read_back == asked + (asked > 1)
    (record,) = caplog.records
    assert record.getMessage().startswith(f"not confirmed: {archive.host} says that it stored objects, but they cannot")
    assert f"the server answers {status} (" in record.getMessage()
    assert not any(str(pydicom.dcmread(p).SOPInstanceUID) in caplog.text for p in objects.values())


def test_an_archive_that_refuses_a_uid_that_it_holds_is_asked_what_that_is(server, objects, tmp_path):
    server.says_duplicate = True
    path = another(objects["report.dcm"], tmp_path / "earlier", rescored)
    reasons = []
    for sent in (path, path, objects["report.dcm"]):
        archive = web.Destination(server.root)
        archive.store([sent])
        reasons.append("".join(archive.failed))
    assert reasons[:2] == ["", ""] and "keeps another object" in reasons[2]
    server.closed, archive = 403, web.Destination(server.root)
    archive.store([path])
    (reason,) = archive.failed
    assert reason == "the server refuses it, failure reason 0x0111: it holds an object of the same UID"


def test_a_terminated_run_leaves_no_images(server, tmp_path):
    server.hang = threading.Event()
    code = (
        "import sys; from invad_med.inference.inputs import list_inputs; list_inputs(sys.argv[1], ['brain'], 'brain')"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, f"{server.root}/studies/{STUDY}"]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    for _ in range(600):
        if server.asked:
            break
        time.sleep(0.1)
    assert list(tmp_path.iterdir())
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    assert not list(tmp_path.iterdir())


def test_the_command_fetches_scores_and_stores(server, tmp_path):
    server.refused, server.token = "SR", TOKEN
    server.images[next(iter(server.images))] = None
    private = tmp_path / "tmp"
    private.mkdir()
    config = str(Path(root()) / "configs" / "inference.json")
    command = [
        sys.executable, "-m", "monai.bundle", "run", "--config_file", config, "--output_dir", str(tmp_path / "out"),
        "--dataset_dir", f"{server.root}/studies/{STUDY}", "--dicom_destination", server.root, "--gate", "False",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(private)}
    environment |= {web.SOURCE_TOKEN: TOKEN, web.DESTINATION_TOKEN: TOKEN}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    said = done.stdout + done.stderr
    assert done.returncode == 3, said[-3000:]
    written = list((tmp_path / "out" / "dicom").rglob("*.dcm"))
    assert len(written) == 4  # two overlays, a map, a report
    assert f"dicom (4 objects, 3 stored on 127.0.0.1:{server.server_port})" in said
    assert "1 DICOM object(s) not stored on 127.0.0.1" in said and "failure reason 0xa700" in said
    assert "2 slices scored" in said and "1 not read" in said and "Traceback" not in said
    for path in written:
        meant = pydicom.dcmread(path)
        found = server.stored.get(meant.SOPInstanceUID)
        assert (found is None) == (meant.Modality == "SR")
        assert found is None or found == meant
    assert not [p for p in private.iterdir() if not p.name.startswith("torchinductor")]
    everything = [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
    for secret in (SECRET, TOKEN, SERIES, *server.images):
        assert secret not in said and not any(secret in str(p) for p in everything)
        assert not any(secret.encode() in p.read_bytes() for p in everything if p.suffix in (".csv", ".json"))

    again = tmp_path / "again"
    again.mkdir()
    for number, path in enumerate([*written, named("MR_small.dcm")]):
        (again / f"{number}.dcm").write_bytes(path.read_bytes())
    found = scan(again)
    assert (len(found.sources), len(found.problems), found.results) == (1, 0, 4)
