"""Two processes (gloo) find what one finds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

REPOSITORY = Path(__file__).parents[2]
CONFIGS = REPOSITORY / "bundles" / "invad" / "configs"


@pytest.mark.slow
def test_two_processes_measure_what_one_measures(measured, measured_folder, tmp_path):
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
            "-m", "monai.bundle", "run",
            "--config_file", f"['{CONFIGS / 'evaluate.json'}','{CONFIGS / 'multi_gpu_evaluate.json'}']",
            "--dataset_dir", measured_folder / "BMAD", "--models_dir", measured_folder / "models",
            "--output_dir", tmp_path,
            "--baselines", "True", "--resamples", "100", "--false_positive_rate", "0.2", "--mlflow", "False",
            "--device", "cpu",
        ],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert done.stdout.count("Results in") == 1, done.stdout[-2000:] + done.stderr[-4000:]  # one process speaks
    ours, theirs = (
        pd.json_normalize(json.loads((out / "metrics.json").read_text())).iloc[0].to_dict()
        for out in (tmp_path, measured_folder / "out")
    )
    assert ours == pytest.approx(theirs, rel=1e-5)  # images are batched otherwise: the last digits of a score differ
    # A data set that nobody can read is reported, and ends the command with a failure.
    assert done.returncode != 0
    assert list(json.loads((tmp_path / "problems.json").read_text())) == ["Liver_AD"]
