"""A real MLflow server on loopback: results, artifacts and the registered bundle arrive and come back."""

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from invad_med.bundle import root
from invad_med.tracking.tracker import ALIAS, Tracker

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


def test_a_server_gets_everything_and_gives_it_back(server, measured, measured_folder, tmp_path, monkeypatch):
    import mlflow

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracker = Tracker(
        server, registered_model_name="invad-test", bundle_root=root(), models_dir=measured_folder / "models"
    )
    parent = tracker(measured.evaluations, [measured_folder / "out" / "metrics.csv"], tmp_path / "out")
    assert not (tmp_path / "out").exists()  # the server's store, not one of our own
    client = mlflow.MlflowClient(server, server)
    assert client.get_run(parent).data.metrics["brain/image_auroc"] == pytest.approx(
        measured.evaluations[0].judged["calibrated"].values["image_auroc"]
    )
    version = client.get_model_version_by_alias("invad-test", ALIAS)
    assert version.run_id == parent
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(server)
    try:
        there = mlflow.artifacts.download_artifacts(f"models:/invad-test@{ALIAS}", dst_path=str(tmp_path / "back"))
    finally:
        mlflow.set_tracking_uri(before)
    (model,) = (tmp_path / "back").rglob("brain.pt")
    assert model.read_bytes() == (measured_folder / "models" / "brain.pt").read_bytes(), there
