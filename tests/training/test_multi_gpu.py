"""Two processes (gloo) learn what one learns with the doubled batch."""

import csv

import pytest
import torch

from tests.conftest import CONFIGS

BOTH = f"['{CONFIGS / 'train.json'}','{CONFIGS / 'multi_gpu_train.json'}']"
TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m")


def losses(folder):
    with (folder / "log.csv").open() as file:
        return torch.tensor([float(row["loss"]) for row in csv.DictReader(file)])


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return tmp_path_factory.mktemp("alone")


@pytest.mark.parametrize("sharded", [False, True], ids=["ddp", "fsdp"])
def test_two_processes_follow_one_with_the_doubled_batch(train, alone, tmp_path, sharded):
    if not (alone / "brain.pt").exists():
        train(alone, "--batch_size", 6)
    done = train(tmp_path, "--batch_size", 3, "--fully_sharded", sharded, config=BOTH, launcher=TWO)
    assert done.stdout.count("model written") == 1  # one process speaks
    torch.testing.assert_close(losses(tmp_path), losses(alone), rtol=1e-4, atol=1e-5)
    ours, theirs = (torch.load(p / "last.pt", weights_only=True) for p in (tmp_path, alone))
    for name, value in theirs["network"].items():
        torch.testing.assert_close(ours["network"][name], value, rtol=1e-3, atol=1e-4)
    one, other = (torch.load(p / "brain.pt", weights_only=True) for p in (tmp_path, alone))
    assert one.keys() == other.keys()
    assert {p.name for p in tmp_path.iterdir()} == {"brain.pt", "best.pt", "last.pt", "log.csv"}
