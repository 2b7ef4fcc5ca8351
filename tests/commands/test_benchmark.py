"""The benchmark's table."""

from invad_med.__main__ import main


def test_one_row_a_preset_with_a_plausible_share(capsys):
    assert main(["benchmark", "--presets", "cpu", "--device", "cpu", "--repeats", "1", "--batch_size", "2"]) == 0
    head, _, row = capsys.readouterr().out.strip().splitlines()[-3:]
    cells = dict(zip((c.strip() for c in head.split("|")), (c.strip() for c in row.split("|")), strict=True))
    assert cells["preset"] == "cpu" and cells["parameters"] == "2.9 M"
    assert 0 < int(cells["of a matrix product's"].rstrip("%")) < 150
    assert main(["benchmark", "--presets", "cpu", "--device", "cpu", "--repeats", "1", "--max_train_gb", "0"]) == 0
    assert "not measured" in capsys.readouterr().out
