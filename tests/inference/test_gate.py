"""Images unlike what their model was trained on: listed with what they resemble, not scored, unless the key says so."""

import json
import operator
from dataclasses import replace

import monai.bundle
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from invad_med.__main__ import main
from invad_med.bundle import root
from invad_med.data.modalities import require_modality
from invad_med.data.prediction import Status
from invad_med.data.provenance import Provenance
from invad_med.detection import AnomalyDetector, Detectors, FeatureHost, load_detector, model_files
from invad_med.diffusion import Walked
from invad_med.features.cached import cached_features
from invad_med.files import data_digest
from invad_med.inference.predictor import load
from invad_med.networks import FrozenFeatures, create_denoiser
from invad_med.training.cohort import read_cohort

TITLES = {"brain": "Brain MRI", "chest": "Chest X-ray", "liver": "Abdominal CT"}


def draw(kind, seed):
    """Draw discs (brain), stripes (chest) or fine grain (liver): (64, 64) uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:64, :64]
    if kind == "brain":
        away = np.hypot(y - rng.uniform(26, 38), x - rng.uniform(26, 38))
        picture = 160.0 * (away < rng.uniform(16, 22)) + 40 * np.sin(away / 3)
    elif kind == "chest":
        picture = 128 + 100 * np.sin(x / rng.uniform(1.5, 2.5) + rng.uniform(0, 6))
    else:
        picture = 255 * rng.random((64, 64))
    return np.clip(picture + rng.normal(0, 4, (64, 64)), 0, 255).astype(np.uint8)


def save(path, picture):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
    return path


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Data sets of discs and of stripes, 70 normal images each."""
    folder = tmp_path_factory.mktemp("sets")
    for kind in ("brain", "chest"):
        for i in range(70):
            save(folder / kind / "train" / "good" / f"{i:02d}.png", draw(kind, i))
    return folder


@pytest.fixture(scope="module")
def old_models(sets, tmp_path_factory):
    """Models of both, calibrated, without a limit."""
    folder = tmp_path_factory.mktemp("old")
    torch.manual_seed(0)
    features = FrozenFeatures()
    for kind in ("brain", "chest"):
        denoiser = create_denoiser("tiny", features.out_channels, 4, depth=1, hidden_size=32, num_heads=4)
        detector = AnomalyDetector(FeatureHost(features, denoiser, 64)).eval()
        cohort = read_cohort(sets / kind, kind)
        raw = cached_features(detector.host, [*cohort.train, *cohort.held_out], require_modality(kind), progress=False)
        detector.host.fit_normalisation(raw)
        with torch.no_grad():
            z = detector.engine.from_raw(raw.float())
        detector.calibration.fit(Walked(z[:40], z[:40]), Walked(z[40:], z[40:]), detector.timesteps)
        detector.provenance = Provenance(
            detector.host.architecture.to_plain(), kind, TITLES[kind], train_images=len(cohort.train), seed=0,
            data_digest=data_digest([*cohort.train, *cohort.held_out]), held_out_fraction=0.15,
        )  # fmt: skip
        later = ("familiarity", "calibration.remembered", "calibration.encodings", "calibration.map_std")
        state = {name: value for name, value in detector.state_dict().items() if not name.startswith(later)}
        torch.save(state, folder / f"{kind}.pt")
    return folder


@pytest.fixture(scope="module")
def models(sets, old_models, tmp_path_factory):
    """The same models with a limit, by the command."""
    folder = tmp_path_factory.mktemp("models")
    for kind in ("brain", "chest"):
        output = str(folder / f"{kind}.pt")
        assert main(["complete", str(old_models / f"{kind}.pt"), str(sets / kind), "--output", output]) == 0
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Two images of discs, one of stripes, one of grain, a volume none of which is alike: given to the brain model."""
    folder = tmp_path_factory.mktemp("in")
    save(folder / "disc_a.png", draw("brain", 100))
    save(folder / "disc_b.png", draw("brain", 101))
    save(folder / "grain.png", draw("liver", 100))
    save(folder / "stripes.png", draw("chest", 100))
    pages = [Image.fromarray(draw(kind, 102)) for kind in ("brain", "chest", "brain")]
    pages[0].save(folder / "pages.tif", save_all=True, append_images=pages[1:])
    return folder


def scored(models, pictures, output, **keys):
    shipped = {"_target_": "invad_med.detection.model_files", "ckpt_path": "@ckpt_path", "models_dir": str(models)}
    common = {"config_file": f"{root()}/configs/inference.json", "device": "cpu", "ckpt_path": str(models / "brain.pt")}
    monai.bundle.run(**common, models=shipped, dataset_dir=str(pictures), output_dir=str(output), **keys)
    table = pd.read_csv(output / "scores.csv")
    return table.set_index(table.input + table.slice.astype(str))


def test_what_is_unlike_is_listed_and_not_scored(models, pictures, tmp_path, capsys):
    table = scored(models, pictures, tmp_path)
    said = capsys.readouterr().out
    unlike = ["grain0", "pages1", "stripes0"]
    assert table.status.to_dict() == {i: "unfamiliar" if i in unlike else "scored" for i in table.index}
    numbers = ["score", "threshold", "abnormal", "p_value", "paper_score"]
    assert table.loc[unlike, numbers].isna().all(axis=None)
    assert table.loc[["disc_a0", "disc_b0", "pages0", "pages2"], "score"].notna().all()
    reason = r"unlike the images that the model for Brain MRI was trained on \(distance \d+\.\d\d of a limit of 1\); "
    assert table.reason["stripes0":"stripes0"].str.fullmatch(reason + "it resembles Chest X-ray").all()
    assert table.reason["grain0":"grain0"].str.fullmatch(reason + "it resembles those of no other model").all()
    assert (table.modality == "brain").all(), "the model that was to score them"
    assert "4 slices scored" in said and "; 3 unlike what their model was trained on, 0 not read" in said
    assert {p.stem for p in (tmp_path / "maps").iterdir()} == {"disc_a", "disc_b", "pages"}
    drawn = {p.relative_to(tmp_path / "heatmaps").as_posix() for p in (tmp_path / "heatmaps").rglob("*.png")}
    assert len(drawn) == 4 and not any("grain" in name or "stripes" in name for name in drawn)
    assert {row["status"] for row in json.loads((tmp_path / "scores.json").read_text())} == {"scored", "unfamiliar"}
    again = scored(models, pictures, tmp_path)
    assert again.equals(table) and "7 of them were scored by an earlier run" in capsys.readouterr().out


def test_the_key_switches_it_off(models, old_models, pictures, tmp_path):
    table = scored(models, pictures, tmp_path / "off", gate=False)
    assert (table.status == "scored").all() and table.score.notna().all() and table.reason.isna().all()
    assert table.equals(scored(old_models, pictures, tmp_path / "old")), "a model without a limit says nothing of it"


def test_in_python(models, pictures):
    image = draw("chest", 7)
    (prediction,) = load("brain", ckpt_path=models / "brain.pt", device="cpu")(image)
    assert (prediction.status, prediction.score, prediction.map) == (Status.UNFAMILIAR, None, None)
    assert prediction.reason.endswith("of a limit of 1)"), "no other model is loaded to compare with"
    (prediction,) = load("brain", ckpt_path=models / "brain.pt", device="cpu", gate=False)(image)
    assert prediction.status is Status.SCORED and prediction.score is not None


@torch.no_grad()
def test_the_numbers_of_familiar_images_are_those_of_no_gate_and_of_no_batch(models):
    pictures = [draw(kind, 200 + i) for i, kind in enumerate(["brain", "chest", "brain", "liver", "brain"])]
    images = torch.from_numpy(np.stack(pictures) / 255).float()[:, None].expand(-1, 3, -1, -1)
    detector = load_detector(models / "brain.pt")
    together, without = detector.detect(images), detector.detect(images, gate=False)
    assert [d.unfamiliar for d in together] == [False, True, False, True, False]
    for i, detection in enumerate(together):
        (alone,) = detector.detect(images[i : i + 1])
        assert alone.unfamiliar == detection.unfamiliar
        assert detection.distance == pytest.approx(alone.distance, rel=1e-4)
        if detection.unfamiliar:
            assert (detection.score, detection.threshold, detection.p_value, detection.paper_score) == (None,) * 4
        else:
            same = replace(detection, distance=None, map=without[i].map)
            assert same == without[i] and np.array_equal(detection.map, without[i].map)


def test_models_of_one_encoder_see_an_image_once(models, monkeypatch):
    detectors = Detectors(model_files(models / "brain.pt", models), engine="eager")
    image = torch.from_numpy(draw("chest", 5) / 255).float().expand(1, 3, -1, -1).numpy()
    chest = detectors.detector("chest")
    assert detectors.detector("brain").encoder == chest.encoder
    monkeypatch.setattr(AnomalyDetector, "moments", None)  # it is not asked
    (shared,) = detectors.detect(image)
    monkeypatch.undo()
    chest.encoder = "another"
    (own,) = detectors.detect(image)
    assert shared.unfamiliar and shared.withheld == own.withheld
    assert shared.withheld.endswith("it resembles Chest X-ray")
    raw = chest.host.raw(torch.from_numpy(image))
    assert chest.likeness.distance(shared.moments[None]) == pytest.approx(chest.familiarity.distance(raw).item(), 1e-5)


def test_another_model_that_does_not_load_stops_nothing(models, tmp_path):
    (tmp_path / "brain.pt").write_bytes((models / "brain.pt").read_bytes())
    (tmp_path / "chest.pt").write_bytes(b"broken")
    detectors = Detectors(model_files(tmp_path / "brain.pt", tmp_path))
    image = torch.from_numpy(draw("chest", 5) / 255).float().expand(1, 3, -1, -1)
    (detection,) = detectors.detect(image)
    assert detection.unfamiliar and "resembles" not in detection.withheld


def test_the_command_refuses_what_it_cannot_fit_on(sets, old_models, tmp_path, capsys):
    assert main(["complete", str(old_models / "brain.pt"), str(sets / "chest")]) == 2
    said = capsys.readouterr().err
    assert "chest are not those that the model was trained with (digest" in said
    assert "give the folder that it was trained on" in said
    assert main(["complete", str(tmp_path / "gone.pt"), str(sets / "chest")]) == 2
    for i in range(30):
        save(tmp_path / "brain" / "train" / "good" / f"{i}.png", draw("brain", i))
    cohort = read_cohort(tmp_path / "brain")
    state = torch.load(old_models / "brain.pt", weights_only=True)
    stated = state["_extra_state"] | {"data_digest": data_digest([*cohort.train, *cohort.held_out])}
    torch.save(state | {"_extra_state": stated}, tmp_path / "few.pt")
    before = (tmp_path / "few.pt").read_bytes()
    assert main(["complete", str(tmp_path / "few.pt"), str(tmp_path / "brain")]) == 2
    assert "25 training and 5 held-out normal images are too few for a limit: at least 50 and 10" in (
        capsys.readouterr().err
    )
    assert (tmp_path / "few.pt").read_bytes() == before


def test_the_command_changes_nothing_else(old_models, models):
    old, new = (torch.load(folder / "brain.pt", weights_only=True) for folder in (old_models, models))
    added = {name for name in new if name not in old}
    assert all(name.startswith("familiarity.") for name in added) and len(added) == 7
    torch.testing.assert_close(
        {name: v for name, v in new.items() if isinstance(v, torch.Tensor) and name in old},
        {name: v for name, v in old.items() if isinstance(v, torch.Tensor)},
        rtol=0,
        atol=0,
    )
    assert len(new.pop("studies._extra_state")["scores"]) and not len(old.pop("studies._extra_state")["scores"])
    assert all(repr(new[name]) == repr(v) for name, v in old.items() if not isinstance(v, torch.Tensor))


def test_studies_can_be_compared_with_other_normal_patients(sets, models, tmp_path, capsys):
    for i in range(8):
        save(tmp_path / "brain" / "train" / "good" / f"{i}.png", draw("brain", 300 + i))
    command = ["complete", str(models / "brain.pt"), str(sets / "brain"), "--output", str(tmp_path / "brain.pt")]
    assert main([*command, "--normals", str(tmp_path / "brain")]) == 0
    studies = load_detector(tmp_path / "brain.pt").studies
    assert len(np.unique(studies.patients)) == 8
    assert main([*command, "--normals", str(sets / "brain")]) == 2
    assert "are among those that the model has seen" in capsys.readouterr().err
    before = (tmp_path / "brain.pt").read_bytes()
    assert main([*command, "--normals", str(sets / "chest")]) == 2
    assert (
        "70 of 70 normal images of" in (said := capsys.readouterr().err)
        and "are unlike those that the model was trained on" in said
        and "give normal patients of the model's kind" in said
    )
    assert (tmp_path / "brain.pt").read_bytes() == before


def test_the_command_says_whether_the_model_judges_studies(sets, old_models, tmp_path, capsys):
    command = ["complete", str(tmp_path / "brain.pt"), str(sets / "brain")]
    state = torch.load(old_models / "brain.pt", weights_only=True)
    torch.save(state, tmp_path / "brain.pt")
    assert main(command) == 0
    assert "images, and judges studies" in capsys.readouterr().out
    stated = state["_extra_state"] | {"train_images": 3}  # divided otherwise: what calibrates may have been learnt from
    torch.save(state | {"_extra_state": stated}, tmp_path / "brain.pt")
    assert main(command) == 0
    assert "images, and does not judge studies" in capsys.readouterr().out


def test_what_is_there_stays(sets, models, tmp_path):
    whole = models / "brain.pt"
    assert main(["complete", str(whole), str(sets / "brain"), "--output", str(tmp_path / "brain.pt")]) == 0
    one, other = (torch.load(path, weights_only=True) for path in (whole, tmp_path / "brain.pt"))
    assert one.keys() == other.keys() and all(repr(one[name]) == repr(other[name]) for name in one)


def test_another_rule_is_fitted_with_the_same_network(sets, models, tmp_path, capsys):
    command = ["complete", str(models / "brain.pt"), str(sets / "brain"), "--output", str(tmp_path / "brain.pt")]
    assert main([*command, "--rule", "memory"]) == 0
    assert main([*command[:-1], str(tmp_path / "both.pt"), "--rule", "memory_and_features"]) == 0
    own, plain, both = (
        torch.load(path, weights_only=True)
        for path in (models / "brain.pt", tmp_path / "brain.pt", tmp_path / "both.pt")
    )

    def differing(one, other):
        pairs = {name: (one.get(name), other[name]) for name in other}
        same = (
            torch.equal if isinstance(b, torch.Tensor) and a is not None else operator.eq for a, b in pairs.values()
        )
        return {name for (name, (a, b)), alike in zip(pairs.items(), same, strict=True) if not alike(a, b)}

    assert all(name.startswith(("calibration.", "studies.")) for name in differing(own, plain))
    changed = {"encodings", "map_std", "map_reference", "_extra_state"}
    assert differing(plain, both) == {f"calibration.{name}" for name in changed}
    image = np.stack([np.repeat(draw("brain", 100)[None] / 255.0, 3, 0)]).astype(np.float32)
    before, after = (load_detector(tmp_path / name).detect(image)[0] for name in ("brain.pt", "both.pt"))
    assert before.score == after.score and not np.allclose(before.map, after.map)
    capsys.readouterr()
    assert main([*command, "--rule", "largest"]) == 2
    assert "there is no rule 'largest' for the score; known are" in capsys.readouterr().err
    for stated, said in (
        ({"cross_fit_folds": 3}, "calibrated by several networks, so that no other rule can be fitted: train it anew"),
        (
            {"train_images": 3},
            "the model states 3 normal images to learn from, 11 to calibrate, 11 to choose; the folder divides",
        ),
        ({"selection_images": 5}, "11 to calibrate, 5 to choose; the folder divides into 59, 11 and 11"),
    ):
        torch.save(own | {"_extra_state": own["_extra_state"] | stated}, tmp_path / "other.pt")
        assert main(["complete", str(tmp_path / "other.pt"), str(sets / "brain"), "--rule", "memory"]) == 2
        assert said in capsys.readouterr().err
