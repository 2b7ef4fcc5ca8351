"""Noise from whatever a network predicts: pure functions over tensors.

With ``x = sqrt(abar) x0 + sqrt(1 - abar) eps`` and ``v = sqrt(abar) eps - sqrt(1 - abar) x0`` (Salimans and Ho, arXiv
2202.00512, Appendix D).
"""

from __future__ import annotations

from torch import Tensor

from invad_med.hosts.records import Target

_NO_SIGNAL = 1e-12  # abar: x0 = (x - sqrt(1 - abar) eps) / sqrt(abar) is then 0 / 0
_NO_NOISE = 1e-9  # 1 - abar: eps = (x - sqrt(abar) x0) / sqrt(1 - abar) is then 0 / 0


def to_epsilon(output: Tensor, x: Tensor, alphas_cumprod: Tensor, prediction: Target) -> Tensor:
    """Return the noise in ``x`` that a network's output stands for: (B, C, h, w).

    Args:
        output: (B, C, h, w), what the network predicts.
        x: (B, C, h, w), what it was given.
        alphas_cumprod: (B,) float64, abar of each image's timestep.
        prediction: what the output is.
    """
    if prediction is Target.EPSILON:
        return output
    shape = (-1, *[1] * (x.ndim - 1))
    signal, noise = (value.sqrt().to(x.dtype).view(shape) for value in (alphas_cumprod, 1.0 - alphas_cumprod))
    if prediction is Target.V:
        return signal * output + noise * x
    return (x - signal * output) / noise


def undefined_timesteps(alphas_cumprod: Tensor, prediction: Target) -> dict[int, str]:
    """Return the timesteps of a schedule (T,) at which no step can be made of a prediction, each with the reason."""
    reasons: dict[int, str] = {}
    for t, abar in enumerate(alphas_cumprod.tolist()):
        if abar <= _NO_SIGNAL:
            reasons[t] = (
                "alphas_cumprod is 0 there (zero terminal SNR): x is noise alone, and the image cannot be had of it"
            )
        elif prediction is Target.SAMPLE and 1.0 - abar <= _NO_NOISE:
            reasons[t] = "alphas_cumprod is 1 there: x is the image alone, and no noise follows from a predicted image"
    return reasons
