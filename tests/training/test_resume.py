"""A run that is killed, at any moment and any number of times, ends where an uninterrupted one ends."""

import os
import random
import re
import signal
import subprocess

import pytest
import torch

from tests.conftest import REPOSITORY, environment


def kill_at(command, step):
    """Run until the progress bar shows ``step``, then SIGKILL; return the step shown, or None if it had ended."""
    process = subprocess.Popen(
        [str(a) for a in command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=REPOSITORY,
        env=environment(),
        start_new_session=True,
    )
    seen, shown = "", None
    while chunk := os.read(process.stderr.fileno(), 65536).decode(errors="replace"):
        seen = (seen + chunk)[-2000:]
        found = re.findall(r"training on .*?(\d+)/40", seen)
        if found and int(found[-1]) >= step:
            shown = int(found[-1])
            os.killpg(process.pid, signal.SIGKILL)
            break
    process.stderr.close()
    return shown if process.wait() == -signal.SIGKILL else None


def flat(content, prefix=""):
    """All tensors and values of a nested state, by name."""
    if isinstance(content, dict):
        return {k: v for key, value in content.items() for k, v in flat(value, f"{prefix}/{key}").items()}
    if isinstance(content, list | tuple):
        return flat(dict(enumerate(content)), prefix)
    return {prefix: content}


def assert_identical(one, other):
    """Two checkpoint files hold the same bits."""
    a, b = (flat(torch.load(path, weights_only=True)) for path in (one, other))
    assert a.keys() == b.keys()
    for key, value in a.items():
        same = torch.equal(value, b[key]) if isinstance(value, torch.Tensor) else value == b[key]
        assert same, key


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return tmp_path_factory.mktemp("whole")


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_a_killed_run_ends_with_the_same_bits(train, train_command, whole, tmp_path, kills):
    if not (whole / "brain.pt").exists():
        train(whole)
    steps = sorted(random.Random(kills).sample(range(1, 39), kills))
    killed = [kill_at(train_command(tmp_path), step) for step in steps]
    assert None not in killed, killed
    assert not (tmp_path / "brain.pt").exists()
    done = train(tmp_path)
    assert "resuming at step" in done.stdout
    for name in ("last.pt", "best.pt", "brain.pt"):
        assert_identical(tmp_path / name, whole / name)
    assert (tmp_path / "log.csv").read_text() == (whole / "log.csv").read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "best.pt",
        "brain.pt",
        "last.pt",
        "log.csv",
    ]  # whole ones


def test_another_configuration_is_refused_and_an_ended_run_is_not_trained_again(train, train_here, whole, capfd):
    if not (whole / "brain.pt").exists():
        train(whole)
    before = (whole / "last.pt").read_bytes()
    with pytest.raises(RuntimeError) as refused:
        train_here(whole, seed=1, learning_rate=0.001)
    reason = str(refused.value.__cause__)
    assert "optimizer.lr was 0.002, is 0.001;" in reason and "; seed was 0, is 1" in reason
    assert "give another --output_dir, or --resume False" in reason
    assert (whole / "last.pt").read_bytes() == before
    capfd.readouterr()
    train_here(whole)
    said = capfd.readouterr()
    assert "resuming at step 40" in said.out + said.err and " 1/40" not in said.err
