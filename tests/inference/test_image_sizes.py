"""Models that take images of different sizes in one run: each image is scored as if its model were alone."""

import monai.bundle
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from invad_med.data.prediction import Detection
from invad_med.inference.monai import Carried, DetectorInferer
from invad_med.inference.predictor import load
from tests.conftest import CONFIGS
from tests.detection.test_detectors import save_model


@pytest.fixture
def folders(tmp_path):
    """Models of 128 and 64 pixels, and pictures of both kinds, larger than either."""
    (tmp_path / "models").mkdir()
    save_model(tmp_path / "models" / "brain.pt", image_size=128, modality="brain")
    save_model(tmp_path / "models" / "chest.pt", image_size=64, modality="chest")
    rng = np.random.default_rng(0)
    for name in ("brain/a", "chest/b", "brain/c", "chest/d"):
        path = tmp_path / "in" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (40, 50), dtype=np.uint8))
        coarse.resize((250, 200), Image.Resampling.BICUBIC).save(path)
    return tmp_path


@pytest.mark.filterwarnings("ignore")
def test_a_score_does_not_depend_on_what_else_is_in_the_run(folders):
    def scores(images, default, **keys):
        out = folders / f"{images.name}-{default}-{len(keys)}"
        monai.bundle.run(
            config_file=str(CONFIGS / "inference.json"), dataset_dir=str(images), output_dir=str(out), device="cpu",
            ckpt_path=str(folders / "models" / f"{default}.pt"), dicom_out=[],
            **{"models#models_dir": str(folders / "models"), **keys},
        )  # fmt: skip
        table = pd.read_csv(out / "scores.csv").set_index("input")
        maps = {path.stem: np.asarray(Image.open(path)).shape for path in out.rglob("*.png")}
        assert maps and set(table.status) == {"scored"}
        return {name.rpartition("/")[2]: row.paper_score for name, row in table.iterrows()}

    alone = {name: score for kind in ("brain", "chest") for name, score in scores(folders / "in" / kind, kind).items()}
    assert set(alone) == set("abcd")
    for default in ("brain", "chest"):
        for keys in ({}, {"dataloader#num_workers": 2}):
            assert scores(folders / "in", default, **keys) == pytest.approx(alone, rel=1e-5)
    predictor = load(ckpt_path=folders / "models" / "brain.pt", modality="brain", device="cpu")
    (again,) = predictor(folders / "in" / "brain" / "a.png")
    assert again.paper_score == pytest.approx(alone["a"], rel=1e-5)


def test_the_networks_do_not_look_at_a_batch_of_which_nothing_could_be_read():
    asked = []

    def network(images, modalities):
        asked.append((tuple(images.shape), modalities))
        return [Detection(map=np.ones((8, 8), np.float32), score=1.0) for _ in images]

    network.alone = lambda name: False
    images, names, sizes = torch.zeros(3, 3, 8, 8), ["a", "a", "b"], [Carried(8)] * 3
    for readable, calls in (([False, False, False], 0), ([False, True, False], 1), (None, 1)):
        asked.clear()
        given = None if readable is None else [Carried(r) for r in readable]
        detections = DetectorInferer()(images, network, names, sizes, given)
        assert len(asked) == calls and len(detections) == 3
        assert [d.map.shape for d in detections] == [(8, 8)] * 3
        assert all(d.score == 1.0 for d in detections) or (not calls and all(d.score is None for d in detections))
        assert asked in ([], [((3, 3, 8, 8), names)])
