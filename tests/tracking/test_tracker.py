"""What is taken down, where, and what happens when it cannot be: before the work, after it, and later."""

import os
import shutil
import time

import mlflow
import pytest
from monai.bundle import run

from invad_med.__main__ import COMMANDS, main
from invad_med.bundle import root
from invad_med.data.bmad import inspect_tree
from invad_med.evaluation.run import Evaluator
from invad_med.evaluation.tracker import TrackingError
from invad_med.tracking.log_again import COMMAND
from invad_med.tracking.record import FILE, RunRecord
from invad_med.tracking.store import Store
from invad_med.tracking.tracker import Tracker
from tests.conftest import CONFIGS

NOWHERE = "http://127.0.0.1:9"  # nobody listens
FILES = ("metrics.csv", "report.html")


@pytest.fixture(autouse=True)
def no_store_of_the_environment(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def results(measured, measured_folder, tmp_path):
    """A copy of the measured folder's results."""
    return shutil.copytree(measured_folder / "out", tmp_path / "out")


def tracker(measured_folder, *arguments, **options):
    return Tracker(
        *arguments, bundle_root=root(), models_dir=measured_folder / "models", settings={"seed": 0}, **options
    )


def logged(store, parent):
    """All that a run and its nested runs hold, but what tells two runs of the same apart."""
    client = mlflow.MlflowClient(store)
    top = client.get_run(parent)
    nested = client.search_runs([top.info.experiment_id], f"tags.mlflow.parentRunId = '{parent}'")
    return [
        (
            one.info.run_name,
            one.data.params,
            one.data.metrics,
            {k: v for k, v in one.data.tags.items() if k != "mlflow.parentRunId"},
            sorted((a.path, a.file_size) for a in client.list_artifacts(one.info.run_id)),
        )
        for one in (top, *sorted(nested, key=lambda r: r.info.run_name))
    ]


def test_a_run_has_the_same_keys_for_every_modality(measured, measured_folder, results):
    track = tracker(measured_folder)
    track.ask(results)
    parent = track(measured.evaluations, [results / name for name in FILES], results)
    assert "MLFLOW_TRACKING_URI" not in os.environ
    top, brain, chest = logged(f"sqlite:///{results / 'mlflow.db'}", parent)
    auroc = measured.evaluations[0].judged["calibrated"].values["image_auroc"]
    assert top[2]["brain/image_auroc"] == pytest.approx(auroc) and "chest/image_auroc" in top[2]
    assert {name for name, _ in top[4]} == {*FILES, "executed_config.json"}
    assert (brain[0], chest[0]) == ("brain", "chest") and brain[3]["modality"] == "brain"
    assert brain[2]["image_auroc"] == pytest.approx(auroc)
    # What the chest set lacks needs masks, a training split or patients; nothing has another name there.
    lacking = set(brain[2]) - set(chest[2])
    assert set(chest[2]) < set(brain[2]) and "pixel_auroc" in lacking and "gaussian/image_auroc" in lacking
    needs = (
        "study_",
        "naive_",
        "pixel_",
        "aupro",
        "dice",
        "mad7",
        "no_inversion/",
        "gaussian/",
        "nearest_neighbours/",
        "reconstruction/",
    )
    assert {key for key in lacking if not any(word in key for word in needs)} == set()
    assert {"model architecture.backbone", "model seed", "checkpoint_digest", "model versions.torch"} <= set(brain[1])
    for path in results.rglob("*"):
        assert not path.is_file() or b"SECRET" not in path.read_bytes(), path


def test_a_server_that_does_not_answer_is_noticed_before_anything_is_measured(measured_folder, tmp_path):
    evaluator = Evaluator(
        inspect_tree(measured_folder / "BMAD/Chest-RSNA"),
        tmp_path / "out",
        models_dir=measured_folder / "models",
        tracker=tracker(measured_folder, NOWHERE),
    )
    start = time.monotonic()
    with pytest.raises(SystemExit, match=r"^nothing was evaluated: MLflow at http://127.0.0.1:9: .*refused") as end:
        evaluator.prepare()
    assert time.monotonic() - start < 30 and "\n" not in str(end.value) and not (tmp_path / "out").exists()


def test_the_command_refuses_a_password_before_anybody_prints_it(measured_folder, tmp_path, capfd):
    with pytest.raises(RuntimeError) as end:
        run(
            config_file=str(CONFIGS / "evaluate.json"),
            dataset_dir=str(measured_folder / "BMAD"),
            output_dir=str(tmp_path / "out"),
            tracking_uri="http://bob:S3cretPw@127.0.0.1:9",
        )
    printed = capfd.readouterr()
    reason = str(end.value.__cause__)
    assert "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in reason and not (tmp_path / "out").exists()
    assert "S3cret" not in printed.out + printed.err + str(end.value) + reason


def test_a_deleted_experiment_is_noticed_before_the_work(measured_folder, tmp_path):
    store = f"sqlite:///{tmp_path / 'runs.db'}"
    client = mlflow.MlflowClient(store)
    client.delete_experiment(client.create_experiment("gone"))
    with pytest.raises(TrackingError, match=r"'gone' was deleted .* restore it .*or give another --experiment_name"):
        tracker(measured_folder, store, "gone").ask(tmp_path)


def test_what_could_not_be_logged_is_logged_later(measured_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    out, later = tmp_path / "out", f"sqlite:///{tmp_path / 'later.db'}"
    evaluator = Evaluator(
        inspect_tree(measured_folder / "BMAD/Chest-RSNA"),
        out,
        models_dir=measured_folder / "models",
        resamples=10,
        tracker=tracker(measured_folder, NOWHERE),  # as a server that went away while images were scored
    )
    evaluator.run()
    with pytest.raises(SystemExit) as end:
        evaluator.finish()
    assert end.value.code == 3 and (out / "metrics.json").is_file()
    said = capsys.readouterr().err.splitlines()
    (line,) = (line for line in said if "in no store" in line)
    assert f"results are in {out}" in line and "refused" in line
    assert line.endswith(f"to log them later: {COMMAND} {out}")
    assert not any("Traceback" in line for line in said)

    program, name = COMMAND.rsplit(" ", 1)
    assert program == "python -m invad_med" and name in COMMANDS
    assert main([name, str(out)]) == 3 and "refused" in capsys.readouterr().err  # still down
    assert main([name, str(out), "--tracking_uri", later]) == 0
    assert "run bmad-" in capsys.readouterr().out
    now = f"sqlite:///{tmp_path / 'now.db'}"
    files = [out / "metrics.json", out / "metrics.csv", out / "comparisons.csv", out / "report.html"]
    parent = tracker(measured_folder, now)(evaluator.evaluations, files, out)
    client = mlflow.MlflowClient(later)
    (experiment,) = (e for e in client.search_experiments() if e.name == "invad_med")
    (one,) = client.search_runs([experiment.experiment_id], "attributes.run_name LIKE 'bmad-%'")
    assert logged(later, one.info.run_id) == logged(now, parent)


def test_a_folder_without_a_record_or_with_a_damaged_one_is_named(tmp_path, capsys):
    assert main(["log-again", str(tmp_path)]) == 2
    assert f"error: {tmp_path} holds no {FILE}" in capsys.readouterr().err
    (tmp_path / FILE).write_text('{"name": 1}')
    with pytest.raises(ValueError, match="cannot be read as the record of an evaluation"):
        RunRecord.read(tmp_path)
    assert main(["log-again", str(tmp_path)]) == 2
    assert "cannot be read as the record of an evaluation" in capsys.readouterr().err


def test_a_server_is_shown_by_its_address_and_a_store_by_a_command(tmp_path):
    assert Store.choose("https://host/mlflow", tmp_path).look == "https://host/mlflow"
    local = Store.choose(None, tmp_path / "a b")
    assert local.look == f"mlflow ui --backend-store-uri 'sqlite:///{tmp_path / 'a b'}/mlflow.db'"


def test_the_store_lies_in_the_output_folder_whatever_its_name(measured, measured_folder, results, tmp_path):
    out = shutil.move(results, tmp_path / "in" / "a b?c=1#d%41é@e:f" / "out")
    parent = tracker(measured_folder)(measured.evaluations, [out / name for name in FILES], out)
    assert [path.name for path in (tmp_path / "in").rglob("mlflow.db")] == ["mlflow.db"] and (
        out / "mlflow.db"
    ).is_file()
    assert {path.name for path in (tmp_path / "in").iterdir()} == {out.parent.name}
    store = Store.choose(None, out)
    assert {name for name, _ in logged(store.uri, parent)[0][4]} == {*FILES, "executed_config.json"}
    assert list((out / "mlartifacts").rglob("report.html"))
