"""What takes part in the comparison of networks, and what its records say."""

import sys

import numpy as np
import pytest
import torch

from invad_med.bench import contestants
from invad_med.bench.builds import Build, this_build
from invad_med.bench.clock import Cost, timed
from invad_med.bench.contestants import AUTHORS, OURS, Contestant, authors, ours, rivals
from invad_med.bench.former import FormerDetector
from invad_med.bench.networks import compared
from invad_med.bench.record import Absent
from invad_med.bench.rivals import RIVALS, TensorsOnly
from invad_med.bundle import root
from invad_med.detection import load_detector
from invad_med.diffusion import inversion_timesteps

MODEL = f"{root()}/models/phantom.pt"


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).random((1, 3, 256, 256), np.float32)


@pytest.fixture(scope="module")
def found():
    """Our contestants."""
    return list(ours(MODEL, export=False))


def test_ours_is_there_with_one_evaluation_and_three_and_alike_in_every_engine(found, image):
    there = [each for each in found if isinstance(each, Contestant)]
    assert {("eager", 1), ("eager", 3), ("onnxruntime", 1)} <= {(each.engine, each.evaluations) for each in there}
    eager = there[0].forward(image)[0].numpy()
    for each in there:
        if each.evaluations == 1:
            np.testing.assert_allclose(np.asarray(each.forward(image)[0]), eager, rtol=2e-2, atol=1e-2 * eager.max())
    one, three = (each for each in there if each.engine == "eager")
    tokens, width, channels, depth = 256, 192, 192, 4
    step = 2e-9 * tokens * (depth * (12 * width**2 + 2 * tokens * width) + 2 * channels * width)
    assert (three.gflop - one.gflop) / 2 == pytest.approx(step, rel=0.01)
    for each in found:
        assert isinstance(each, Contestant) or each.why


def test_the_authors_formulation_computes_the_same_at_more_operations(found, image):
    detector = load_detector(MODEL)
    detector.timesteps = inversion_timesteps(3, "official")
    with torch.no_grad():
        wanted = detector.end_point(torch.from_numpy(image)).norm(dim=1)
        theirs = authors(MODEL)
        norms = theirs.forward(image)[0]
    assert theirs.name == AUTHORS and norms.shape == wanted.shape
    ratio = (norms / wanted).numpy()
    np.testing.assert_allclose(ratio, ratio.mean(), rtol=1e-3)
    three = next(e for e in found if isinstance(e, Contestant) and e.evaluations == 3)
    assert theirs.gflop > three.gflop


def test_rivals_that_are_not_installed_are_listed(monkeypatch):
    monkeypatch.setitem(sys.modules, "anomalib.models.image.padim.torch_model", None)
    monkeypatch.setattr(contestants, "RIVALS", {"PaDiM, ResNet-18": RIVALS["PaDiM, ResNet-18"]})
    found = list(rivals())
    assert [(each.name, each.engine) for each in found] == [("PaDiM, ResNet-18", e) for e in ("eager", "openvino")]
    assert all(isinstance(each, Absent) and "pip install 'invad-med[bench]'" in each.why for each in found)


def test_a_rival_runs_in_eager_where_openvino_is_not_installed(monkeypatch, image):
    class Record(torch.nn.Module):
        def forward(self, images):
            self.pred_score, self.anomaly_map = images.mean((1, 2, 3)), images[:, :1] @ images[:, 1:2]
            return self

    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr(contestants, "RIVALS", {"made": Record})
    monkeypatch.setattr(contestants, "make_rival", lambda name: TensorsOnly(Record()))
    there, absent = rivals()
    score, anomaly = there.forward(image)
    assert score == pytest.approx(image.mean()) and anomaly.shape == (1, 1, 256, 256)
    assert there.gflop == pytest.approx(2 * 256**3 / 1e9) and absent.engine == "openvino"


def test_times_are_of_one_image_beside_the_floor():
    contestant = Contestant(OURS, "eager", 1, gflop=2.0, forward=len)
    seconds = {"product": 0.020, "decode": 0.001, "0 1": 0.040, "0 4": 0.120, "0 file": 0.041}
    costs = {key: [Cost(s, 2 * s), Cost(s, 2 * s)] for key, s in seconds.items()}
    found = compared("phantom", [contestant], [], costs)
    assert found.product_gflops == pytest.approx(2 * 1.024**3 / 0.020)
    rows = {(t.batch, t.from_file): t for t in found.times}
    assert {key: round(t.core_ms.p50, 6) for key, t in rows.items()} == {(1, False): 40, (4, False): 30, (1, True): 41}
    assert rows[4, False].wall_ms.p50 == pytest.approx(60)
    assert rows[1, False].of_floor == pytest.approx(0.040 / (2.0 / found.product_gflops))


def test_a_former_build_says_itself_what_an_image_costs_it(image):
    with FormerDetector(this_build()) as detector:
        one, four = detector(image), detector(np.repeat(image, 4, axis=0))
    assert detector.evaluations == 1 and 0 < one.core < 10 and four.wall > 0
    assert timed(lambda: one) is one


def test_a_former_build_that_has_no_detector_is_refused(tmp_path):
    (tmp_path / "invad_med").mkdir()
    (tmp_path / "invad_med" / "__init__.py").touch()
    with pytest.raises(RuntimeError, match=r"leave out --former:\n(?s:.)*ModuleNotFoundError"):
        FormerDetector(Build("former", this_build().python, tmp_path))
