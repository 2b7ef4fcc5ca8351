"""A small data set, and the training command on it."""

import os
import subprocess
import sys
from pathlib import Path

import monai.bundle
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
def narrow(noise_set, cache):
    """Keys of train.json for a short training of one narrow block on the noise set."""
    return {
        "dataset_dir": str(noise_set), "cache_dir": str(cache), "device": "cpu", "precision": "float32",
        "denoiser#depth": 1, "denoiser#hidden_size": 32, "batch_size": 4, "accumulation_steps": 1,
        "steps": 40, "checkpoint_interval": 3,
    }  # fmt: skip


@pytest.fixture
def train_here(narrow):
    """Train in this process: output folder, then keys of train.json by name."""

    def run(output, **keys):
        config = str(CONFIGS / "train.json")
        monai.bundle.run(config_file=config, output_dir=str(output), **{**narrow, **keys})

    return run


@pytest.fixture
def train_command(narrow):
    """The command that trains so: output folder, then keys and values."""

    def command(output, *arguments, launcher=(), config=CONFIGS / "train.json"):
        keys = [word for key, value in narrow.items() for word in (f"--{key}", value)]
        return [
            sys.executable, *(launcher or ("-m",)), "monai.bundle", "run", "--config_file", config,
            "--output_dir", output, *keys, *arguments,
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
