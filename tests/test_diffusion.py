"""The mathematics against the authors' numbers, MONAI's scheduler and a closed-form Gaussian."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.networks.schedulers import DDIMScheduler
from scipy import stats

from invad_med import scoring
from invad_med.diffusion import (
    Grid,
    add_noise,
    inversion_timesteps,
    invert,
    linear_alphas_cumprod,
    reconstruct,
)
from invad_med.networks import DiT, TokenMLP, load_denoiser

REFERENCE = np.load(Path(__file__).parent / "reference" / "inversion_small.npz")
RELATIVE = 1e-4


def reference(key: str) -> torch.Tensor:
    return torch.from_numpy(REFERENCE[key])


def loaded(kind: str) -> torch.nn.Module:
    network = DiT(12, 6, 32, 2, 4) if kind == "dit" else TokenMLP(12, 32, 2)
    prefix = f"{kind}."
    load_denoiser(network, {k[len(prefix) :]: reference(k) for k in REFERENCE.files if k.startswith(prefix)})
    return network.eval()


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


def test_schedule_is_the_authors():
    ours = linear_alphas_cumprod()
    assert ours.dtype == torch.float64
    np.testing.assert_allclose(ours.numpy(), REFERENCE["alphas_cumprod"], rtol=1e-12)


@pytest.mark.parametrize("kind", ["dit", "mlp"])
@torch.no_grad()
def test_forward_matches_the_authors(kind):
    assert relative_error(loaded(kind)(reference("z"), reference("t")), reference(f"{kind}_eps")) < RELATIVE


@pytest.mark.parametrize("kind", ["dit", "mlp"])
@pytest.mark.parametrize("steps", [2, 3, 4, 5, 10, 50])
@torch.no_grad()
def test_inversion_matches_the_authors(kind, steps):
    timesteps = inversion_timesteps(steps, "official")
    assert [t for t, _ in timesteps] == REFERENCE[f"timesteps_S{steps}"].tolist()
    z = invert(loaded(kind), reference("z"), timesteps, linear_alphas_cumprod())
    assert relative_error(z, reference(f"{kind}_zT_S{steps}")) < RELATIVE


@torch.no_grad()
def test_scores_match_the_authors():
    z = reference("dit_zT_S3")
    assert relative_error(scoring.anomaly_map(z), reference("dit_S3_map16")) < RELATIVE
    assert relative_error(scoring.max_min(z), reference("dit_S3_diff")) < RELATIVE
    assert relative_error(scoring.nll(z), reference("dit_S3_nll")) < RELATIVE


def test_paper_grid_of_three():
    assert inversion_timesteps(3) == [(0, 333), (333, 666), (666, 999)]
    assert inversion_timesteps(1) == [(0, 999)]


def test_official_grid_ends_at_pure_noise():
    assert inversion_timesteps(3, "official") == [(0, 500), (500, 999), (999, None)]


def test_official_grid_is_accumulated_not_closed_form():
    differing = 0
    for steps in range(2, 1001):
        closed = [round(i * 999 / (steps - 1)) for i in range(steps)]
        differing += [t for t, _ in inversion_timesteps(steps, "official")] != closed
    assert differing == 283


def test_truncated_grid():
    assert inversion_timesteps(3, "truncated") == [(100, 200), (200, 300), (300, None)]
    assert inversion_timesteps(1, "truncated") == [(200, None)]
    assert inversion_timesteps(2, "truncated", 500) == [(50, 150), (150, None)]


@pytest.mark.parametrize(
    ("steps", "mode"),
    [(s, m) for m in ("paper", "official") for s in (2, 3, 7, 50, 333, 999)]
    + [(s, "truncated") for s in (2, 3, 7, 50, 201)],
)
def test_grids_walk_towards_noise(steps, mode):
    pairs = inversion_timesteps(steps, mode)
    assert len(pairs) == steps
    assert all(a[1] == b[0] for a, b in itertools.pairwise(pairs))
    assert all(t_next is None or t < t_next for t, t_next in pairs)


@pytest.mark.parametrize(
    ("steps", "mode", "message"),
    [
        (0, "paper", "steps=0 is out of range for mode='paper': 1 to 999"),
        (1000, "paper", "steps=1000 is out of range"),
        (1, "official", "steps=1 is out of range for mode='official': 2 to 1000"),
        (202, "truncated", "steps=202 is out of range for mode='truncated': 1 to 201"),
        (3, "ddpm", "mode='ddpm' is not a timestep grid"),
    ],
)
def test_bad_grids_say_what_is_allowed(steps, mode, message):
    with pytest.raises(ValueError, match=message):
        inversion_timesteps(steps, mode)


@pytest.mark.parametrize("mode", ["paper", "official"])
def test_another_mode_alone_has_the_papers_three_steps(mode):
    assert Grid(mode=mode).resolve([(200, None)]) == inversion_timesteps(3, mode)
    assert Grid(mode=mode).resolve([(200, 300), (300, None)]) == inversion_timesteps(3, mode)
    assert Grid(mode="truncated").resolve([(200, None)]) == [(200, None)]  # the model's own: its own steps


@pytest.mark.parametrize("pairs", [[], [(5, 5)], [(9, 3)], [(-1, 3)], [(0, 1000)]])
def test_bad_pairs_are_refused(pairs):
    with pytest.raises(ValueError, match="timestep"):
        invert(lambda x, t: x, torch.zeros(1, 2), pairs, linear_alphas_cumprod())


def test_a_network_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"returned shape \(1, 3\) for input \(1, 2\)"):
        invert(lambda x, t: torch.zeros(1, 3), torch.zeros(1, 2), [(0, 999)], linear_alphas_cumprod())


@torch.no_grad()
def test_full_grid_equals_monais_reversed_step():
    scheduler = DDIMScheduler(
        num_train_timesteps=1000, schedule="linear_beta", beta_start=1e-4, beta_end=2e-2, clip_sample=False
    )
    scheduler.set_timesteps(1000)
    alphas_cumprod = scheduler.alphas_cumprod.double()

    def network(x, t):
        return torch.tanh(x) * (1 + t.view(-1, 1) / 1000)

    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours = invert(network, x, inversion_timesteps(1000, "official")[:-1], alphas_cumprod)
    theirs = x
    for t in range(999):
        theirs, _ = scheduler.reversed_step(network(theirs, torch.full((4,), t)), t, theirs)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)
    with pytest.raises(IndexError):
        scheduler.reversed_step(network(theirs, torch.full((4,), 999)), 999, theirs)


def gaussian_predictor(mean: torch.Tensor, variance: torch.Tensor, alphas_cumprod: torch.Tensor):
    """Return the true E[eps | x_t] for x_0 ~ N(mean, diag(variance))."""

    def network(x, t):
        abar = alphas_cumprod[t].view(-1, 1)
        return (1 - abar).sqrt() * (x - abar.sqrt() * mean) / (abar * variance + 1 - abar)

    return network


def test_inverting_a_gaussian_gives_the_standard_normal():
    generator = torch.Generator().manual_seed(1)
    alphas_cumprod = linear_alphas_cumprod()
    mean = torch.randn(16, generator=generator, dtype=torch.float64)
    variance = torch.rand(16, generator=generator, dtype=torch.float64) * 3 + 0.2
    x = mean + variance.sqrt() * torch.randn(4000, 16, generator=generator, dtype=torch.float64)
    network = gaussian_predictor(mean, variance, alphas_cumprod)
    distances = []
    for steps in (3, 30, 300, 999):
        z = invert(network, x, inversion_timesteps(steps), alphas_cumprod).flatten().numpy()
        distances.append(stats.kstest(z, "norm"))
    assert [d.statistic for d in distances] == sorted((d.statistic for d in distances), reverse=True)
    assert distances[-1].pvalue > 0.05
    assert distances[0].pvalue < 1e-6


@pytest.mark.parametrize("sigmas", [0.0, 2.0, 5.0])
def test_a_shifted_sample_ends_at_the_predicted_norm(sigmas):
    # The walk is linear for a Gaussian: x = mean + std (n + s) ends at z = n + s as S grows.
    generator = torch.Generator().manual_seed(2)
    alphas_cumprod = linear_alphas_cumprod()
    variance = torch.rand(64, generator=generator, dtype=torch.float64) * 3 + 0.2
    mean = torch.zeros(64, dtype=torch.float64)
    noise = torch.randn(2000, 64, generator=generator, dtype=torch.float64)
    x = variance.sqrt() * (noise + sigmas)
    z = invert(gaussian_predictor(mean, variance, alphas_cumprod), x, inversion_timesteps(999), alphas_cumprod)
    predicted = 64 * (1 + sigmas**2)
    assert float(z.square().sum(1).mean()) == pytest.approx(predicted, rel=0.03)


def test_conditioning_reaches_the_network():
    seen = []

    def network(x, t, context, scale=1.0):
        seen.append((context, scale))
        return x

    invert(network, torch.zeros(1, 2), [(0, None)], linear_alphas_cumprod(), "c", scale=2.0)
    assert seen == [("c", 2.0)]


def test_noised_features_keep_their_share_of_signal():
    alphas_cumprod = linear_alphas_cumprod()
    x, noise, t = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4), torch.tensor([0, 500, 999])
    x_t = add_noise(x, noise, t, alphas_cumprod)
    for i, step in enumerate(t.tolist()):
        abar = float(alphas_cumprod[step])
        torch.testing.assert_close(x_t[i], abar**0.5 * x[i] + (1 - abar) ** 0.5 * noise[i], rtol=1e-5, atol=1e-6)


def test_reconstruction_by_the_true_predictor_returns_to_the_data():
    # Data at one point: the noise in x_t is known exactly, and every DDIM path leads back to that point.
    point, abar = 1.7, linear_alphas_cumprod()

    def network(x, t):
        a = abar[t].view(-1, 1)
        return (x - a.sqrt() * point) / (1 - a).sqrt()

    noise = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for level, steps in ((300, 3), (999, 10), (1, 1)):
        for start in (point, 0.3):  # what the noise does not cover is pulled to the data, the more the higher the level
            x = torch.full((5, 4), start, dtype=torch.float64)
            found = reconstruct(network, x, noise, level, steps, abar)
            torch.testing.assert_close(found, torch.full_like(x, point), rtol=0, atol=1e-9)
    with pytest.raises(ValueError, match=r"level=1000 must be 1 to 999, and steps=3"):
        reconstruct(network, noise, noise, 1000, 3, abar)
    with pytest.raises(ValueError, match=r"steps=5 from 1 to the level"):
        reconstruct(network, noise, noise, 4, 5, abar)
