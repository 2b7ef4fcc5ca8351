"""A real MLflow server on loopback: results, artifacts and the registered bundle arrive and come back."""

import ast
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from monai.bundle import run

from invad_med.bundle import root
from invad_med.inference.predictor import load
from invad_med.tracking.register import ALIAS, copy_bundle, pinned_requirements
from invad_med.tracking.tracker import Tracker
from tests.conftest import CONFIGS

PATIENCE = 120  # seconds


@pytest.fixture
def server(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", address.rpartition(":")[2],
        "--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}",
        "--artifacts-destination", (tmp_path / "artifacts").as_uri(), "--workers", "1",
    ]  # fmt: skip
    with (tmp_path / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            for _ in range(PATIENCE * 2):
                try:
                    urllib.request.urlopen(f"{address}/health", timeout=5).close()
                    break
                except (urllib.error.URLError, TimeoutError, ConnectionError):
                    assert process.poll() is None, (tmp_path / "log").read_text()
                    time.sleep(0.5)
            else:
                pytest.fail((tmp_path / "log").read_text())
            yield address
        finally:
            process.terminate()


def test_a_server_gets_everything_and_gives_back_a_model_that_scores(
    server, measured, measured_folder, tmp_path, monkeypatch
):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    out = measured_folder / "out"
    tracker = Tracker(server, registered_model_name="invad-test", bundle_root=root())
    results = shutil.copytree(out, tmp_path / "out")
    tracker.ask(results)
    parent = tracker(measured.evaluations, [results / "metrics.csv"], results)
    assert not (results / "mlflow.db").exists()  # the server's store, not one of our own
    client = mlflow.MlflowClient(server, server)
    assert client.get_run(parent).data.metrics["brain/image_auroc"] == pytest.approx(
        measured.evaluations[0].judged["calibrated"].values["image_auroc"]
    )
    version = client.get_model_version_by_alias("invad-test", ALIAS)
    assert version.run_id == parent

    # Elsewhere, from the source that was logged, scored as the command scores.
    image = next((Path(root()) / "sample" / "chest").rglob("*.png"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    code = (
        "import mlflow, sys\n"
        f"mlflow.set_tracking_uri({server!r})\n"
        f"model = mlflow.pyfunc.load_model('models:/invad-test@{ALIAS}')\n"
        f"table = model.predict([{str(image)!r}])\n"
        "import invad_med\n"
        "print(repr((invad_med.__file__, table.modality.tolist(), table.score.tolist(), table.p_value.tolist())))\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", code], cwd=elsewhere, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    source, modality, score, p_value = ast.literal_eval(done.stdout.strip().splitlines()[-1])
    assert not source.startswith(str(Path(root()).parents[1])) and modality == ["chest"]
    run(
        config_file=str(CONFIGS / "inference.json"),
        dataset_dir=str(image),
        output_dir=str(tmp_path / "command"),
        dicom_out=[],
        device="cpu",
    )
    table = pd.read_csv(tmp_path / "command" / "scores.csv")
    assert score == pytest.approx(table.score.tolist(), rel=1e-4)
    assert p_value == pytest.approx(table.p_value.tolist(), rel=1e-4)


def test_models_without_a_default_one_become_a_bundle_that_loads(measured, measured_folder, tmp_path):
    tracker = Tracker(registered_model_name="x", bundle_root=root(), models_dir=measured_folder / "models")
    record = tracker.describe(measured.evaluations, [], tmp_path)
    copy_bundle(record.registration, tmp_path / "bundle")
    assert {p.name for p in (tmp_path / "bundle" / "models").iterdir()} == {"model.pt", "chest.pt"}
    image = measured_folder / "BMAD/Brain_AD/test/Ungood/img/03.png"
    (copied,), (own,) = (
        load(bundle_root=tmp_path / "bundle")(image),
        load(ckpt_path=record.registration.models["brain"])(image),
    )
    assert copied.score == own.score and copied.modality == "brain"


def test_requirements_can_be_had():
    pinned = dict(line.split("==") for line in pinned_requirements())
    assert {"torch", "monai", "mlflow", "pydicom"} <= set(pinned) and "invad-med" not in pinned
    assert "pytest" not in pinned and not any("+" in version for version in pinned.values())
