"""A whole run on small sets: files, form, failures, pairing, MLflow, and silence about patients."""

import json
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from measured import copy_model
from PIL import Image

import invad_med.evaluation.truth as truth_module
from invad_med.commands.compare import compare_runs
from invad_med.data.bmad import read_tree
from invad_med.data.published_sets import all_published_sets
from invad_med.detection import load_detector
from invad_med.evaluation.dataset import evaluate_dataset
from invad_med.evaluation.methods import BASELINES
from invad_med.evaluation.methods.maps import MapBaseline
from invad_med.evaluation.models_of import choose_checkpoint
from invad_med.evaluation.pictures import curves
from invad_med.evaluation.plan import Plan
from invad_med.evaluation.report import write_report
from invad_med.evaluation.run import Evaluator, find_datasets
from invad_med.evaluation.tables import mean_of_nine
from invad_med.tracking.describe import parent_metrics


def test_metrics_have_the_stated_form(measured, measured_folder):
    found = json.loads((measured_folder / "out/metrics.json").read_text())
    assert set(found) == {"Brain_AD", "Chest-RSNA"}
    brain, chest = found["Brain_AD"], found["Chest-RSNA"]
    pixel = {"pixel_auroc", "pixel_ap", "pixel_f1max", "aupro"}
    assert {"image_auroc", "image_ap", "image_f1max", "dice", "mad7", *pixel} <= set(brain)
    assert not pixel & set(chest) and "image_auroc" in chest
    assert set(brain["scores"]) == {
        "paper", "official", "no_inversion", "gaussian", "nearest_neighbours", "reconstruction",
    }  # fmt: skip
    assert set(chest["scores"]) == {"paper", "official"}  # no train split
    replicates = np.load(measured_folder / "out/Brain_AD/replicates.npz")
    for name, f in brain.items():
        if name != "scores":
            assert set(f) == {"value", "low", "high"}
            drawn = replicates[f"calibrated/{name}"]
            ends = pytest.approx(np.nanpercentile(drawn[1:], [2.5, 97.5]), rel=1e-12)
            assert f["value"] == drawn[0] and [f["low"], f["high"]] == ends
    table = pd.read_csv(measured_folder / "out/metrics.csv")
    row = table[(table.dataset == "Brain_AD") & (table.score == "paper") & (table.figure == "image_ap")]
    assert row.value.item() == pytest.approx(brain["scores"]["paper"]["image_ap"]["value"], rel=1e-5)


def test_what_cannot_be_done_is_said_and_the_rest_done(measured, measured_folder):
    assert set(measured.problems) == {"Liver_AD"} and "no layout" in measured.problems["Liver_AD"]
    with pytest.raises(SystemExit) as end:
        measured.finish()
    assert end.value.code == 3
    assert any("baselines skipped" in note for e in measured.evaluations for note in e.notes if e.name == "Chest-RSNA")
    assert any("of eight statistics that know nothing of anatomy" in note for note in measured.evaluations[0].notes)
    page = (measured_folder / "out/report.html").read_text()
    assert "Liver_AD" in page and "Brain_AD" in page and "<svg" in page and "data:image/png" in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("https://www.w3.org", "").replace(
        "http://purl.org", ""
    ).replace("http://creativecommons.org", "")
    with pytest.raises(ValueError, match=r"no model for liver \(there: brain, chest\)"):
        choose_checkpoint("liver", None, measured_folder / "models", False)


def test_an_image_that_cannot_be_read_is_named_to_the_user_alone(measured_folder, tmp_path, capsys):
    shutil.copytree(measured_folder / "BMAD/Chest-RSNA", tmp_path / "Chest-RSNA")
    image = next((tmp_path / "Chest-RSNA/test").rglob("*.png"))
    image = image.rename(image.with_name("SECRET.png"))
    image.write_bytes(image.read_bytes()[:100])
    run = Evaluator(find_datasets(tmp_path / "Chest-RSNA"), tmp_path / "out", models_dir=measured_folder / "models")
    run.run()
    assert "cannot be read" in run.problems["Chest-RSNA"] and f"cannot be read: {image}\n" in capsys.readouterr().err
    for path in (tmp_path / "out").rglob("*"):
        assert not path.is_file() or b"SECRET" not in path.read_bytes(), path


def test_a_damaged_mask_is_named_to_the_user_alone_and_the_other_sets_are_measured(measured_folder, tmp_path, capsys):
    for name in ("a", "b"):
        shutil.copytree(measured_folder / "BMAD/Brain_AD", tmp_path / name / "brain")
    mask = next((tmp_path / "a/brain/test/Ungood/label").iterdir())
    for kind in ("img", "label"):
        mask.parent.with_name(kind).joinpath(mask.name).rename(mask.parent.with_name(kind) / "SECRET.png")
    mask.with_name("SECRET.png").write_bytes(b"no image")
    (tmp_path / "a/brain").rename(tmp_path / "a/brain_a")
    (tmp_path / "a/brain_a/manifest.json").write_text('{"modality": "brain"}')
    (tmp_path / "b/brain").rename(tmp_path / "a/brain_b")
    (tmp_path / "a/brain_b/manifest.json").write_text('{"modality": "brain"}')
    run = Evaluator(find_datasets(tmp_path / "a"), tmp_path / "out", models_dir=measured_folder / "models")
    run.run()
    assert run.problems == {"brain_a": "a mask cannot be read: it is damaged or no image"}
    assert [e.name for e in run.evaluations] == ["brain_b"] and "SECRET.png" in capsys.readouterr().err
    for path in (tmp_path / "out").rglob("*"):
        assert not path.is_file() or b"SECRET" not in path.read_bytes(), path


def test_a_tree_that_is_refused_names_its_files_to_the_user_alone(measured_folder, tmp_path, capsys):
    shutil.copytree(measured_folder / "BMAD/Brain_AD", tmp_path / "Brain_AD")
    mask = next((tmp_path / "Brain_AD/test/Ungood/label").iterdir())
    mask.unlink()
    image = tmp_path / "Brain_AD/test/Ungood/img" / mask.name
    image = image.rename(image.with_name("SECRET.png"))
    run = Evaluator(find_datasets(tmp_path / "Brain_AD"), tmp_path / "out", models_dir=measured_folder / "models")
    run.run()
    assert run.problems == {"Brain_AD": "image without its mask (1 path)"}
    assert f"image without its mask: {image}\n" in capsys.readouterr().err
    for path in (tmp_path / "out").rglob("*"):
        assert not path.is_file() or b"SECRET" not in path.read_bytes(), path


def test_no_patient_is_named(measured, measured_folder):
    for path in (measured_folder / "out").rglob("*"):
        assert not path.is_file() or b"SECRET" not in path.read_bytes(), path
        assert "SECRET" not in path.name


def test_other_images_and_order_never_change_a_score(measured, measured_folder, tmp_path):
    few = tmp_path / "Brain_AD"
    for kind, name in (("good", "03"), ("Ungood", "07")):
        for sub in ("img", "label"):
            (few / "test" / kind / sub).mkdir(parents=True)
            source = measured_folder / "BMAD/Brain_AD/test" / kind / sub / f"{name}.png"
            shutil.copy(source, few / "test" / kind / sub / f"z{name}.png")
    detector = load_detector(measured_folder / "models/brain.pt")
    data = read_tree(few)[0]
    alone = evaluate_dataset(data, data.modality, detector, measured_folder / "models/brain.pt", Plan(resamples=10))
    whole = measured.evaluations[0]
    assert whole.name == "Brain_AD"
    for name in ("calibrated", "paper"):
        np.testing.assert_allclose(alone.scored[name].scores, whole.scored[name].scores[[3, 17]], rtol=1e-4)
    np.testing.assert_allclose(alone.p_values, whole.p_values[[3, 17]])


def test_a_baseline_from_outside_gets_images_and_each_is_decoded_once(measured_folder, tmp_path, monkeypatch):
    class Brightness(MapBaseline):
        about = "mean grey value of the image"

        def learn(self, train):
            self.normal = torch.cat([batch.images.mean(1) for batch in train.batches]).mean(0)

        def maps(self, batch, setting):
            return (batch.images.mean(1) - self.normal).abs()

    read = Counter()

    def counted(function, key):
        return lambda *args: [read.update([key(*args)]), function(*args)][1]

    monkeypatch.setitem(BASELINES, "brightness", Brightness)
    monkeypatch.setattr(truth_module, "read_raster", counted(truth_module.read_raster, lambda path: path))
    monkeypatch.setattr(truth_module, "read_mask", counted(truth_module.read_mask, lambda path: path))
    (data,) = read_tree(measured_folder / "BMAD/Brain_AD")
    detector = load_detector(measured_folder / "models/brain.pt")
    found = evaluate_dataset(
        data, data.modality, detector, measured_folder / "models/brain.pt", Plan(baselines=True, resamples=10)
    )
    assert list(found.judged)[-1] == "brightness" and found.judged["brightness"].values["image_auroc"] == 1.0
    assert found.about["brightness"] == Brightness.about
    assert "chosen on valid, 8 images" in found.scored["brightness"].note
    assert "stroke: #00898a" in curves(found)  # a colour of its own
    tests = [path for item in data.items if item.split == "test" for path in (item.image, item.mask)]
    assert len(tests) == 40 and {read[path] for path in tests} == {1}
    assert "mean grey value" in write_report([found], {}, tmp_path).read_text()


def test_two_runs_are_compared_pairwise(measured, measured_folder, tmp_path):
    shutil.copytree(measured_folder / "out", tmp_path / "again")
    table = compare_runs(measured_folder / "out", tmp_path / "again")
    assert set(table.dataset) == {"Brain_AD", "Chest-RSNA"} and (table.difference == 0).all()
    other = Evaluator(
        find_datasets(measured_folder / "BMAD/Chest-RSNA"), tmp_path / "other",
        models_dir=measured_folder / "models", resamples=100, seed=1,
    )  # fmt: skip
    other.run()
    with pytest.raises(ValueError, match="Chest-RSNA: the runs differ in images, masks, groups, split or draws"):
        compare_runs(measured_folder / "out", tmp_path / "other")
    with pytest.raises(ValueError, match="no figure of the score 'nothing'"):
        compare_runs(measured_folder / "out", tmp_path / "again", "nothing")


def test_runs_with_other_masks_are_not_paired(measured_folder, tmp_path):
    shutil.copytree(measured_folder / "BMAD/Brain_AD", tmp_path / "Brain_AD")

    def run(name):
        models = measured_folder / "models"
        Evaluator(find_datasets(tmp_path / "Brain_AD"), tmp_path / name, models_dir=models, resamples=2).run()

    run("a")
    run("b")
    assert (compare_runs(tmp_path / "a", tmp_path / "b").difference == 0).all()
    mask = next(item.mask for item in read_tree(tmp_path)[0].items if item.split == "test" and item.label)
    drawn = np.asarray(Image.open(mask)).copy()
    drawn[:8, :8] = 255
    Image.fromarray(drawn).save(mask)
    run("c")
    with pytest.raises(ValueError, match="Brain_AD: the runs differ in images, masks"):
        compare_runs(tmp_path / "a", tmp_path / "c")


def test_copies_of_training_images_are_noted_without_their_names(measured_folder, tmp_path):
    shutil.copytree(measured_folder / "BMAD/Brain_AD", tmp_path / "Brain_AD")
    learnt, judged = (
        [i.image for i in read_tree(tmp_path)[0].items if i.split == s and not i.label] for s in ("train", "test")
    )
    judged[0].write_bytes(learnt[0].read_bytes())
    evaluator = Evaluator(
        find_datasets(tmp_path / "Brain_AD"), tmp_path / "out", models_dir=measured_folder / "models", resamples=2
    )
    evaluator.run()
    (note,) = [n for n in evaluator.evaluations[0].notes if "under names of their own" in n]
    assert note.startswith("1 images are in more than one split") and learnt[0].stem not in note


def test_the_mean_of_nine_is_given_by_counts_not_by_a_folders_name(measured_folder, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    (tmp_path / "models").mkdir()
    counts = {"test": {"good": 2, "Ungood": 2}}
    for name, published in all_published_sets().items():
        copy_model(measured_folder / "models/brain.pt", tmp_path / "models" / f"{name}.pt")
        monkeypatch.setitem(all_published_sets(), name, replace(published, counts=counts))
        for kind, sub in [("good", "img"), ("Ungood", "img")] + [("Ungood", "label")] * published.pixel_masks:
            for i in range(2):
                path = tmp_path / "BMAD" / published.aliases[0] / "test" / kind / sub / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                image = np.eye(64, dtype=np.uint8) if sub == "label" else rng.integers(0, 255, (64, 64), dtype=np.uint8)
                Image.fromarray(image).save(path)

    def run(name):
        evaluator = Evaluator(
            find_datasets(tmp_path / "BMAD"), tmp_path / name, models_dir=tmp_path / "models", resamples=2
        )
        evaluator.run()
        assert len(evaluator.evaluations) == 6 and not evaluator.problems
        table = pd.read_csv(tmp_path / name / "metrics.csv")
        given = {
            "bmad9" in set(table.figure), "(bmad9)" in (tmp_path / name / "report.html").read_text(),
            "bmad9" in parent_metrics(evaluator.evaluations), mean_of_nine(evaluator.evaluations, "paper") is not None,
        }  # fmt: skip
        assert len(given) == 1, "table, report and tracker say the same"
        return given.pop()

    assert run("published")
    row = all_published_sets()["chest"]
    monkeypatch.setitem(all_published_sets(), "chest", replace(row, counts={"test": {"good": 2, "Ungood": 3}}))
    assert not run("one of another size")


def test_what_a_set_shows_may_be_stated_and_is_asked_for_where_it_is_not(measured_folder, tmp_path):
    for name in ("Chest_NIH", "again/Chest_NIH", "mine"):
        shutil.copytree(measured_folder / "BMAD/Chest-RSNA", tmp_path / "root" / name)
    same = Evaluator(find_datasets(tmp_path / "root"), tmp_path / "out", models_dir=measured_folder / "models")
    same.run()
    assert "folders of one name" in same.problems["Chest_NIH"] and not same.evaluations
    shutil.rmtree(tmp_path / "root/again")
    (tmp_path / "root/Chest_NIH/manifest.json").write_text('{"modality": "chest"}')
    found = find_datasets(tmp_path / "root")
    evaluator = Evaluator(found, tmp_path / "out", models_dir=measured_folder / "models", resamples=2)
    evaluator.run()
    (evaluation,) = evaluator.evaluations
    assert (evaluation.name, evaluation.truth.modality.name, evaluation.published) == ("Chest_NIH", "chest", None)
    assert set(evaluator.problems) == {"mine"}
    assert '{"modality": "NAME"} into its manifest.json; NAME: brain, liver' in evaluator.problems["mine"]


def test_an_output_folder_holds_the_results_of_one_evaluation(measured, measured_folder, tmp_path, caplog):
    out = shutil.copytree(measured_folder / "out", tmp_path / "out")  # of Brain_AD and Chest-RSNA
    (out / "evaluation.json").write_text("{}")  # told to no store: of the same evaluation
    (out / "Brain_AD" / "mine.txt").write_text("kept")
    for fraction in (0.05, 0.1):  # again with other options
        evaluator = Evaluator(
            find_datasets(measured_folder / "BMAD/Chest-RSNA"), out, models_dir=measured_folder / "models",
            resamples=10, false_positive_rate=fraction,
        )  # fmt: skip
        evaluator.run()
        left = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
        tables = {"metrics.json", "metrics.csv", "comparisons.csv", "problems.json", "report.html"}
        assert left == {*tables, "Chest-RSNA/scores.csv", "Chest-RSNA/replicates.npz", "Brain_AD/mine.txt"}
        assert set(json.loads((out / "metrics.json").read_text())) == {"Chest-RSNA"}
    assert "of an earlier evaluation: Brain_AD" in caplog.text and caplog.text.count("earlier evaluation") == 1
