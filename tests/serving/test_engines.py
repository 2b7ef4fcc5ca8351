"""Engines that run graphs, against the detector in PyTorch, and graphs as they ship and are kept."""

import dataclasses
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from invad_med.commands.graphs import shipped_keys
from invad_med.detection import load_detector
from invad_med.detection.export import export_graph
from invad_med.detection.serve import graph_for, load_engine, serve
from invad_med.detection.whole import random_detector
from invad_med.diffusion import Walked, invert
from invad_med.scoring import anomaly_map, paper_score, rules
from invad_med.serving.engines import OnnxRuntime, usable_threads
from invad_med.serving.graph import Graph, GraphKey, find_graph, keep_graph, kept_path, shipped_path
from invad_med.serving.weights import open_weights
from invad_med.timesteps import Grid

MODELS = sorted((Path(__file__).parents[2] / "bundles" / "invad" / "models").glob("*.pt"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Keep graphs in a folder of the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def images(count, seed=0, side=256):
    """Return smooth images (count, 3, side, side) in [0, 1]."""
    coarse = torch.rand(count, 3, 9, 9, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic").clamp(0, 1)


@torch.no_grad()
def reference(detector, batch):
    """Return what the detector's parts make of images, by the names of a `Served`."""
    raw = detector.host.raw(batch)
    z = detector.engine.from_raw(raw)
    return {
        "map": detector.calibration.map(Walked(detector.host.normalise(raw), z)),
        "paper_score": paper_score(z),
        "score": detector.calibration.score(z),
        "moments": torch.cat([raw.mean((2, 3)), raw.std((2, 3), correction=0)], dim=1),
    }


def assert_close(served, expected, tolerance):
    """Assert that each output differs by at most ``tolerance`` of its largest value, and that no others are there."""
    for name, ours in served._asdict().items():
        if name not in expected:
            assert ours is None
            continue
        wanted = expected[name].numpy()
        assert ours.dtype == np.float32 and ours.shape == wanted.shape
        assert np.abs(ours - wanted).max() <= tolerance * np.abs(wanted).max(), name


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_models_that_ship_are_served_by_graphs_that_ship_as_pytorch_serves_them(path):
    with open_weights(path) as weights:
        key = GraphKey.of(weights)
    assert shipped_path(key).is_file() and shipped_path(key).stat().st_size < 300_000
    batch = images(3)
    assert_close(load_engine(path)(batch.numpy()), reference(load_detector(path), batch), 1e-5)


def test_every_graph_that_ships_computes_what_the_code_computes():
    keys = list(shipped_keys())
    assert {shipped_path(key) for key in keys} == set(shipped_path(keys[0]).parent.glob("*.zip"))
    for key in keys:
        module, batch = random_detector(key), images(1)
        graph = Graph.from_file(shipped_path(key), key)
        state = module.state_dict()
        with torch.no_grad():
            expected = dict(zip(module.outputs, module(batch), strict=True))
        served = OnnxRuntime(graph, {name: state[name].numpy() for name in graph.weights})(batch.numpy())
        assert_close(served, expected, 1e-4)


SMALL = {
    "host": "features", "image_size": 64, "backbone": "tf_efficientnet_lite0", "out_indices": (0, 1, 2, 3),
    "feature_norm": "channel", "official_padding": False, "merge": "point", "preset": "cpu",
    "sizes": {"depth": 1, "hidden_size": 32, "num_heads": 2, "patch_size": 1, "mlp_ratio": 2.0},
    "denoiser": "VelocityDenoiser",
}  # fmt: skip


def test_another_architecture_is_exported_once_and_kept_and_damage_makes_it_anew(caplog, monkeypatch):
    key = GraphKey(SMALL, ((0, 333), (333, 999)), None)
    assert find_graph(key) is None
    graph = graph_for(key)
    assert "a graph of this architecture, timesteps and rule is made, once" in caplog.text
    module = random_detector(key)
    state = module.state_dict()
    batch = images(2, side=64)
    with torch.no_grad():
        raw = module.host.raw(batch)
        z = invert(module.host.eps, module.host.normalise(raw), key.timesteps, module.host.alphas_cumprod)
    served = OnnxRuntime(graph, {name: state[name].numpy() for name in graph.weights})(batch.numpy())
    moments = torch.cat([raw.mean((2, 3)), raw.std((2, 3), correction=0)], dim=1)
    assert_close(served, {"map": anomaly_map(z), "paper_score": paper_score(z), "moments": moments}, 1e-5)

    assert kept_path(key).read_bytes() == graph.to_bytes(key)
    monkeypatch.setattr("invad_med.detection.export.export_graph", None)  # it is not made again
    assert graph_for(key) == graph
    other = dataclasses.replace(key, timesteps=((0, 999),))
    kept_path(other).write_bytes(kept_path(key).read_bytes())
    assert find_graph(other) is None and "holds another graph" in caplog.text
    kept_path(key).write_bytes(kept_path(key).read_bytes()[:-30])
    assert find_graph(key) is None and "is damaged (BadZipFile)" in caplog.text
    for about in ("[]", "{}", "no JSON", '{"key": "", "names": [], "weights": {"a": 3}}'):
        with zipfile.ZipFile(kept_path(key), "w") as archive:
            archive.writestr("about.json", about)
            archive.writestr("model.onnx", b"")
        caplog.clear()
        assert find_graph(key) is None and "is damaged" in caplog.text


def test_a_folder_that_cannot_be_written_costs_no_result(caplog, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    key = GraphKey(SMALL, ((0, 999),), None)
    keep_graph(key, Graph(b"", {}))
    assert "the graph is not kept" in caplog.text


def test_exporting_anew_gives_the_graph_that_ships():
    key = next(iter(shipped_keys()))
    shipped, new = Graph.from_file(shipped_path(key), key), export_graph(key)
    assert new.weights == shipped.weights
    state = random_detector(key).state_dict()
    weights = {name: state[name].numpy() for name in new.weights}
    batch = images(1).numpy()
    for ours, theirs in zip(OnnxRuntime(new, weights)(batch), OnnxRuntime(shipped, weights)(batch), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_an_image_is_served_alike_whatever_it_is_with_and_by_however_many_threads():
    batch = images(4).numpy()
    one, two = (load_engine(MODELS[0], threads=threads) for threads in (1, 2))
    together = one(batch)
    for i in range(4):
        for ours, theirs in zip(one(batch[i : i + 1]), together, strict=True):
            np.testing.assert_array_equal(ours[0], theirs[i])
    for ours, theirs in zip(two(batch), together, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_other_timesteps_have_no_score_and_other_weights_are_refused(tmp_path):
    with open_weights(MODELS[0]) as weights:
        assert GraphKey.of(weights, ((0, 999),)).rule is None
    state = torch.load(MODELS[0], weights_only=True)
    for change, message in (
        (
            {"calibration.z_mean": torch.zeros(3)},
            r"calibration.z_mean is \(3,\) in the checkpoint, \(192,\) in the graph",
        ),
        ({"calibration.z_mean": torch.full((192,), torch.nan)}, "NaN or infinite values .*training diverged"),
        ({"calibration.z_mean": None}, "has no calibration.z_mean"),
        ({"host.denoiser.network.of_my_own": torch.zeros(3)}, "not expected: host.denoiser.network.of_my_own"),
    ):
        torch.save({k: v for k, v in (state | change).items() if v is not None}, tmp_path / "other.pt")
        with pytest.raises(ValueError, match=message):
            load_engine(tmp_path / "other.pt")
    for change, message in (
        ({"calibration.reference": torch.full((40,), torch.nan)}, r"NaN or infinite values \(calibration.reference\)"),
        ({"familiarity.scale": torch.full((384,), torch.nan)}, r"NaN or infinite values \(familiarity.scale\)"),
        (
            {"familiarity.variances": state["familiarity.variances"][:3]},
            r"familiarity.directions is \(\d+, 384\), and \(3, 384\) would fit",
        ),
    ):
        torch.save(state | change, tmp_path / "other.pt")
        with pytest.raises(ValueError, match=message):
            serve(tmp_path / "other.pt")
    state.pop("calibration._extra_state")
    torch.save(state, tmp_path / "old.pt")
    with pytest.raises(ValueError, match=r"of version 0\.1 or of no detector"):
        load_engine(tmp_path / "old.pt")


def test_what_an_entry_of_ones_own_means_no_graph_says(tmp_path, monkeypatch):
    path = MODELS[0]
    rule = load_detector(path).calibration.rule
    served = serve(path)
    monkeypatch.setitem(rules.RULES, rule, dataclasses.replace(rules.RULES[rule], remembers=0))
    with pytest.raises(ValueError, match=f"the rule '{rule}' is of your own, and graphs are of the package's: --engin"):
        load_engine(path)
    assert "onnxruntime" in served.computed_by and "eager" in serve(path).computed_by


@pytest.mark.parametrize("grid", [Grid(timesteps=[(0, 1000)]), Grid(timesteps=[(500, 200)])])
def test_timesteps_that_no_schedule_has_are_refused_before_a_graph_is_made(grid):
    with pytest.raises(ValueError, match="timestep"):
        serve(MODELS[0], grid, engine="onnxruntime")


@pytest.mark.parametrize("shape", [(0, 3, 256, 256), (1, 3, 128, 128), (3, 256, 256)])
def test_images_that_do_not_fit_are_refused(shape):
    engine = load_engine(MODELS[0])
    with pytest.raises(ValueError, match=r"takes float32 images \(B, 3, 256, 256\), not float32"):
        engine(np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match="not float64"):
        engine(np.zeros((1, 3, 256, 256)))


def test_openvino_serves_as_pytorch_does_each_image_alike():
    pytest.importorskip("openvino")
    batch, engine = images(3), load_engine(MODELS[0], "openvino")
    together = engine(batch.numpy())
    assert_close(together, reference(load_detector(MODELS[0]), batch), 1e-5)
    for ours, theirs in zip(engine(batch[2:].numpy()), together, strict=True):
        np.testing.assert_array_equal(ours[0], theirs[2])
    with pytest.raises(ValueError, match=r"takes float32 images \(B, 3, 256, 256\)"):
        engine(batch[:, :1].numpy())


def test_what_onnx_runtime_refuses_is_told():
    with pytest.raises(RuntimeError, match=r"ONNX Runtime .* refuses the graph \(InvalidProtobuf\)"):
        OnnxRuntime(Graph(b"no graph", {}), {})


def test_without_a_home_folder_graphs_that_ship_are_found(monkeypatch, caplog):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    assert find_graph(next(iter(shipped_keys()))) is not None
    key = GraphKey(SMALL, ((0, 999),), None)
    assert find_graph(key) is None
    keep_graph(key, Graph(b"", {}))
    assert "the graph is not kept" in caplog.text


def test_an_engine_that_is_not_installed_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RuntimeError, match="engine='onnxruntime' is not installed: pip install onnxruntime"):
        load_engine(MODELS[0])
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(RuntimeError, match=r"engine='openvino' is an extra: pip install 'invad-med\[openvino\]'"):
        load_engine(MODELS[0], "openvino")


def test_an_unknown_engine_is_named():
    with pytest.raises(ValueError, match="engine='fast' is none of onnxruntime, openvino"):
        load_engine(MODELS[0], "fast")


def test_threads_are_those_that_are_asked_for(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert usable_threads() == 3
    for unusable in ("", "many", "0"):
        monkeypatch.setenv("OMP_NUM_THREADS", unusable)
        assert usable_threads() == len(os.sched_getaffinity(0))


def test_scoring_needs_no_torch(tmp_path):
    code = f"""
import sys
for name in ("torch", "timm", "monai", "onnx", "scipy"):
    sys.modules[name] = None
import numpy as np
from invad_med.serving.engines import make_serving_engine
from invad_med.serving.graph import GraphKey, find_graph
from invad_med.serving.weights import open_weights
with open_weights({str(MODELS[0])!r}) as weights:
    graph = find_graph(GraphKey.of(weights))
    engine = make_serving_engine("onnxruntime", graph, graph.fill(weights))
print(*(part.shape for part in engine(np.zeros((2, 3, 256, 256), np.float32))))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "(2, 16, 16) (2,) (2,) (2, 384)\n"


def test_nothing_is_reported_home(tmp_path):
    code = f"from invad_med.detection.serve import load_engine; load_engine({str(MODELS[0])!r})"
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "TMPDIR": str(tmp_path)}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "CI"))}
    subprocess.run([sys.executable, "-c", code], check=True, env=kept | home)
    assert not list(tmp_path.rglob("*"))
