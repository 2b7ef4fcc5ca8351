"""The ablation of a folder: one page, tables and a run in MLflow; what is measured stays, what is not says why."""

import json
import shutil

import diffusers
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score

from invad_med.__main__ import main
from invad_med.commands import ablate as command
from invad_med.commands.ablation_tasks import reason_of
from invad_med.data.bmad import read_dataset
from invad_med.data.transforms import to_image
from invad_med.detection import load_detector, read_provenance
from invad_med.diffusion import Grid, reconstruct
from invad_med.evaluation import ablating, ablation
from invad_med.evaluation.ablating import Subject
from invad_med.hosts import read_host
from invad_med.networks.features import PACKAGED_WEIGHTS
from invad_med.readers.sources import read_raster
from invad_med.tracking.store import Store
from invad_med.training.calibrating import calibrate_host
from tests.commands.trainings import in_this_process
from tests.conftest import save


@pytest.fixture
def root(measured_folder, tmp_path, monkeypatch):
    """A folder with a data set that has a model, and one that says nothing; few steps are compared."""
    shutil.copytree(measured_folder / "BMAD/Brain_AD", tmp_path / "root/brain")
    save(tmp_path / "root/knee/train/good/0.png", 0)
    monkeypatch.setattr(ablation, "STEPS", (1, 3))
    for few in ("STEPS_OF_INVERSION", "STEPS_OF_RECONSTRUCTION"):
        monkeypatch.setattr(ablation, few, (3,))
    monkeypatch.setattr(ablation, "SINGLE", (200,))
    return tmp_path / "root"


@pytest.fixture
def untracked(monkeypatch):
    """Leave MLflow out, whose empty database takes seconds."""
    monkeypatch.setattr(Store, "ask", lambda *_: None)
    monkeypatch.setattr(command, "log_run", lambda *_: None)


@pytest.fixture
def ablate(root, measured_folder, tmp_path, capsys):
    def run(*arguments):
        given = ["--models_dir", str(measured_folder / "models"), "--cache_dir", str(tmp_path / "features")]
        status = main(["ablate", str(root), "--output_dir", str(tmp_path / "out"), *given, *arguments])
        return status, capsys.readouterr()

    return run


def test_the_page_its_tables_and_the_run(ablate, root, measured_folder, tmp_path, monkeypatch):
    import mlflow

    (root / "brain/manifest.json").write_text('{"modality": "brain"}')
    (root / "brain").rename(root / "brain (2024)")  # with characters that MLflow refuses
    groups = ("--tables", "components", "steps")
    status, said = ablate(*groups)
    assert status == 3 and "knee was not measured: nothing says what it shows" in said.err
    assert "expected core-minutes" in said.out and "brain (2024), given:" in said.out
    table = pd.read_csv(tmp_path / "out/ablation.csv")
    page = (tmp_path / "out/ablation.html").read_text()
    assert "<svg" in page and "<b>knee</b> was not measured" in page and "http-equiv" not in page
    assert "SECRET" not in page and "SECRET" not in (tmp_path / "out/ablation.json").read_text()
    missing = table[table.not_measured.notna()]
    assert set(missing.model) == {"pixel"} and page.count("needs --pixel") == len(missing) == 2
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
    key = "components/full_three_steps/paper/image_auroc"
    assert runs["brain _2024_"][key] == pytest.approx(three.image_auroc, abs=1e-5) and len(runs) == 2

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


def test_what_is_measured_stays_on_the_page_whatever_is_asked_next(ablate, root, tmp_path, untracked):
    shutil.rmtree(root / "knee")
    figures = ["row", "score", "image_auroc", "image_auroc_difference"]

    def components(*arguments):
        status, _ = ablate("--tables", "components", *arguments)
        table = pd.read_csv(tmp_path / "out/ablation.csv")
        assert status == 0
        return table, table[(table.table == "components") & table.not_measured.isna()][figures].reset_index(drop=True)

    _, first = components()
    table, again = components("scores", "--minutes", "0")
    assert len(first) > 4 and first.image_auroc_difference.notna().any()
    pd.testing.assert_frame_equal(again, first)
    assert table[table.table == "scores"].not_measured.str.startswith("beyond --minutes 0: it would take").any()


def test_the_page_of_other_models_does_not_stay(ablate, root, tmp_path, untracked, capsys):
    shutil.rmtree(root / "knee")
    assert ablate("--tables", "components")[0] == 0
    (tmp_path / "empty").mkdir()
    words = ["ablate", str(root), "--output_dir", str(tmp_path / "out"), "--tables", "components"]
    assert main([*words, "--models_dir", str(tmp_path / "empty")]) == 3
    assert "brain was not measured: no model for brain" in capsys.readouterr().err
    page = (tmp_path / "out/ablation.html").read_text()
    assert "<b>brain</b> was not measured: no model for brain" in page and "<table>" not in page
    assert main([*words, "--models_dir", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'none'}: there is no such file or folder\n"


def pixel_model(root, folder):
    """Return a calibrated model of an untrained network over 16 x 16 pixels."""
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "norm_num_groups": 4}
    shape = {"sample_size": 16, "in_channels": 1, "out_channels": 1, "layers_per_block": 1, "block_out_channels": (8,)}
    diffusers.UNet2DModel(**shape, **blocks).save_pretrained(folder / "ddpm")
    diffusers.DDPMScheduler().save_config(folder / "ddpm")
    fixed = {"modality": "brain", "grid": Grid(1, "truncated"), "rule": "cell_of_8"}
    return calibrate_host(read_host(folder / "ddpm"), root / "brain", folder / "pixel.pt", **fixed)


def test_a_model_of_another_host_may_be_the_given_one(root, measured_folder, tmp_path, monkeypatch, capsys, untracked):
    shutil.rmtree(root / "knee")
    monkeypatch.setattr(ablating, "LEVELS", (300,))
    model = str(pixel_model(root, tmp_path))
    given = ["--ckpt_path", model, "--pixel", model, "--tables", "hosts"]
    words = [*given, "--images", "12", "--normals", "4", "--output_dir", str(tmp_path / "out")]
    assert main(["ablate", str(root / "brain"), *words]) == 0
    table = pd.read_csv(tmp_path / "out/ablation.csv")
    assert table[(table.model == "given") & (table.score == "paper")].image_auroc.notna().any()
    assert table[table.score == "in_features"].not_measured.notna().all()  # there are none to look with


@torch.no_grad()
def test_another_host_is_measured_in_pixels_and_in_features(
    ablate, root, measured_folder, tmp_path, monkeypatch, untracked
):
    monkeypatch.setattr(ablating, "LEVELS", (300,))
    shutil.rmtree(root / "knee")
    model = pixel_model(root, tmp_path)
    status, said = ablate("--tables", "hosts", "--pixel", str(model), "--latent", str(model))
    table = pd.read_csv(tmp_path / "out/ablation.csv").set_index(["model", "row", "score"])
    missing, reason = table[table.not_measured.notna()], "--latent is a model in the space of pixels, not of latents"
    assert status == 3 and set(missing.index.get_level_values(0)) == {"latent"}
    assert set(missing.not_measured) == {reason} and f"--latent on brain was not measured: {reason}\n" in said.err
    assert not table.image_auroc_difference.dropna().empty

    host, features = (load_detector(m).host for m in (model, measured_folder / "models/brain.pt"))
    dataset = read_dataset(root / "brain")
    items = [item for item in dataset.items if item.split == "test"]
    squares = [to_image(read_raster(item.image), dataset.modality, host.image_size) for item in items]
    x = host.raw(torch.from_numpy(np.stack(squares))).half().float()
    noise = torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(0)).expand_as(x)
    ends = reconstruct(host.eps, x, noise, 300, 3, host.alphas_cumprod)
    images = [((encoding + 1) / 2).clamp(0, 1).expand(-1, 3, -1, -1) for encoding in (ends, x)]
    seen = [features.encode(F.interpolate(image, (64, 64), mode="bilinear")) for image in images]
    label = [item.label for item in items]
    for score, error in (("paper", ends - x), ("in_features", seen[0] - seen[1])):
        a = error.square().sum(1).sqrt().flatten(1)
        row = table.loc["pixel", "pixel: reconstruction, 3", score]
        assert row.image_auroc == pytest.approx(roc_auc_score(label, a.amax(1) - a.amin(1) + a.sum(1)), abs=1e-5)
        assert (row.level, row.evaluations) == (300, 3)


def test_a_design_without_its_backbone_says_so(ablate, root, monkeypatch, tmp_path, untracked):
    shutil.rmtree(root / "knee")
    for number in (1, 2):
        monkeypatch.setitem(PACKAGED_WEIGHTS, f"tf_efficientnet_lite{number}", ("no_such_package", "weights.pth"))
    assert ablate("--tables", "backbones", "--minutes", "0")[0] == 0
    table = pd.read_csv(tmp_path / "out/ablation.csv")
    reasons = table[table.model.isin(["lite1", "lite2"])].not_measured
    assert len(reasons) == 6 and reasons.str.contains("pip install no_such_package").all()
    assert table[table.model == "default"].not_measured.str.startswith("beyond --minutes 0").all()


@pytest.mark.slow
def test_designs_are_trained_once(noise_set, tmp_path, monkeypatch, capsys, untracked):
    shutil.copytree(noise_set, tmp_path / "root/brain")
    for kind in ("good", "Ungood"):
        for i in range(3):
            for place in ("img", "label")[: 1 + (kind == "Ungood")]:
                save(tmp_path / "root/brain/test" / kind / place / f"{i}.png", 50 + i + 3 * (kind == "good"))
    trained, _ = in_this_process(monkeypatch)
    narrow = "--denoiser#depth 1 --denoiser#hidden_size 32 --batch_size 4 --accumulation_steps 1 --device cpu"
    narrow += " --image_size 64"
    words = [
        "ablate",
        str(tmp_path / "root"),
        "--output_dir",
        str(tmp_path / "out"),
        "--cache_dir",
        str(tmp_path / "cache"),
    ]
    words += ["--steps", "2", "--train", narrow, "--tables"]
    assert main([*words, "normalisation"]) == 0
    assert [keys.get("features::feature_norm", "channel") for keys in trained] == ["channel", None]
    for design, norm in (("default", "channel"), ("raw_features", None)):
        assert read_provenance(tmp_path / "out" / design / "brain/seed0.pt").architecture["feature_norm"] == norm
    table = pd.read_csv(tmp_path / "out/ablation.csv")
    assert table[table.table == "normalisation"].not_measured.isna().all()
    trained.clear()
    assert main([*words, "normalisation"]) == 0 and not trained
    assert "in all: 0.0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tables", "colours"], "invalid choice: 'colours'"),
        (["--images", "0"], "'0' is no number of at least 1"),
        (["--minutes", "nan"], "nan is not a number of minutes, 0 or more"),
        (["--train", "--seed 1"], "--seed is set by this command"),
    ],
)
def test_wrong_words_are_refused(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["ablate", str(tmp_path), *arguments])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FileNotFoundError("no model for brain"), "no model for brain"),
        (FileNotFoundError(2, "No such file or directory", "SECRET.png"), "No such file or directory"),
        (OSError("cannot identify image file 'SECRET.png'"), "OSError"),
        (ValueError("one class only"), "one class only"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_reasons_name_no_file(error, reason):
    assert reason_of(error) == reason
