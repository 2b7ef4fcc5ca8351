"""`python -m invad_med process` by the contract of mercure and of MONAI Application Packages."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from io import BytesIO

import pydicom
import pytest
from dicom_results import named
from node_made import NAME, REPOSITORY, SCORING, timeless, write_study

from invad_med import __version__
from invad_med.__main__ import main

CONTAINER = REPOSITORY / "bundles" / "invad" / "container"
VARIABLES = ("MERCURE_IN_DIR", "MERCURE_OUT_DIR", "MONAI_INPUTPATH", "MONAI_OUTPUTPATH", "HOLOSCAN_INPUT_PATH",
             "HOLOSCAN_OUTPUT_PATH")  # fmt: skip
SETTINGS = {"gate": False, "device": "cpu"}  # noise is unlike any image
SECRETS = (NAME, "Doe", "Jane", "ACC4711", "1.2.826", "Traceback")


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def mercure(folder, seed, slices=2, series=1, settings=SETTINGS, **study):
    """Lay out what mercure hands to a module: ``in`` with ``SERIES#FILE.dcm`` and task.json, an empty ``out``."""
    images, results = folder / "in", folder / "out"
    for path in write_study(folder / "sent", seed, slices, series=series, **study):
        ds = pydicom.dcmread(path)
        images.mkdir(exist_ok=True)
        os.rename(path, images / f"{ds.SeriesInstanceUID}#{ds.PatientName}-{path.name}")
    results.mkdir()
    task(images, settings)
    return images, results


def task(images, settings, **step):
    """Write task.json as mercure does, which holds who the patient is."""
    info = {
        "action": "both", "uid": "1.2.826.4", "uid_type": "series", "triggered_rules": {"brain": True},
        "applied_rule": "brain", "patient_name": NAME, "mrn": "SECRET0", "acc": "ACC4711",
        "sender_address": "127.0.0.1", "mercure_version": "0.4.0", "mercure_appliance": "m", "mercure_server": "m",
    }  # fmt: skip
    process = {"module_name": "invad", "module_config": {"docker_tag": "invad-med"}, "settings": settings,
               "retain_input_images": False, "output": None, **step}  # fmt: skip
    dispatch = {"target_name": ["pacs"], "status": {}, "retries": None, "next_retry_at": None}
    content = {"info": info, "id": "7", "dispatch": dispatch, "process": process, "study": {}, "nomad_info": None}
    images.mkdir(parents=True, exist_ok=True)
    (images / "task.json").write_text(json.dumps(content))


def objects(results):
    """Return what mercure would send, ``*.dcm`` of the folder itself, by UID; nothing else but result.json is there."""
    found = list(results.glob("*.dcm"))
    assert {*found, results / "result.json"} == set(results.iterdir())
    made = [pydicom.dcmread(path) for path in found]
    assert [path.name for path in found] == [f"{ds.SeriesInstanceUID}#{ds.SOPInstanceUID}.dcm" for ds in made]
    return {str(ds.SOPInstanceUID): ds for ds in made}


def without_times(found):
    """Return objects as bytes, but for the times of their making."""
    result = {}
    for uid, ds in found.items():
        buffer = BytesIO()
        timeless(ds).save_as(buffer)
        result[uid] = buffer.getvalue()[144 + ds.file_meta.FileMetaInformationGroupLength :]
    return result


def result_of(results):
    return json.loads((results / "result.json").read_text())


def silent(said):
    assert not [word for word in SECRETS if word in said] and not re.search(r"SECRET\d", said), said


def failed(capsys, images, results, message, *words, status=2):
    """Run what must fail: its status, its message on standard error and in result.json, and nothing to be sent."""
    before = set(results.glob("*.dcm"))
    assert main(["process", str(images), str(results), *words]) == status
    said = capsys.readouterr()
    content = (results / "result.json").read_text()
    assert message in said.err and message in json.loads(content)["reason"] and result_of(results)["status"] == "failed"
    assert set(results.glob("*.dcm")) == before and not list(results.glob(".*"))
    silent(said.out + said.err.replace(str(images), "") + content)


def test_mercure_runs_it(tmp_path):
    images, results = mercure(tmp_path, 1, series=2)
    written = sorted(path.name for path in images.iterdir())
    environment = os.environ | {"MERCURE_IN_DIR": str(images), "MERCURE_OUT_DIR": str(results),
                                "MONAI_INPUTPATH": "gone", "OMP_NUM_THREADS": "1",
                                "PYTHONPATH": str(REPOSITORY)}  # fmt: skip
    command = [sys.executable, "-m", "invad_med", "process"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    silent(done.stdout + done.stderr + (results / "result.json").read_text())
    assert "2 of 2 series above threshold; slices: 4 scored; 8 DICOM objects. RESEARCH USE ONLY" in done.stdout
    made = objects(results)
    sources = {str(pydicom.dcmread(path).StudyInstanceUID) for path in images.glob("*.dcm")}
    assert {str(ds.StudyInstanceUID) for ds in made.values()} == sources and len(made) == 8
    assert {str(ds.PatientID) for ds in made.values()} == {"SECRET1"}
    assert sorted(ds.Modality for ds in made.values()) == ["MR"] * 4 + ["OT"] * 2 + ["SR"] * 2
    content = result_of(results)
    assert content["status"] == "done" and content["objects"] == 8 and content["slices"] == {"scored": 4}
    assert content["__mercure_notification"] == {"text": done.stdout.strip(), "requested": True}
    assert content["version"] == __version__ and sorted(path.name for path in images.iterdir()) == written

    expected = tmp_path / "score"
    given = ["--output_dir", str(expected), "--deterministic_uids", *SCORING, "--report", "false"]
    assert main(["score", str(images), *given]) == 0  # one pipeline
    scored = {str(ds.SOPInstanceUID): ds for ds in map(pydicom.dcmread, expected.rglob("*.dcm"))}
    first = without_times(made)
    assert first == without_times(scored)
    assert main(["process", str(images), str(results)]) == 0  # again, into the same folder
    assert without_times(objects(results)) == first


def test_settings_are_those_of_score_and_the_command_line_goes_first(tmp_path, monkeypatch):
    settings = {**SETTINGS, "dicom_out": ["report"], "false_positive_rate": 0.5, "modality": "brain", "engine": None}
    images, results = tmp_path / "in", tmp_path / "out"
    task(images, settings)
    (images / "1.2#scan.dcm").write_bytes(named("MR_small_jp2klossless.dcm").read_bytes())
    monkeypatch.setenv("MONAI_INPUTPATH", str(images))  # as a MONAI Application Package
    monkeypatch.setenv("MONAI_OUTPUTPATH", str(results))
    assert main(["process"]) == 0
    (report,) = objects(results).values()
    assert report.Modality == "SR" and report.PatientName == "CompressedSamples^MR1"
    assert main(["process", str(images), str(tmp_path / "other"), "--dicom_out", "[overlay]"]) == 0
    (overlay,) = objects(tmp_path / "other").values()
    assert overlay.Modality == "MR"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"modalty": "brain"}, "process.settings in task.json has 'modalty', which is no setting: did you mean modal"),
        ({"output_dir": "x"}, "has 'output_dir', which is no setting: there are ckpt_path, modality"),
        ({"false_positive_rate": "often"}, "--false_positive_rate is 'often', which is no number"),
        ({"false_positive_rate": 3}, "false_positive_rate=3 must lie between 0 and 1"),
        ({"gate": "perhaps"}, "--gate is 'perhaps': a switch is true or false"),
        ({"modality": 3}, "modality is 3, not a name"),
        ({"modality": "$print()"}, "--modality begins with $"),
        ({"dicom_out": ["pdf"]}, "dicom_out holds 'pdf'; object types are overlay"),
        ({"dicom_out": []}, "dicom_out names no object"),
        ({"anonymize": True}, "needs a secret of your own"),
        (["modality"], "process.settings in task.json is no object"),
    ],
)
def test_settings_that_cannot_be_meant(tmp_path, capsys, monkeypatch, settings, message):
    monkeypatch.delenv("INVAD_UID_SECRET", raising=False)
    task(tmp_path / "in", settings)
    failed(capsys, tmp_path / "in", tmp_path / "out", message)


def test_tasks_that_are_none(tmp_path, capsys):
    images = tmp_path / "in"
    images.mkdir()
    for content, message in (
        (f'{{"info": "{NAME}"', "task.json is no JSON"),
        ('{"process": [{}, {}]}', "process in task.json has 2 steps"),
        ("[]", "task.json has no process"),
        ('{"settings": {"anonymize": true}}', "task.json has no process"),
        ('{"process": "brain"}', "process in task.json is no object"),
    ):
        (images / "task.json").write_text(content)
        failed(capsys, images, tmp_path / "out", message)


def test_no_image(tmp_path, capsys):
    images, results = tmp_path / "Doe^Jane", tmp_path / "out"
    failed(capsys, images, results, "the folder of images is not there, or is no folder")
    task(images, SETTINGS)
    failed(capsys, images, results, "no image found in the folder of images (1 .json file)")
    (images / "1#Doe.dcm").write_bytes(named("reportsi.dcm").read_bytes())
    failed(capsys, images, results, "nothing in the folder of images can be scored")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MERCURE_IN_DIR", str(images))
        assert main(["process"]) == 2
    assert "OUT is missing: give IN and OUT, or set MERCURE_OUT_DIR" in capsys.readouterr().err


def test_images_of_another_kind_are_not_sent(tmp_path, capsys):
    images, results = mercure(tmp_path, 3, slices=1, settings={"device": "cpu"})
    failed(capsys, images, results, "no object can be made: unlike the images that the model for Brain MRI was trained")


@pytest.mark.parametrize("meta", [True, False], ids=["with file meta information", "without"])
def test_two_patients_are_not_mixed(tmp_path, capsys, meta):
    images, results = mercure(tmp_path, 4)
    study = str(pydicom.dcmread(next(images.glob("*.dcm"))).StudyInstanceUID)
    for path in write_study(tmp_path / "other", 5, 1, study=study):
        (images / path.name).write_bytes(path.read_bytes()[0 if meta else 132 :])
    failed(capsys, images, results, "images of one study name several patients")


def test_studies_of_two_patients_and_files_that_cannot_be_read(tmp_path):
    images, results = mercure(tmp_path, 6, slices=1)
    (extra,) = write_study(tmp_path / "other", 7, 1)
    os.rename(extra, images / "b.dcm")
    damaged = pydicom.dcmread(write_study(tmp_path / "damaged", 8, 1)[0])
    damaged.PixelData = damaged.PixelData[:100]
    damaged.save_as(images / "c.dcm")
    assert main(["process", str(images), str(results)]) == 0
    made = objects(results).values()
    pairs = {(str(ds.PatientID), str(ds.StudyInstanceUID)) for ds in made}
    assert {patient for patient, _ in pairs} == {"SECRET6", "SECRET7"} and len(pairs) == 2
    content = result_of(results)
    assert content["slices"] == {"scored": 2, "unreadable": 1} and "pixel data" in content["reasons"][0]
    assert content["studies"] == 3 and content["studies_withheld"] == 1


def test_one_folder_for_both_is_refused(tmp_path, capsys):
    images, _ = mercure(tmp_path, 9, slices=1)
    before = sorted(path.name for path in images.iterdir())
    for results in (images, images / "out", tmp_path):
        assert main(["process", str(images), str(results)]) == 2
        assert "IN and OUT are the same folder, or one lies in the other" in capsys.readouterr().err
    assert sorted(path.name for path in images.iterdir()) == before


def test_a_folder_that_holds_other_files_is_refused(tmp_path, capsys):
    images, results = mercure(tmp_path, 9, slices=1)
    (other,) = write_study(results, 10, 1)
    failed(capsys, images, results, "the folder of results holds 1 other .dcm files, which would be sent as well")
    assert other.is_file()


@pytest.mark.parametrize("at", [1, 3])
def test_a_full_disk_leaves_nothing(tmp_path, capsys, monkeypatch, at):
    images, results = mercure(tmp_path, 11, slices=1)
    replace, calls = os.replace, []

    def full(source, target):
        if results in target.parents:
            calls.append(target)
            if len(calls) == at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    failed(capsys, images, results, "results not written (No space left on device)", status=3)


def test_a_killed_run_leaves_no_result(tmp_path):
    images, results = mercure(tmp_path, 12, slices=3)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "invad_med", "process", str(images), str(results)]
    running = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    while not list(tmp_path.glob("invad-*")):
        time.sleep(0.02)
        assert running.poll() is None
    running.send_signal(signal.SIGTERM)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 128 + signal.SIGTERM and b"Traceback" not in said
    assert not list(results.iterdir()) and not list(tmp_path.glob("invad-*"))


def test_the_container_does_what_the_documents_say():
    lines = (CONTAINER / "Containerfile").read_text().replace("\\\n", "").splitlines()
    install = re.search(r"^(pip install \S+ \S+) && ", (REPOSITORY / "README.md").read_text(), re.MULTILINE)[1]
    assert f"RUN {install}" in lines
    (entry,) = (json.loads(line.partition(" ")[2]) for line in lines if line.startswith("ENTRYPOINT "))
    application, package = (json.loads((CONTAINER / name).read_text()) for name in ("app.json", "pkg.json"))
    assert " ".join(entry) == application["command"] == "python -m invad_med process"
    assert application["version"] == package["version"] == __version__
    assert f'org.opencontainers.image.version="{__version__}"' in " ".join(lines)
    (user,) = (number for number, line in enumerate(lines) if line.startswith("USER "))
    assert lines[user] == "USER 1000:1000" and not any(line.startswith("RUN ") for line in lines[user:])
    environment = " ".join(line for line in lines if line.startswith("ENV "))
    assert all(f"{name}={value}" in environment for name, value in application["environment"].items())
    for line in lines:
        if line.startswith("COPY "):
            assert all((REPOSITORY / name).exists() for name in line.split()[1:-1])
    documented = (REPOSITORY / "docs" / "process.md").read_text()
    assert "podman build -f bundles/invad/container/Containerfile" in documented
