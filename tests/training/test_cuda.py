"""What a GPU trains and scores, a CPU scores the same."""

import pytest

from invad_med.inference.predictor import load


@pytest.mark.cuda
def test_a_model_trained_on_a_gpu_scores_alike_on_both(train, noise_set, tmp_path):
    whole = ("--denoiser#depth", 4, "--denoiser#hidden_size", 192)
    train(tmp_path, "--device", "cuda:0", "--precision", "auto", "--cache_dir", tmp_path / "features", *whole)
    image = noise_set / "valid" / "good" / "img" / "g0.png"
    gpu, cpu = (
        load("brain", ckpt_path=str(tmp_path / "brain.pt"), device=device)(image)[0] for device in ("cuda:0", "cpu")
    )
    assert gpu.score == pytest.approx(cpu.score, abs=0.05)
    assert gpu.map == pytest.approx(cpu.map, rel=0.01)
