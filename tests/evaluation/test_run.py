"""A whole run on small sets: files, form, failures, pairing, MLflow, and silence about patients."""

import json
import os
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from invad_med.commands.compare import compare_runs
from invad_med.data.bmad import read_tree
from invad_med.detection import AnomalyDetector, FeatureHost, load_detector
from invad_med.evaluation.dataset import Plan, choose_checkpoint, evaluate_dataset
from invad_med.evaluation.run import Evaluator, find_datasets
from invad_med.networks import FrozenFeatures, create_denoiser
from invad_med.training.artefact import finish_training
from invad_med.training.cohort import read_cohort
from invad_med.training.features import prepare_features


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A root with a brain set (masks, patients), a test-only chest set and a broken one; models for the first two."""
    root = tmp_path_factory.mktemp("data")
    rng, lines = np.random.default_rng(0), ["split,class,name,patient"]

    def save(path, bright=0):
        path.parent.mkdir(parents=True, exist_ok=True)
        image = rng.integers(0, 100, (64, 64), dtype=np.uint8)
        image[20:36, 20:36] += np.uint8(bright)
        Image.fromarray(image).save(path)

    for split, kind, count in (("train", "good", 16), ("valid", "good", 4), ("valid", "Ungood", 4)):
        for i in range(count):
            save(
                root / "BMAD/Brain_AD" / split / kind / ("" if split == "train" else "img") / f"{i:02d}.png",
                60 * (kind != "good"),
            )
            lines.append(f"{split},{kind},{i:02d},{split}SECRET{i // 2}")
            if split == "valid":
                label = root / "BMAD/Brain_AD/valid" / kind / "label" / f"{i:02d}.png"
                label.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.full((64, 64), 255 * (kind != "good"), np.uint8)).save(label)
    for kind in ("good", "Ungood"):
        for i in range(10):
            save(root / "BMAD/Brain_AD/test" / kind / "img" / f"{i:02d}.png", 100 * (kind != "good"))
            save(root / "BMAD/Chest-RSNA/test" / kind / "img" / f"{i:02d}.png", 100 * (kind != "good"))
            mask = np.zeros((64, 64), np.uint8)
            mask[20:36, 20:36] = 255 * (kind != "good")
            label = root / "BMAD/Brain_AD/test" / kind / "label" / f"{i:02d}.png"
            label.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(label)
            lines.append(f"test,{kind},{i:02d},testSECRET{i}")
    (root / "BMAD/Brain_AD/manifest.csv").write_text("\n".join(lines) + "\n")
    save(root / "BMAD/Liver_AD/test/good/img/a.png")
    save(root / "BMAD/Liver_AD/test/good/odd/a.png")

    cohort = read_cohort(root / "BMAD/Brain_AD", held_out_fraction=0.4)
    denoiser = create_denoiser("cpu", 192, 4, depth=1, hidden_size=32)
    detector = AnomalyDetector(FeatureHost(FrozenFeatures(), denoiser, image_size=64))
    features = prepare_features(detector.host, cohort, None, progress=False)
    torch.manual_seed(0)
    trained = create_denoiser("cpu", 192, 4, depth=1, hidden_size=32)
    torch.nn.init.normal_(trained.network.final_layer.linear.weight, std=0.1)
    finish_training(detector, trained.state_dict(), cohort, features, root / "models/brain.pt", seed=0)
    shutil.copy(root / "models/brain.pt", root / "models/chest.pt")
    return root


@pytest.fixture(scope="module")
def run(folder):
    """The root evaluated, with baselines."""
    evaluator = Evaluator(
        find_datasets(folder / "BMAD"), folder / "out", models_dir=folder / "models", baselines=True,
        resamples=100, false_positive_rate=0.2,
    )  # fmt: skip
    evaluator.run()
    return evaluator


def test_metrics_have_the_stated_form(run, folder):
    found = json.loads((folder / "out/metrics.json").read_text())
    assert set(found) == {"Brain_AD", "Chest-RSNA"}
    brain, chest = found["Brain_AD"], found["Chest-RSNA"]
    pixel = {"pixel_auroc", "pixel_ap", "pixel_f1max", "aupro"}
    assert {"image_auroc", "image_ap", "image_f1max", "dice", "mad7", *pixel} <= set(brain)
    assert not pixel & set(chest) and "image_auroc" in chest
    assert set(brain["scores"]) == {
        "paper", "official", "no_inversion", "gaussian", "nearest_neighbours", "reconstruction",
    }  # fmt: skip
    assert set(chest["scores"]) == {"paper", "official"}  # no train split
    for name, f in brain.items():
        if name != "scores":
            assert set(f) == {"value", "low", "high"} and f["low"] <= f["value"] + 0.2, name
    table = pd.read_csv(folder / "out/metrics.csv")
    row = table[(table.dataset == "Brain_AD") & (table.score == "paper") & (table.figure == "image_ap")]
    assert row.value.item() == pytest.approx(brain["scores"]["paper"]["image_ap"]["value"], rel=1e-5)


def test_what_cannot_be_done_is_said_and_the_rest_done(run, folder):
    assert set(run.problems) == {"Liver_AD"} and "no layout" in run.problems["Liver_AD"]
    with pytest.raises(SystemExit) as end:
        run.finish()
    assert end.value.code == 3
    assert any("baselines skipped" in note for e in run.evaluations for note in e.notes if e.name == "Chest-RSNA")
    page = (folder / "out/report.html").read_text()
    assert "Liver_AD" in page and "Brain_AD" in page and "<svg" in page and "data:image/png" in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("https://www.w3.org", "").replace(
        "http://purl.org", ""
    ).replace("http://creativecommons.org", "")
    with pytest.raises(ValueError, match=r"no model for liver \(there: brain, chest\)"):
        choose_checkpoint("liver", None, folder / "models", False)


def test_no_patient_is_named(run, folder):
    for path in (folder / "out").rglob("*"):
        assert not path.is_file() or b"SECRET" not in path.read_bytes(), path
        assert "SECRET" not in path.name


def test_other_images_and_order_never_change_a_score(run, folder, tmp_path):
    few = tmp_path / "Brain_AD"
    for kind, name in (("good", "03"), ("Ungood", "07")):
        for sub in ("img", "label"):
            (few / "test" / kind / sub).mkdir(parents=True)
            source = folder / "BMAD/Brain_AD/test" / kind / sub / f"{name}.png"
            shutil.copy(source, few / "test" / kind / sub / f"z{name}.png")
    detector = load_detector(folder / "models/brain.pt")
    data = read_tree(few)[0]
    alone = evaluate_dataset(data, data.modality, detector, folder / "models/brain.pt", Plan(resamples=10))
    whole = run.evaluations[0]
    assert whole.name == "Brain_AD"
    for name in ("calibrated", "paper"):
        np.testing.assert_allclose(alone.scored[name].scores, whole.scored[name].scores[[3, 17]], rtol=1e-4)
    np.testing.assert_allclose(alone.p_values, whole.p_values[[3, 17]])


def test_two_runs_are_compared_pairwise(run, folder, tmp_path):
    shutil.copytree(folder / "out", tmp_path / "again")
    table = compare_runs(folder / "out", tmp_path / "again")
    assert set(table.dataset) == {"Brain_AD", "Chest-RSNA"} and (table.difference == 0).all()
    other = Evaluator(
        find_datasets(folder / "BMAD/Chest-RSNA"), tmp_path / "other", models_dir=folder / "models",
        resamples=100, seed=1,
    )  # fmt: skip
    other.run()
    with pytest.raises(ValueError, match="Chest-RSNA: the runs differ in images, groups, split or draws"):
        compare_runs(folder / "out", tmp_path / "other")
    with pytest.raises(ValueError, match="no figure of the score 'nothing'"):
        compare_runs(folder / "out", tmp_path / "again", "nothing")


def test_mlflow_has_the_same_keys_for_every_modality(run, folder, tmp_path, monkeypatch):
    import mlflow

    from invad_med.bundle import root
    from invad_med.tracking.tracker import Tracker, run_metrics

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracker = Tracker(bundle_root=root(), models_dir=folder / "models", settings={"seed": 0})
    parent = tracker(run.evaluations, [folder / "out/metrics.csv", folder / "out/report.html"], tmp_path)
    assert "MLFLOW_TRACKING_URI" not in os.environ
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    top = client.get_run(parent)
    auroc = run.evaluations[0].judged["calibrated"].values["image_auroc"]
    assert top.data.metrics["brain/image_auroc"] == pytest.approx(auroc) and "chest/image_auroc" in top.data.metrics
    nested = client.search_runs([top.info.experiment_id], f"tags.mlflow.parentRunId = '{parent}'")
    assert {r.data.tags["modality"] for r in nested} == {"brain", "chest"}
    brain, chest = sorted(nested, key=lambda r: r.data.tags["modality"])
    assert set(chest.data.metrics) < set(brain.data.metrics) | set(run_metrics(run.evaluations[1]))
    assert brain.data.metrics["image_auroc"] == pytest.approx(auroc)
    assert {"model architecture.backbone", "model seed", "checkpoint_digest", "model versions.torch"} <= set(
        brain.data.params
    )
    assert {a.path for a in client.list_artifacts(parent)} >= {"metrics.csv", "report.html", "executed_config.json"}
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"SECRET" not in path.read_bytes(), path
