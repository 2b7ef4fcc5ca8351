#!/usr/bin/env bash
# diffusers 0.42.1: DDIMInverseScheduler wants the noise at the source of a step, and hands out the target's timestep.
#
# step(eps, t, x) takes t for where the step goes, and t - T // S for where x is. Whoever loops as with every other
# scheduler, eps = network(x, t) for t in scheduler.timesteps, asks the network about x at a noise level that x is not
# at. On Gaussian data, where the best predictor and the end point of every walk are known in closed form, z_T is off by
# more than its own size in three steps, and by less than a hundredth if the network is asked at t - T // S.
# clip_sample is True by default, here as in DDIMScheduler: what lies outside of -1 to 1, as latents and features do, is
# clamped at every step, and its end points are all alike.
# prediction_type="sample" divides by zero on the first step, whose source is clean (alpha 1): NaN and no exception.
# Walk over explicit pairs instead: x0 = (x - sqrt(1 - a) eps) / sqrt(a), x' = sqrt(a') x0 + sqrt(1 - a') eps, eps asked
# where x is.
#
# Exit status 0: as described. Other: diffusers behaves in another way now.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet diffusers==0.42.1 torch==2.14.1
"$folder/venv/bin/python" -W ignore - <<'END'
import torch
from diffusers import DDIMInverseScheduler

import diffusers

assert diffusers.__version__ == "0.42.1", "another version than the one described"
MEAN, DEVIATION = 0.3, 0.5
x0 = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * DEVIATION + MEAN


def predicted(x, t, abar):
    """The best eps for data N(0.3, 0.5^2)."""
    a = abar[t]
    return (1 - a).sqrt() * (x - a.sqrt() * MEAN) / (a * DEVIATION**2 + 1 - a)


def walked(x, scheduler, shift):
    scheduler.set_timesteps(3)
    abar = scheduler.alphas_cumprod.double()
    for t in scheduler.timesteps.tolist():
        x = scheduler.step(predicted(x, max(0, t - shift), abar), t, x).prev_sample
    return x


def closed_form(x, grid, abar):
    """DDIM over the grid, asked where x is: linear in x - sqrt(abar) mean."""
    x = x - abar[grid[0]].sqrt() * MEAN
    for t, t_next in zip(grid, grid[1:]):
        a, b = abar[t], abar[t_next]
        x = x * ((a * b).sqrt() * DEVIATION**2 + ((1 - a) * (1 - b)).sqrt()) / (a * DEVIATION**2 + 1 - a)
    return x + abar[grid[-1]].sqrt() * MEAN


def off(z, expected):
    return float((z - expected).norm() / expected.norm())


settings = {"timestep_spacing": "trailing", "clip_sample": False}
scheduler = DDIMInverseScheduler(**settings)
abar = scheduler.alphas_cumprod.double()
expected = closed_form(x0, [0, 333, 666, 999], abar)
usual = off(walked(x0, scheduler, 0), expected)
at_source = off(walked(x0, DDIMInverseScheduler(**settings), 1000 // 3), expected)
print(f"z_T off by {usual:.1%} when asked at the timesteps handed out, {at_source:.1%} when asked at their sources")
assert usual > 1.0 and at_source < 0.01

wide = x0 * 14  # deviation 7, as features have
default = DDIMInverseScheduler(timestep_spacing="trailing")
assert default.config.clip_sample
clipped = walked(wide, default, 1000 // 3).std() / walked(wide, DDIMInverseScheduler(**settings), 1000 // 3).std()
print(f"with clip_sample, the default, the deviation of z_T is {float(clipped):.2f} of what it is without")
assert clipped < 0.5

sample = DDIMInverseScheduler(prediction_type="sample", **settings)
sample.set_timesteps(3)
first = sample.step(torch.zeros_like(x0), int(sample.timesteps[0]), x0).prev_sample
print("prediction_type=sample, first step:", "NaN or infinite" if not torch.isfinite(first).all() else "finite")
assert not torch.isfinite(first).all()
END
echo "as described"
