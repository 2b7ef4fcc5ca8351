"""A small data set, and the training command on it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.measured import measured, measured_folder  # noqa: F401  fixtures of a session

REPOSITORY = Path(__file__).parents[1]
CONFIGS = REPOSITORY / "bundles" / "invad" / "configs"


def save(path, seed):
    """Write an image of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64), dtype=np.uint8)).save(path)
    return path


@pytest.fixture(scope="session")
def noise_set(tmp_path_factory):
    """A data set of noise: 11 training images, 2 good and 2 abnormal ones in valid."""
    root = tmp_path_factory.mktemp("data") / "brain"
    for i in range(11):
        save(root / "train" / "good" / f"t{i:02d}.png", i)
    for i in range(2):
        save(root / "valid" / "good" / "img" / f"g{i}.png", 100 + i)
        save(root / "valid" / "Ungood" / "img" / f"u{i}.png", 110 + i)
        save(root / "valid" / "Ungood" / "label" / f"u{i}.png", 120 + i)
    return root


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """Features of the noise set, shared by all runs of a session."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def train_command(noise_set, cache):
    """The command that trains a network of one narrow block: output folder, then keys and values."""

    def command(output, *arguments, launcher=(), config=CONFIGS / "train.json"):
        return [
            sys.executable, *(launcher or ("-m",)), "monai.bundle", "run", "--config_file", config,
            "--dataset_dir", noise_set, "--output_dir", output, "--cache_dir", cache, "--device", "cpu",
            "--denoiser#depth", 1, "--denoiser#hidden_size", 32, "--batch_size", 4, "--accumulation_steps", 1,
            "--steps", 40, "--checkpoint_interval", 3, "--precision", "float32", *arguments,
        ]  # fmt: skip

    return command


@pytest.fixture
def train(train_command):
    """Run the command and return its result, which must be a success unless ``check`` is false."""

    def run(output, *arguments, check=True, **options):
        done = subprocess.run(
            [str(a) for a in train_command(output, *arguments, **options)],
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
            env=environment(),
        )
        assert not check or done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return done

    return run


def environment():
    """One thread for each process, and a progress bar that shows every step."""
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), "TQDM_MININTERVAL": "0"}
