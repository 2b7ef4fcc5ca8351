"""`python -m invad_med bench`: records that are complete, a page that needs no other file."""

import json
import re
from dataclasses import asdict

import pytest

from invad_med.__main__ import main
from invad_med.bench.growth import grown
from invad_med.bench.machine import this_machine
from invad_med.bench.page import to_html
from invad_med.bench.record import Absent, Bench, GrowthRun, Network, NetworkTime, Spread, StartUp
from invad_med.bench.tables import to_markdown


@pytest.fixture
def bench():
    """A made benchmark of two networks, one that is absent, and two builds."""
    fast, slow = Spread.of([10.0, 12.0, 11.0]), Spread.of([100.0, 140.0, 120.0])
    times = [
        NetworkTime(name, engine, evaluations, batch, from_file, spread, spread, 2.0, 1.5)
        for name, engine, evaluations, spread in (("ours", "onnxruntime", 1, fast), ("<Rival>", "eager", None, slow))
        for batch, from_file in ((1, False), (1, True), (4, False))
    ]
    absent = (Absent("STFPM", "openvino", "not installed"),)
    runs = [
        GrowthRun(build, "series", count, 2, 1, cost * count + 1, 9.0, 300.0)
        for count in (10, 20)
        for build, cost in (("this", 0.1), ("former", 0.5))
    ]
    return Bench(
        this_machine(),
        Network("phantom", fast, 60.0, fast, tuple(times), absent),
        (StartUp("this", "load()", fast, fast, 200.0, 8.25), StartUp("former", "load()", slow, slow, 900.0)),
        grown(runs),
        123.0,
    )


def test_the_page_refers_to_nothing_outside_and_shows_everything(bench):
    page = to_html(bench)
    assert not re.search(r"(?:src|href)\s*=\s*[\"'](?!#)|url\((?!#)|@import|<script", page)
    assert page.count("<svg") == 2
    assert "&lt;Rival&gt;" in page and "<Rival>" not in page
    for text in ("STFPM", "not installed", "8.25", "120 (138)"):
        assert text in page


def test_the_tables_state_costs_ratios_and_what_is_absent(bench):
    lines = to_markdown(bench).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert ["ours", "onnxruntime", "1", "11.0 (11.9)", "1.00"] in [row[:5] for row in rows]
    assert ["<Rival>", "eager", "", "120 (138)", "10.91"] in [row[:5] for row in rows]
    assert ["STFPM", "openvino", "not installed"] in rows
    assert ["this", "10", "20 slices", "100.0", "5.00"] in rows


def test_the_machine_is_described():
    machine = this_machine()
    assert machine.processor and machine.cores >= 1 and machine.load >= 0
    assert {"torch", "onnxruntime", "numpy"} <= set(machine.versions) and machine.python.startswith("3.")


def test_parts_that_are_not_asked_for_are_empty(bench, tmp_path):
    empty = Bench(bench.machine, None, None, None, 1.0)
    assert "<table>" not in to_html(empty) and asdict(empty)["network"] is None


def test_the_network_part_runs(tmp_path, capsys):
    arguments = ["--parts", "network", "--quick", "--rounds", "1", "--no_rivals", "--output_dir", str(tmp_path)]
    assert main(["bench", *arguments]) == 0
    assert "this takes about" in capsys.readouterr().out
    found = json.loads((tmp_path / "bench.json").read_text())
    assert found["startup"] is found["growth"] is None
    rows = {(t["name"], t["engine"], t["evaluations"], t["batch"], t["from_file"]) for t in found["network"]["times"]}
    for batch, from_file in ((1, False), (1, True), (4, False)):
        assert {("ours", "onnxruntime", 1, batch, from_file), ("ours", "eager", 3, batch, from_file)} <= rows
    assert all(t["core_ms"]["p50"] > 0 and t["of_floor"] > 0 for t in found["network"]["times"])
    assert (tmp_path / "bench.html").is_file() and (tmp_path / "bench.md").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--former", "/nowhere/python", "."], "is no interpreter: give --former PYTHON TREE"),
        (["--model", "/nowhere/model.pt"], "there is no such checkpoint"),
    ],
)
def test_what_is_not_there_is_said_before_anything_is_measured(arguments, message, tmp_path, capsys):
    assert main(["bench", *arguments, "--output_dir", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_what_was_measured_before_a_failure_is_kept(monkeypatch, tmp_path, bench, capsys):
    def fails(*arguments, **options):
        raise RuntimeError("the disk is full")

    monkeypatch.setattr("invad_med.commands.bench.measure_startup", lambda *a, **k: bench.startup)
    monkeypatch.setattr("invad_med.commands.bench.measure_growth", fails)
    assert main(["bench", "--parts", "startup", "growth", "--output_dir", str(tmp_path)]) == 2
    assert "error: the disk is full" in capsys.readouterr().err
    found = json.loads((tmp_path / "bench.json").read_text())
    assert found["growth"] is None and found["startup"][0]["former_over_this"] == 8.25
