"""What train.json makes of a recipe: accumulated batches, image sizes, sharded networks."""

import csv

import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule

from invad_med.detection import load_detector
from invad_med.networks import create_denoiser
from invad_med.training.distributed import share_network


def test_accumulated_small_batches_are_one_large_batch(train_here, tmp_path):
    def rows(name, **keys):
        train_here(tmp_path / name, steps=12, val_interval=12, **keys)
        with (tmp_path / name / "log.csv").open() as file:
            return torch.tensor([[float(r["loss"]), float(r["learning_rate"])] for r in csv.DictReader(file)])

    one, parts = rows("one", batch_size=8), rows("parts", batch_size=4, accumulation_steps=2)
    assert len(one) == 12 and len(parts) == 24
    warmup = one[:2, 1] / 0.002
    torch.testing.assert_close(warmup, torch.tensor([0.02, 0.51]))  # from 2 % over 40/300 of the steps
    assert one[-1, 1] < 0.1 * one[2, 1] and one[2, 1] == pytest.approx(0.002)
    torch.testing.assert_close(parts[::2, 1], one[:, 1])  # the rate follows optimiser steps, not batches


@pytest.mark.parametrize("augment", [False, True])
def test_another_image_size_holds_from_the_file_to_the_model(train_here, tmp_path, augment):
    train_here(tmp_path, steps=2, image_size=128, augment=augment)
    detector = load_detector(tmp_path / "brain.pt")
    assert (detector.host.image_size, detector.host.grid_size) == (128, 8)
    assert detector.host.denoiser.network.pos_embed.shape == (1, 64, 32)
    (detection,) = detector.detect(torch.rand(1, 3, 128, 128))
    assert detection.map.shape == (128, 128) and detection.score is not None


@pytest.fixture
def group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("name", ["cpu", "tiny", "mlp"])
def test_whatever_has_blocks_is_sharded_by_block(group, name):
    network, average = (create_denoiser(name, 8, 4, depth=2, hidden_size=32) for _ in range(2))
    for shared in (share_network(network, average, "cpu", fully_sharded=True), average):
        assert [isinstance(block, FSDPModule) for block in shared.blocks] == [True, True]
    with pytest.raises(ValueError, match="a Linear offers no blocks"):
        share_network(torch.nn.Linear(1, 1), torch.nn.Linear(1, 1), "cpu", fully_sharded=True)
