"""Diffusion of Gaussian data N(mean, deviation^2), where all is known: schedules, predictors, end points, in NumPy."""

import itertools

import numpy as np
import torch
from torch import nn

MEAN, DEVIATION = 0.3, 0.5
STEPS = 1000


def betas(name, steps=STEPS):
    """Return the betas of a schedule by its formula: (T,) float64."""
    if name == "linear":
        return np.linspace(1e-4, 2e-2, steps)
    if name == "scaled_linear":
        return np.linspace(np.sqrt(0.00085), np.sqrt(0.012), steps) ** 2
    level = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - level[1:] / level[:-1], 0.999)


def alphas_cumprod(name, steps=STEPS):
    """Return abar of a schedule: (T,) float64."""
    return np.cumprod(1 - betas(name, steps))


def variance(abar):
    """Return the variance of x at a level of noise."""
    return abar * DEVIATION**2 + 1 - abar


def end_point(x, walk, abar):
    """Return z_T of clean ``x`` in closed form: every step is linear in x - sqrt(abar) mean.

    Between levels a and b DDIM multiplies that deviation by (sqrt(a b) s^2 + sqrt((1 - a)(1 - b))) / v(a), which
    follows from E[x0 | x] and E[eps | x] of jointly Gaussian x0 and eps.
    """
    deviation = x - np.sqrt(abar[walk[0][0]]) * MEAN
    for t, t_next in walk:
        a, b = abar[t], 0.0 if t_next is None else abar[t_next]
        deviation = deviation * (np.sqrt(a * b) * DEVIATION**2 + np.sqrt((1 - a) * (1 - b))) / variance(a)
    return deviation + np.sqrt(0.0 if walk[-1][1] is None else abar[walk[-1][1]]) * MEAN


def iterated(x, walk, abar):
    """Return the same by DDIM's own recurrence, x0 and eps as posterior means."""
    for t, t_next in walk:
        a, b = abar[t], 0.0 if t_next is None else abar[t_next]
        gain = np.sqrt(a) * DEVIATION**2 / variance(a)
        x0 = MEAN + gain * (x - np.sqrt(a) * MEAN)
        eps = (x - np.sqrt(a) * x0) / np.sqrt(1 - a)
        x = np.sqrt(b) * x0 + np.sqrt(1 - b) * eps
    return x


def flow_end_point(x, abar, first=0, last=-1):
    """Return where the flow itself takes ``x`` between two levels: the limit of many steps."""
    a, b = abar[first], abar[last]
    return np.sqrt(b) * MEAN + (x - np.sqrt(a) * MEAN) * np.sqrt(variance(b) / variance(a))


def pairs(*grid):
    """Return the pairs of a grid."""
    return list(itertools.pairwise(grid))


class Exact(nn.Module):
    """The best predictor of noise, velocity or sample; ``predict(x, t)``."""

    def __init__(self, prediction, schedule):
        super().__init__()
        self.prediction, self.abar = prediction, torch.from_numpy(alphas_cumprod(schedule))

    def predict(self, x, t):
        """Return what it predicts in ``x`` at timesteps (B,)."""
        a = self.abar[t].view(-1, 1, 1, 1).to(x.dtype)
        x0 = MEAN + a.sqrt() * DEVIATION**2 / (a * DEVIATION**2 + 1 - a) * (x - a.sqrt() * MEAN)
        if self.prediction == "sample":
            return x0
        eps = (1 - a).sqrt() * (x - a.sqrt() * MEAN) / (a * DEVIATION**2 + 1 - a)
        return eps if self.prediction == "epsilon" else a.sqrt() * eps - (1 - a).sqrt() * x0


class ExactMonai(Exact):
    """The same as MONAI's networks are called."""

    in_channels = out_channels = 1

    def forward(self, x, timesteps, context=None, class_labels=None):
        """Return what it predicts."""
        return self.predict(x, timesteps)


class ExactDiffusers(Exact):
    """The same as the networks of diffusers are called; with a second half of channels if ``learned_sigma``."""

    def __init__(self, prediction, schedule, learned_sigma=False):
        super().__init__(prediction, schedule)
        self.config = {"in_channels": 1, "out_channels": 2 if learned_sigma else 1, "sample_size": 8}

    def forward(self, sample, timestep, class_labels=None, return_dict=True):
        """Return what it predicts, in a tuple."""
        assert not return_dict
        output = self.predict(sample, timestep)
        return (torch.cat([output, torch.full_like(output, 7.0)], 1) if self.config["out_channels"] == 2 else output,)
