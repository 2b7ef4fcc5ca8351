"""The order of images is a function of seed and step: not of processes, epochs or where a run began."""

import pytest

from invad_med.training.sampling import StepSampler


def stream(sampler, epochs, start=0):
    """Draws of several epochs, as MONAI's trainer asks for them."""
    sampler.start_at(start)
    drawn = []
    for epoch in range(start // sampler.steps_per_epoch + 1, epochs + 1):
        sampler.set_epoch(epoch)
        drawn += list(sampler)
    return drawn


def test_every_image_is_seen_once_a_pass_in_another_order():
    drawn = [d.sample for d in stream(StepSampler(range(10), 4), 5)]
    assert len(drawn) == 5 * 3 * 4  # full batches only
    passes = [drawn[i : i + 10] for i in range(0, 60, 10)]
    assert all(sorted(p) == list(range(10)) for p in passes)
    assert len({tuple(p) for p in passes}) == len(passes)
    assert drawn != [d.sample for d in stream(StepSampler(range(10), 4, seed=1), 5)]


def test_processes_share_what_one_sees_with_their_batches_together():
    alone = stream(StepSampler(range(11), 6), 4)
    together = [stream(StepSampler(range(11), 3, num_replicas=2, rank=r), 4) for r in (0, 1)]
    for step in range(len(alone) // 6):
        batch = [d for part in together for d in part[3 * step : 3 * step + 3]]
        assert batch == alone[6 * step : 6 * step + 6]
        assert {d.step for d in batch} == {step}


@pytest.mark.parametrize("start", [0, 1, 4, 5, 9])
def test_a_run_begins_at_any_step(start):
    sampler = StepSampler(range(11), 3)
    whole = stream(sampler, 4)
    assert stream(StepSampler(range(11), 3), 4, start) == whole[start * 3 :]


def test_an_epoch_is_a_whole_number_of_optimiser_steps():
    assert StepSampler(range(100), 8, accumulation_steps=4).steps_per_epoch == 16
    with pytest.raises(ValueError, match="cannot draw batches of 4 from 0 images"):
        StepSampler([], 4)
