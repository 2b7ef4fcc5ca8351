"""The benchmark's table."""

import pytest

from invad_med.__main__ import main
from invad_med.commands import benchmark


@pytest.fixture
def table(monkeypatch, capsys):
    """Run the benchmark with a clock on which every call takes two seconds; its rows, by heading."""

    def two_seconds(function, repeats, cuda):
        function()
        return 2.0

    monkeypatch.setattr(benchmark, "seconds", two_seconds)

    def run(*arguments):
        assert main(["benchmark", *arguments, "--device", "cpu"]) == 0
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
        head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        return [dict(zip(head, row, strict=True)) for row in rows]

    return run


def test_a_row_states_cost_an_image_and_the_share_of_a_matrix_product(table):
    (row,) = table("--presets", "cpu", "--batch_size", "4")
    assert row["preset"] == "cpu" and row["parameters"] == "2.9 M" and row["weights, GB"] == "0.01"
    assert row["denoiser x 3, core-s/image"] == row["training, core-s/image"] == "0.5"  # two seconds, four images
    multiplied = 3 * operations_of_the_cpu_preset() / 0.5
    assert float(row["TFLOP/core-s"]) == pytest.approx(multiplied / 1e12, rel=0.01)
    plain = 2 * 2048**3 / 2.0
    assert row["of a matrix product's"] == f"{multiplied / plain:.0%}"


def test_a_network_that_is_too_large_is_not_trained(table):
    (row,) = table("--presets", "cpu", "--max_train_gb", "0")
    assert row["training, core-s/image"] == "not measured" and row["TFLOP/core-s"] == ""


def operations_of_the_cpu_preset():
    """Operations of one forward pass over 16 x 16 positions of 192 features, by formula: 2 for each multiply-add."""
    tokens, width, channels, depth = 256, 192, 192, 4
    of_tokens = depth * (12 * width**2 + 2 * tokens * width) + 2 * channels * width
    of_the_step = depth * 6 * width**2 + 2 * width**2 + 256 * width + width**2
    return 2 * (tokens * of_tokens + of_the_step)
