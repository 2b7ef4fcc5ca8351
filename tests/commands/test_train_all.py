"""Every data set of a folder in one command."""

import json
import sqlite3

import numpy as np
import pytest
from PIL import Image

from invad_med.__main__ import main


@pytest.mark.slow
def test_one_command_trains_and_measures_all_that_is_there(tmp_path, capfd):
    rng = np.random.default_rng(0)
    for name in ("brain", "chest", "knee"):
        for place, bright in (("train/good", 0), ("valid/good/img", 0), ("test/good/img", 0), ("test/Ungood/img", 120)):
            for i in range(8):
                path = tmp_path / "root" / name / place / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                image = rng.integers(0, 100, (64, 64), dtype=np.uint8)
                image[20:40, 20:40] += np.uint8(bright)
                Image.fromarray(image).save(path)
    tiny = "--denoiser#hidden_size 32 --denoiser#depth 1"
    arguments = [
        "train-all",
        str(tmp_path / "root"),
        "--output_dir",
        str(tmp_path / "out"),
        "--train",
        f"{tiny} --steps 2",
    ]
    arguments += ["--evaluate", f"{tiny} --resamples 20"]
    assert main(arguments) == 3  # one data set is none of the table
    said = capfd.readouterr()
    assert "knee was not trained: its name is none of the table" in said.err
    assert {p.stem for p in (tmp_path / "out/models").iterdir()} == {"brain", "chest"}
    metrics = json.loads((tmp_path / "out/evaluate/metrics.json").read_text())
    assert set(metrics) == {"brain", "chest"}
    (store,) = (tmp_path / "out/evaluate").rglob("*.db")
    with sqlite3.connect(store) as database:
        runs = dict(database.execute("select run_uuid, name from runs").fetchall())
        parents = {v for (v,) in database.execute("select value from tags where key = 'mlflow.parentRunId'").fetchall()}
    assert len(runs) == 3 and len(parents) == 1  # a parent and one run a data set
    main(arguments)
    said = capfd.readouterr().out
    assert "brain.pt is there already, not trained again, whatever --train says now (--denoiser#hidden_size 32" in said
    assert "delete it or give another --output_dir to train anew" in said
