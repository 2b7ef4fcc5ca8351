"""A PACS of one's own on loopback: Orthanc with DICOMweb, and the three requests that tests make of it."""

import json
import shutil
import socket
import subprocess
import time
import urllib.request
from contextlib import contextmanager
from email import message_from_bytes
from io import BytesIO
from pathlib import Path

import pydicom

EDGE = b"edge-of-a-part-7f3a91c0d2"
PLUGINS = Path("/usr/share/orthanc/plugins")
MISSING = (
    "Orthanc is not installed"
    if not shutil.which("Orthanc")
    else "orthanc-dicomweb is not installed" * (not list(PLUGINS.glob("*OrthancDicomWeb*")))
)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def orthanc(folder, **settings):
    """Run an Orthanc that only this machine can reach, with its files in ``folder``; give its DICOMweb root."""
    config = {
        "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"), "Plugins": [str(PLUGINS)],
        "HttpPort": free_port(), "DicomPort": free_port(), "RemoteAccessAllowed": False, "AuthenticationEnabled": False,
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    } | settings  # fmt: skip
    port = config["HttpPort"]
    (folder / "config.json").write_text(json.dumps(config))
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(["Orthanc", str(folder / "config.json")], stdout=log, stderr=log)
    root = f"http://127.0.0.1:{port}/dicom-web"
    try:
        for _ in range(120):
            try:
                get(f"{root}/studies")
                break
            except OSError:
                assert process.poll() is None, (folder / "log").read_text()[-2000:]
                time.sleep(0.5)
        yield root
    finally:
        process.terminate()
        process.wait(20)


def get(url, accept="application/dicom+json"):
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": accept}), timeout=60) as answer:
        return answer.headers["Content-Type"], answer.read()


def stow(root, paths):
    """STOW-RS (PS3.18 10.5)."""
    body = b"".join(b"--%s\r\nContent-Type: application/dicom\r\n\r\n" % EDGE + p.read_bytes() + b"\r\n" for p in paths)
    kind = 'multipart/related; type="application/dicom"; boundary=' + EDGE.decode()
    request = urllib.request.Request(
        f"{root}/studies", body + b"--%s--" % EDGE, {"Content-Type": kind, "Accept": "application/dicom+json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        said = json.loads(answer.read())
    stored, failed = (said.get(tag, {}).get("Value", []) for tag in ("00081199", "00081198"))
    assert len(stored) == len(paths) and not failed, failed


def retrieve(root, study):
    """WADO-RS of a study (PS3.18 10.4): its datasets by SOP Instance UID."""
    kind, body = get(f"{root}/studies/{study}", 'multipart/related; type="application/dicom"')
    parts = message_from_bytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body).get_payload()
    found = [pydicom.dcmread(BytesIO(p.get_payload(decode=True))) for p in parts]
    return {str(ds.SOPInstanceUID): ds for ds in found}
