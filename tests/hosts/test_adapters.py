"""Hosts of other libraries: their end points where all is known, what they state, and what they refuse."""

import dataclasses

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler
from diffusers import PNDMScheduler as DiffusersPNDM
from monai.networks.schedulers import DDIMScheduler as MonaiDDIM
from monai.networks.schedulers import RFlowScheduler
from torch import nn

from invad_med.diffusion import inversion_timesteps, invert
from invad_med.hosts import ImageHint, Pixels, from_callable, from_diffusers, from_monai
from invad_med.hosts.records import Noise, ScaleSource, Target
from tests.hosts import analytic
from tests.hosts.analytic import Exact, ExactDiffusers, ExactMonai

SCHEDULES = ["linear", "scaled_linear", "cosine"]
OF_DIFFUSERS = {
    "linear": {},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
}
OF_MONAI = {
    "linear": {"schedule": "linear_beta"},
    "scaled_linear": {"schedule": "scaled_linear_beta", "beta_start": 0.00085, "beta_end": 0.012},
    "cosine": {"schedule": "cosine"},
}


def callable_host(prediction, schedule):
    """Return the exact predictor as a function."""
    exact = Exact(prediction, schedule)
    return from_callable(
        exact.predict, analytic.alphas_cumprod(schedule), size=8, channels=1, prediction=prediction
    )  # fmt: skip


def diffusers_host(prediction, schedule):
    """Return the exact predictor behind diffusers' interface; what its scheduler would do wrong is left as it is."""
    scheduler = DDIMScheduler(prediction_type=prediction, clip_sample=True, steps_offset=1, **OF_DIFFUSERS[schedule])
    return from_diffusers(ExactDiffusers(prediction, schedule), scheduler)


def monai_host(prediction, schedule):
    """Return the exact predictor behind MONAI's interface."""
    scheduler = MonaiDDIM(prediction_type=prediction, clip_sample=True, **OF_MONAI[schedule])
    return from_monai(ExactMonai(prediction, schedule), scheduler, size=8, pixels=Pixels.in_range(1))


HOSTS = {"callable": callable_host, "diffusers": diffusers_host, "monai": monai_host}
WALKS = {
    "paper": inversion_timesteps(3),
    "official": inversion_timesteps(3, "official"),
    "truncated": inversion_timesteps(1, "truncated"),
    "fifty": inversion_timesteps(50),
}


@pytest.mark.parametrize("walk", WALKS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_closed_form_is_the_recurrence(schedule, walk):
    x, abar = np.linspace(-1.0, 2.0, 7), analytic.alphas_cumprod(schedule)
    np.testing.assert_allclose(
        analytic.end_point(x, WALKS[walk], abar), analytic.iterated(x, WALKS[walk], abar), rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_many_steps_are_the_flow(schedule):
    x, abar = np.linspace(-1.0, 2.0, 7), analytic.alphas_cumprod(schedule)
    walk = analytic.pairs(*range(900))  # beyond it a cosine schedule leaps
    np.testing.assert_allclose(
        analytic.end_point(x, walk, abar), analytic.flow_end_point(x, abar, last=899), rtol=5e-3, atol=5e-3
    )


@pytest.mark.parametrize("walk", WALKS)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("prediction", list(Target))
@pytest.mark.parametrize("library", HOSTS)
def test_the_end_point_is_the_closed_form(library, prediction, schedule, walk):
    host = HOSTS[library](prediction.value, schedule)
    image = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    clean = 2 * image.mean(1, keepdim=True).numpy() - 1
    expected = analytic.end_point(clean, WALKS[walk], analytic.alphas_cumprod(schedule))
    x = host.encode(image)
    np.testing.assert_allclose(x.numpy(), clean, atol=1e-12)
    z = invert(host.eps, x, WALKS[walk], host.alphas_cumprod)
    np.testing.assert_allclose(z.numpy(), expected, rtol=1e-5, atol=1e-5)
    single = invert(host.eps, x.float(), WALKS[walk], host.alphas_cumprod)
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single.numpy(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [DDPMScheduler, DiffusersPNDM, EulerDiscreteScheduler])
def test_the_schedule_is_the_schedulers_whatever_it_samples_by(kind):
    host = from_diffusers(ExactDiffusers("epsilon", "linear"), kind(num_train_timesteps=400))
    expected = np.cumprod(1 - np.linspace(1e-4, 2e-2, 400))
    np.testing.assert_allclose(host.alphas_cumprod, expected, rtol=1e-6)
    assert host.architecture.num_train_timesteps == 400 and host.alphas_cumprod.dtype == torch.float64
    trained = DDPMScheduler(trained_betas=[0.1, 0.2, 0.3], num_train_timesteps=3)
    host = from_diffusers(ExactDiffusers("epsilon", "linear"), trained)
    np.testing.assert_allclose(host.alphas_cumprod, [0.9, 0.72, 0.504], rtol=1e-6)


def test_no_scheduler_is_stepped(monkeypatch):
    for kind in (DDIMScheduler, MonaiDDIM):
        monkeypatch.setattr(kind, "step", None)
    for library in ("diffusers", "monai"):
        host = HOSTS[library]("epsilon", "linear")
        invert(host.eps, torch.zeros(1, 1, 8, 8), inversion_timesteps(3), host.alphas_cumprod)


def test_a_learned_sigma_is_dropped():
    host = from_diffusers(ExactDiffusers("epsilon", "linear", learned_sigma=True), DDIMScheduler())
    assert host.architecture.learned_sigma and host.channels == 1
    x, t = torch.rand(2, 1, 8, 8), torch.tensor([5, 600])
    torch.testing.assert_close(host.eps(x, t), Exact("epsilon", "linear").predict(x, t))


class TestPixels:
    def test_a_range(self):
        image = torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 1, 3).expand(1, 3, 1, 3)
        pixels = Pixels.in_range(1, -1.0, 1.0)
        torch.testing.assert_close(pixels.prepare(image), torch.tensor([-1.0, 0.0, 1.0]).view(1, 1, 1, 3))
        torch.testing.assert_close(pixels.restore(pixels.prepare(image)), image)

    def test_mean_and_deviation(self):
        pixels = Pixels(3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        image = torch.rand(2, 3, 4, 4)
        expected = (image.numpy() - np.reshape(pixels.mean, (1, 3, 1, 1))) / np.reshape(pixels.std, (1, 3, 1, 1))
        np.testing.assert_allclose(pixels.prepare(image), expected, rtol=1e-5, atol=1e-6)

    def test_what_is_none(self):
        with pytest.raises(ValueError, match="4 input channels is not one of images"):
            Pixels.in_range(4)
        with pytest.raises(ValueError, match="must have 3 values, std above 0"):
            Pixels(3, (0.0,) * 3, (1.0, 0.0, 1.0))
        with pytest.raises(ValueError, match="the range 1 to -1 is empty"):
            Pixels.in_range(1, 1, -1)


class Encoder(nn.Module):
    """Two channels at a quarter of the side: mean and difference to it of the first, in float32."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(3.0))

    def forward(self, image):
        mean = nn.functional.avg_pool2d(image, 4)
        return torch.cat([self.weight * mean, mean + 1], dim=1)


def test_a_scale_is_given_or_estimated():
    schedule = analytic.alphas_cumprod("linear")
    image = torch.rand(5, 3, 16, 16)
    host = from_callable(
        lambda x, t: x, schedule, size=16, channels=1, encode=Encoder(), scale_factor=0.18215
    )  # fmt: skip
    assert (host.channels, host.grid_size) == (2, 4) and host.scale.source is ScaleSource.GIVEN
    raw = host.raw(image)
    torch.testing.assert_close(host.encode(image), raw * 0.18215)
    host.fit_normalisation(raw)
    assert host.scale.factor == 0.18215  # what is given stays
    host = from_callable(lambda x, t: x, schedule, size=16, channels=1, encode=Encoder(), scale_factor=None)
    with pytest.raises(ValueError, match="scale factor of the latents is not known: give scale_factor, or estimate it"):
        host.encode(image)
    host.fit_normalisation(raw)
    assert dataclasses.astuple(host.scale)[1:] == (ScaleSource.ESTIMATED, 5, 0.0)
    assert host.encode(image).std() == pytest.approx(1.0, rel=1e-5)
    with pytest.raises(ValueError, match=r"deviation 0\.0: no scale"):
        host.fit_normalisation(torch.ones_like(raw))
    with pytest.raises(ValueError, match="scale_factor=-1 must be positive"):
        from_callable(lambda x, t: x, schedule, size=16, channels=1, encode=Encoder(), scale_factor=-1)


def test_a_hint_is_given_at_every_evaluation():
    seen = []

    def eps(x, t, hint):
        seen.append(hint)
        return hint[:, :1].mean((2, 3), keepdim=True).expand_as(x)

    host = from_callable(
        eps, analytic.alphas_cumprod("linear"), size=16, channels=3, encode=lambda image: image[:, :1, ::4, ::4],
        conditioning=ImageHint(),
    )  # fmt: skip
    image = torch.rand(2, 3, 16, 16)
    raw = host.raw(image)
    assert raw.shape == (2, host.raw_channels, 4, 4) and host.raw_channels == 1 + 3 * 16
    z = invert(host.predictor(raw), host.normalise(raw), inversion_timesteps(3), host.alphas_cumprod)
    assert len(seen) == 3 and z.shape == (2, 1, 4, 4)
    for hint in seen:
        torch.testing.assert_close(hint, 2 * image - 1)
    with pytest.raises(ValueError, match=r"conditioned on the image: call what Host\.predictor returns"):
        host.eps(torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.long))


class TestRefused:
    """What would make a score without a meaning."""

    def test_a_deviation(self):
        with pytest.raises(ValueError, match=r"'deviation' cannot be inverted: a deviation from the normal image"):
            from_callable(lambda x, t: x, [0.9, 0.5], prediction="deviation")

    def test_an_unknown_prediction(self):
        scheduler = DDIMScheduler(prediction_type="thing")
        with pytest.raises(
            ValueError, match=r"'thing' is none of epsilon, v_prediction, sample: noise does not follow"
        ):
            from_diffusers(ExactDiffusers("epsilon", "linear"), scheduler)

    def test_a_flow(self):
        with pytest.raises(ValueError, match=r"FlowMatchEulerDiscreteScheduler has no betas .* cannot be inverted"):
            from_diffusers(ExactDiffusers("epsilon", "linear"), FlowMatchEulerDiscreteScheduler())
        with pytest.raises(ValueError, match=r"RFlowScheduler has no betas"):
            from_monai(ExactMonai("epsilon", "linear"), RFlowScheduler(), size=8)

    @pytest.mark.parametrize("prediction", list(Target))
    def test_a_step_from_noise_alone(self, prediction):
        scheduler = DDIMScheduler(prediction_type=prediction.value, rescale_betas_zero_snr=True)
        host = from_diffusers(ExactDiffusers(prediction.value, "linear"), scheduler)
        x = torch.rand(1, 1, 8, 8)
        with pytest.raises(ValueError, match=r"evaluated at t = 999: alphas_cumprod is 0 there \(zero terminal SNR\)"):
            invert(host.eps, x, inversion_timesteps(3, "official"), host.alphas_cumprod)
        z = invert(host.eps, x, inversion_timesteps(3), host.alphas_cumprod)  # ends there, and is not evaluated
        assert torch.isfinite(z).all()

    def test_noise_of_a_predicted_image_where_there_is_none(self):
        schedule = [1.0, 0.9, 0.5, 0.1]
        host = from_callable(lambda x, t: x, schedule, size=8, channels=1, prediction="sample")
        x = torch.rand(1, 1, 8, 8)
        with pytest.raises(ValueError, match=r"at t = 0: alphas_cumprod is 1 there: x is the image alone"):
            invert(host.eps, x, [(0, 2)], host.alphas_cumprod)
        assert torch.isfinite(invert(host.eps, x, [(1, 3)], host.alphas_cumprod)).all()
        host = from_callable(lambda x, t: x, schedule, size=8, channels=1, prediction="epsilon")
        assert torch.isfinite(invert(host.eps, x, [(0, 2)], host.alphas_cumprod)).all()

    def test_what_is_no_schedule(self):
        with pytest.raises(ValueError, match=r"must fall from at most 1 .* not beta"):
            from_callable(lambda x, t: x, [1e-4, 2e-2])
        with pytest.raises(ValueError, match=r"has shape \(1,\): at least two timesteps"):
            from_callable(lambda x, t: x, [0.5])

    def test_other_shapes(self):
        host = from_callable(lambda x, t: x[:, :, :4], [0.9, 0.5], size=8, channels=1)
        with pytest.raises(ValueError, match=r"returned shape \(1, 1, 4, 8\) for input \(1, 1, 8, 8\)"):
            host.eps(torch.zeros(1, 1, 8, 8), torch.zeros(1, dtype=torch.long))
        with pytest.raises(ValueError, match=r"2 images need as many timesteps, not \(1,\)"):
            host.eps(torch.zeros(2, 1, 8, 8), torch.zeros(1, dtype=torch.long))
        odd = ExactDiffusers("epsilon", "linear")
        odd.config["out_channels"] = 3
        with pytest.raises(ValueError, match="takes 1 channels and returns 3: noise has as many as the input"):
            from_diffusers(odd, DDIMScheduler())
        with pytest.raises(ValueError, match="Linear has no config, as models and schedulers of diffusers have"):
            from_diffusers(nn.Linear(1, 1), DDIMScheduler())


def test_what_a_host_states():
    host = from_callable(
        lambda x, t: x, analytic.alphas_cumprod("linear"), size=8, channels=1, noise="simplex", licence="MIT"
    )  # fmt: skip
    stated = host.architecture
    assert (stated.noise, stated.licence, host.gaussian) == (Noise.SIMPLEX, "MIT", False)
    plain = stated.to_plain()
    assert plain["pixels"] == {"channels": 1, "mean": [0.5], "std": [0.5]} and plain["prediction"] == "epsilon"
    assert type(stated).from_plain(plain) == stated
