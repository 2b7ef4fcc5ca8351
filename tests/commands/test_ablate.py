"""The ablation of a folder: one page, tables and a run in MLflow; what is measured stays, what is not says why."""

import json
import shutil

import monai.bundle
import pandas as pd
import pytest

from invad_med.__main__ import main
from invad_med.commands import designs
from invad_med.evaluation import ablation
from invad_med.evaluation.ablating import Subject
from invad_med.networks.features import PACKAGED_WEIGHTS
from invad_med.options import read_overrides
from tests.conftest import CONFIGS, save


@pytest.fixture
def root(measured_folder, tmp_path, monkeypatch):
    """A folder with a data set that has a model, and one that says nothing; few steps are compared."""
    shutil.copytree(measured_folder / "BMAD/Brain_AD", tmp_path / "root/brain")
    save(tmp_path / "root/knee/train/good/0.png", 0)
    monkeypatch.setattr(ablation, "STEPS", (1, 3))
    monkeypatch.setattr(ablation, "SINGLE", (200,))
    return tmp_path / "root"


@pytest.fixture
def ablate(root, measured_folder, tmp_path, capsys):
    def run(*arguments):
        given = ["--models_dir", str(measured_folder / "models"), "--cache_dir", str(tmp_path / "features")]
        status = main(["ablate", str(root), "--output_dir", str(tmp_path / "out"), *given, *arguments])
        return status, capsys.readouterr()

    return run


def test_the_page_its_tables_and_the_run(ablate, root, measured_folder, tmp_path, monkeypatch):
    import mlflow

    groups = ("--tables", "components", "steps", "grids")
    status, said = ablate(*groups)
    assert status == 3 and "knee was not measured: nothing says what it shows" in said.err
    assert "expected minutes" in said.out and "brain, given:" in said.out
    table = pd.read_csv(tmp_path / "out/ablation.csv")
    page = (tmp_path / "out/ablation.html").read_text()
    assert "<svg" in page and "<b>knee</b> was not measured" in page and "http-equiv" not in page
    assert "SECRET" not in page and "SECRET" not in (tmp_path / "out/ablation.json").read_text()
    missing = table[table.not_measured.notna()]
    assert set(missing.model) == {"pixel"} and page.count("needs --pixel") == len(missing) == 2 + 8
    there = table[table.not_measured.isna()]
    assert there[["image_auroc", "image_auroc_low", "pixel_ap", "core_ms", "images"]].notna().all().all()
    for row in there[~there.default].itertuples():
        score = "whitened_mean_and_cell" if row.score == "own" else row.score
        first = there[(there.table == row.table) & there.default & (there.score == score)]
        if len(first):
            assert row.image_auroc_difference == pytest.approx(row.image_auroc - first.iloc[0].image_auroc, abs=1e-5)
    record = json.loads((tmp_path / "out/evaluation.json").read_text())
    assert set(record["files"]) == {"ablation.csv", "ablation.json", "ablation.html"}
    logged = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'out/mlflow.db'}")
    experiment = logged.get_experiment_by_name("invad_med")
    runs = {run.info.run_name: run.data.metrics for run in logged.search_runs([experiment.experiment_id])}
    three = there[(there.table == "components") & (there.score == "paper") & there.default].iloc[0]
    key = "components/full_features_three_steps/paper/image_auroc"
    assert runs["brain"][key] == pytest.approx(three.image_auroc, abs=1e-5) and len(runs) == 2

    def refuse(*_):
        raise AssertionError("it is measured")

    shutil.rmtree(root / "knee")
    with monkeypatch.context() as patched:
        patched.setattr(Subject, "measure", refuse)
        status, said = ablate(*groups)
        assert status == 0 and "in all: 0.0" in said.out
        assert (tmp_path / "out/ablation.csv").read_text() == table.to_csv(
            index=False, lineterminator="\n", float_format="%.6g"
        )
        status, said = ablate(*groups, "--minutes", "0", "--normals", "3")  # other inputs, and no time for them
    assert status == 0
    table = pd.read_csv(tmp_path / "out/ablation.csv")
    assert table.not_measured.notna().all() and table.not_measured.str.startswith("beyond --minutes 0").sum() > 10

    shutil.copytree(measured_folder / "models", tmp_path / "pixels")
    status, _ = ablate("--tables", "components", "--pixel", str(tmp_path / "pixels"))
    table = pd.read_csv(tmp_path / "out/ablation.csv").set_index(["row", "score"])
    one, pixel = (table.loc[(f"{space}, one step", "paper")] for space in ("features", "pixel space"))
    assert status == 0 and one.image_auroc == pixel.image_auroc and table.not_measured.isna().all()


def test_designs_are_trained_and_one_without_its_backbone_says_so(noise_set, cache, tmp_path, monkeypatch, capsys):
    shutil.copytree(noise_set, tmp_path / "root/brain")
    for kind in ("good", "Ungood"):
        for i in range(3):
            for place in ("img", "label")[: 1 + (kind == "Ungood")]:
                save(tmp_path / "root/brain/test" / kind / place / f"{i}.png", 50 + i + 3 * (kind == "good"))
    trained = []

    def here(config, given, overrides, stdout):
        keys = {key: str(path) for key, path in given.items()} | read_overrides(overrides, config)
        trained.append(keys)
        try:
            monai.bundle.run(config_file=str(CONFIGS / config), **keys)
        except (Exception, SystemExit):
            return 1
        return 0

    monkeypatch.setattr(designs, "run_config", here)
    for number in (1, 2):
        monkeypatch.setitem(PACKAGED_WEIGHTS, f"tf_efficientnet_lite{number}", ("no_such_package", "weights.pth"))
    narrow = "--denoiser#depth 1 --denoiser#hidden_size 32 --batch_size 4 --accumulation_steps 1 --device cpu"
    words = ["ablate", str(tmp_path / "root"), "--output_dir", str(tmp_path / "out"), "--cache_dir", str(cache)]
    words += ["--steps", "2", "--train", narrow, "--tables"]
    assert main([*words, "normalisation", "backbones"]) == 0
    assert [keys.get("features#feature_norm", "channel") for keys in trained] == ["channel", None]
    table = pd.read_csv(tmp_path / "out/ablation.csv")
    assert table[table.table == "normalisation"].not_measured.isna().all()
    reasons = table[table.model.isin(["lite1", "lite2"])].not_measured
    assert len(reasons) == 6 and reasons.str.contains("pip install no_such_package").all()
    trained.clear()
    assert main([*words, "normalisation"]) == 0 and not trained
    assert "in all: 0.0" in capsys.readouterr().out
    words[words.index("--steps") + 1] = "3"
    assert main([*words, "normalisation"]) == 3  # of another training
    assert "raw_features on brain" in capsys.readouterr().err
    assert pd.read_csv(tmp_path / "out/ablation.csv").not_measured.notna().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tables", "colours"], "invalid choice: 'colours'"),
        (["--images", "0"], "'0' must be a whole number of at least 1"),
        (["--train", "--seed 1"], "--seed is set by this command"),
    ],
)
def test_wrong_words_are_refused(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["ablate", str(tmp_path), *arguments])
    assert message in capsys.readouterr().err
