"""The map of end points and features: by the detector and by both engines, against NumPy, and damaged."""

import numpy as np
import pytest
import torch

from invad_med.bundle import root
from invad_med.detection import load_detector
from invad_med.detection.serve import load_engine, serve

MODEL = f"{root()}/models/resc.pt"
LATER = ("calibration.encodings", "calibration.map_std")


@pytest.fixture(scope="module")
def state():
    return torch.load(MODEL, weights_only=True)


@pytest.fixture(scope="module")
def images():
    coarse = torch.rand(3, 3, 9, 9, generator=torch.Generator().manual_seed(4))
    return torch.nn.functional.interpolate(coarse, size=(256, 256), mode="bicubic").clamp(0, 1).numpy()


@pytest.fixture(scope="module")
def earlier(state, tmp_path_factory):
    """The same model as it was written before encodings were kept."""
    kept = {name: value for name, value in state.items() if name not in LATER}
    kept["calibration._extra_state"] = kept["calibration._extra_state"] | {"score": "memory"}
    path = tmp_path_factory.mktemp("earlier") / "memory.pt"
    torch.save(kept, path)
    return path


@torch.no_grad()
def parts(path, state, images):
    """Return length of the end point and distance of the encoding to the nearest kept, in float64: (3, 16, 16) each."""
    detector = load_detector(path)
    x = detector.host.encode(torch.from_numpy(images)).double().numpy()
    z = detector.end_point(torch.from_numpy(images)).double().numpy()
    mean, std = (state[f"calibration.z_{name}"].double().numpy()[:, None, None] for name in ("mean", "std"))
    bank = state["calibration.encodings"].double().numpy()
    apart = np.array([[[np.linalg.norm(bank - x[i, :, r, c], axis=1).min() for c in range(16)] for r in range(16)]
                      for i in range(len(x))])  # fmt: skip
    return np.sqrt((((z - mean) / std) ** 2).mean(1)), apart


def enlarged(maps):
    """Maps (N, 16, 16) as detections have them."""
    large = torch.nn.functional.interpolate(torch.from_numpy(maps)[:, None], (256, 256), mode="bilinear")
    return large[:, 0].numpy()


@pytest.mark.parametrize("engine", ["eager", "onnxruntime", "openvino"])
def test_the_map_is_the_sum_of_both_parts(engine, state, images):
    if engine == "openvino":
        pytest.importorskip("openvino")
    length, apart = parts(MODEL, state, images)
    std = state["calibration.map_std"].double().numpy()
    assert state["calibration.encodings"].shape == (2_000, 192) and std.shape == (2,)
    wanted = enlarged(length / std[0] + apart / std[1])
    for found, expected in zip(serve(MODEL, engine=engine).detect(images, gate=False), wanted, strict=True):
        assert engine in found.computed_by
        np.testing.assert_allclose(found.map, expected, rtol=2e-5, atol=1e-4)


def test_an_earlier_model_keeps_its_map_and_its_score(state, images, earlier):
    before, now = load_detector(earlier), load_detector(MODEL)
    assert (before.calibration.rule, now.calibration.rule) == ("memory", "memory_and_features")
    length, _ = parts(earlier, state, images)
    found = [(a, b) for a, b in zip(before.detect(images, gate=False), now.detect(images, gate=False), strict=True)]
    for (a, b), expected in zip(found, enlarged(length), strict=True):
        np.testing.assert_allclose(a.map, expected, rtol=1e-4, atol=1e-5)
        assert a.score == b.score and a.p_value == b.p_value and a.paper_score == b.paper_score
        assert b.map.mean() > 2 * a.map.mean()


@pytest.mark.parametrize(
    ("change", "eager", "graph"),
    [
        ({LATER[0]: torch.full((2_000, 192), torch.nan)}, r"NaN or infinite values \(calibration\.encodings\)", None),
        ({LATER[1]: torch.tensor([1.0, torch.inf])}, r"NaN or infinite values \(calibration\.map_std\)", None),
        (
            {LATER[0]: torch.zeros(2_000, 100)},
            r"calibration\.encodings is \(2000, 100\), and the rule memory_and_features takes some vectors of 192 cha",
            r"calibration\.encodings is \(2000, 100\) in the checkpoint, \(2000, 192\) in the graph",
        ),
        (
            {LATER[0]: torch.zeros(0, 192)},
            r"calibration\.encodings is \(0, 192\), and the rule memory_and_features takes some vectors of 192 channe",
            r"calibration\.encodings is \(0, 192\) in the checkpoint, \(2000, 192\) in the graph",
        ),
        (
            {LATER[1]: torch.ones(3)},
            r"calibration\.map_std is \(3,\), and the rule memory_and_features takes 2 deviations",
            r"calibration\.map_std is \(3,\) in the checkpoint, \(2,\) in the graph",
        ),
        (
            {LATER[1]: None},
            r"calibration\.map_std is \(0,\), and the rule memory_and_features takes 2 deviations",
            r"has no calibration\.map_std",
        ),
    ],
)
def test_what_is_damaged_is_refused(change, eager, graph, state, tmp_path):
    torch.save({k: v for k, v in (state | change).items() if v is not None}, tmp_path / "damaged.pt")
    with pytest.raises(ValueError, match=eager):
        load_detector(tmp_path / "damaged.pt")
    with pytest.raises(ValueError, match=graph or eager):
        load_engine(tmp_path / "damaged.pt")


def test_a_rule_without_encodings_takes_none(state, tmp_path):
    other = state["calibration._extra_state"] | {"score": "memory"}
    torch.save(state | {"calibration._extra_state": other}, tmp_path / "mixed.pt")
    with pytest.raises(ValueError, match=r"encodings is \(2000, 192\), and the rule memory takes no vectors of 192"):
        load_detector(tmp_path / "mixed.pt")
