"""The part of a GPU goes the same way on a CPU; what it computes is the network, in another precision."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from invad_med.__main__ import main
from invad_med.bench import device as devices
from invad_med.bench.clock import Cost
from invad_med.bench.contestants import AUTHORS, OURS
from invad_med.bench.device import peak_gb
from invad_med.bench.on_device import OnDevice, compared
from invad_med.bench.precision import in_precision
from invad_med.bench.record import Absent
from invad_med.bundle import root
from invad_med.detection import load_detector
from invad_med.detection.engine import ENGINES, EagerEngine

CPU = ["bench", "--parts", "gpu", "--device", "cpu", "--preset", "cpu", "--batches", "1", "2", "--gpu_rounds", "1",
       "--files", "3", "--quick"]  # fmt: skip


def measure(tmp_path, *arguments):
    """Run the part on a CPU; what bench.json has of it."""
    assert main([*CPU, *arguments, "--output_dir", str(tmp_path)]) == 0
    return json.loads((tmp_path / "bench.json").read_text())["gpu"]


def test_the_part_goes_its_whole_way_on_a_cpu(tmp_path, capsys):
    found = measure(tmp_path, "--engines", "eager")
    preset, files = found["preset"], found["files"]
    assert "CPU" in found["name"] and (preset["name"], preset["dtype"]) == ("cpu", "bfloat16")
    assert preset["parameters"] > 2.9e6 and preset["product_tflops"] > 0 and preset["absent"] == []
    times = {(t["name"], t["engine"], t["batch"]): t for t in preset["times"]}
    assert set(times) == {(name, "eager", batch) for name in (OURS, AUTHORS) for batch in (1, 2)}
    tokens, width, channels, depth = 256, 192, 192, 4
    walk = 3 * 2e-9 * tokens * (depth * (12 * width**2 + 2 * tokens * width) + 2 * channels * width)
    for (name, _, batch), t in times.items():
        assert t["ms"]["p95"] >= t["ms"]["p50"] > 0 and t["of_floor"] > 0 and t["memory_gb"] is None
        assert t["images_per_s"] == pytest.approx(1000 * batch / t["ms"]["p50"]) and walk < t["gflop"] < 2 * walk
        assert (t["authors_over_this"] is None) == (name == AUTHORS)
    (rate,) = files["rates"]
    assert (files["model"], files["files"], files["batch"]) == ("phantom", 4, 2)  # whole batches
    assert rate["computed_by"] == "eager float32" and files["decode_ms"]["p50"] > 0
    assert min(rate[kind]["p50"] for kind in ("memory_ms", "file_ms")) > 0
    said = capsys.readouterr().out
    assert f"cpu in bfloat16 on {found['name']}" in said and found["name"] in (tmp_path / "bench.html").read_text()


@pytest.mark.slow  # waits for a compiler
def test_the_compiled_engine_is_measured_too(tmp_path):
    found = measure(tmp_path, "--engines", "compile")
    assert {t["engine"] for t in found["preset"]["times"] if t["name"] == OURS} == {"compile"}
    assert [rate["computed_by"] for rate in found["files"]["rates"]] == ["compile float32"]


def test_an_engine_that_fails_is_absent_and_the_others_are_measured(tmp_path, monkeypatch):
    class Fails(EagerEngine):
        def from_raw(self, raw):
            raise RuntimeError("no compiler was found\nand more that nobody reads")

    monkeypatch.setitem(ENGINES, "compile", Fails)
    found = measure(tmp_path, "--engines", "compile", "eager", "--batches", "1")
    for part in (found["preset"], found["files"]):
        assert [(a["engine"], a["why"]) for a in part["absent"]] == [("compile", "no compiler was found")]
    assert len(found["preset"]["times"]) == 2 and len(found["files"]["rates"]) == 1
    assert "| ours | compile | no compiler was found |" in (tmp_path / "bench.md").read_text()


def test_what_was_measured_is_kept_where_files_cannot_be(tmp_path, monkeypatch):
    def fails(*arguments):
        raise RuntimeError("DataLoader worker is killed: shared memory is short")

    monkeypatch.setattr("invad_med.commands.bench.measure_files", fails)
    found = measure(tmp_path, "--engines", "eager", "--batches", "1")
    assert len(found["preset"]["times"]) == 2 and "shared memory is short" in found["files"]["why"]
    assert "| phantom, files |  | DataLoader worker is killed" in (tmp_path / "bench.md").read_text()


def test_without_a_gpu_the_run_says_so_and_states_no_figure(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["bench", "--parts", "gpu", "--output_dir", str(tmp_path)]) == 0
    for text in (capsys.readouterr().out, *((tmp_path / f"bench.{end}").read_text() for end in ("html", "json"))):
        assert "no GPU was at hand" in text and "images/s" not in text
    assert set(json.loads((tmp_path / "bench.json").read_text())["gpu"]) == {"name", "engine", "why"}


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda", "cuda: torch sees 0 GPUs here; give another, or cpu to see that it works"),
        ("tpu", "'tpu' is no device that is measured: give cuda, cuda:1 or cpu"),
        ("meta", "'meta' is no device that is measured: give cuda, cuda:1 or cpu"),
    ],
)
def test_a_device_that_is_not_there_is_refused(device, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(SystemExit, match="2"):
        main(["bench", "--parts", "gpu", "--device", device, "--output_dir", str(tmp_path / "out")])
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_bfloat16_computes_the_same_to_its_rounding():
    exact, rounded = (load_detector(f"{root()}/models/phantom.pt") for _ in range(2))
    in_precision(rounded.host, torch.bfloat16)
    image = torch.from_numpy(np.random.default_rng(0).random((1, 3, 256, 256), np.float32))
    with torch.no_grad():
        wanted, z = exact.end_point(image), rounded.end_point(image)
    assert z.dtype == torch.float32 and {p.dtype for p in rounded.host.parameters()} == {torch.bfloat16}
    assert 1e-4 < (z - wanted).norm() / wanted.norm() < 0.05


def test_ratios_and_floor_are_of_the_same_rounds():
    seconds = {"product": [0.001, 0.001], "0 1": [0.010, 0.020], "1 1": [0.030, 0.080]}
    costs = {key: [Cost(9.0, wall) for wall in walls] for key, walls in seconds.items()}
    rows = [OnDevice(name, "eager", 30.0, 5, {}, {1: 2.5}) for name in (OURS, AUTHORS)]
    found = compared("small", torch.bfloat16, 1000, rows, [Absent("x", "y", "z")], costs)
    ours, theirs = found.times
    assert found.product_tflops == pytest.approx(2.0) and found.parameters == 5
    assert ours.ms.p50 == pytest.approx(15) and ours.images_per_s == pytest.approx(1000 / 15)
    assert ours.of_floor == pytest.approx(1.0) and ours.memory_gb == 2.5  # 30 GFLOP at 2 TFLOP a second
    assert ours.authors_over_this == pytest.approx(3.5) and theirs.authors_over_this is None


def test_memory_of_a_gpu_is_that_of_the_weights_and_of_the_call(monkeypatch):
    """What lies there besides (7 GB) does not count; a made GPU, as none is asked for here."""
    waited = []
    monkeypatch.setattr(devices.torch, "cuda", SimpleNamespace(
        reset_peak_memory_stats=lambda device: None, memory_allocated=lambda device: 7_000_000_000,
        max_memory_allocated=lambda device: 7_500_000_000, synchronize=waited.append,
    ))  # fmt: skip
    module = torch.nn.Linear(1000, 100, bias=False)
    device = torch.device("cuda:0")
    assert peak_gb(lambda: None, module, device) == pytest.approx(0.5 + 0.0004) and waited == [device]
    assert peak_gb(lambda: None, module, torch.device("cpu")) is None
