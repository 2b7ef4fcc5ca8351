"""All that a detector's network computes of an image as one module, to be exported or compiled."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from invad_med.detection.host import Host, rebuild_host
from invad_med.diffusion import Timesteps, Walked, invert
from invad_med.scoring import Calibration, anomaly_map, paper_score
from invad_med.scoring.familiarity import moments
from invad_med.scoring.rules import find_rule
from invad_med.serving.graph import GraphKey


class WholeDetector(nn.Module):
    """Images (B, 3, S, S) in [0, 1] to all that a network computes of them, by the parts of a detector.

    Names in its state dict are those of `invad_med.detection.AnomalyDetector`.

    Args:
        host, calibration, timesteps: of the detector.
        calibrated: whether score and map have a calibrated meaning; else the map is the end point's norm.
    """

    def __init__(
        self,
        host: Host,
        calibration: Calibration,
        timesteps: Timesteps,
        calibrated: bool = True,
    ) -> None:
        super().__init__()
        self.host, self.calibration = host, calibration
        self.timesteps, self.calibrated = list(timesteps), calibrated
        self._alphas_cumprod: list[float] = host.alphas_cumprod.tolist()

    @property
    def outputs(self) -> list[str]:
        """Names of what `forward` returns, in its order, as `invad_med.serving.engines.Served` has them."""
        return ["map", "paper_score", "moments", *(["score"] if self.calibrated else [])]

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return map (B, h, w), paper score (B,) and moments (B, 2C), and score (B,) where there is one."""
        raw = self.host.raw(image)
        x = self.host.normalise(raw)
        z = invert(self.host.eps, x, self.timesteps, self._alphas_cumprod)
        anomaly = self.calibration.map(Walked(x, z)) if self.calibrated else anomaly_map(z)
        results = {"map": anomaly, "paper_score": paper_score(z), "moments": moments(raw)}
        if self.calibrated:
            results["score"] = self.calibration.score(z)
        return tuple(results[name] for name in self.outputs)


def random_detector(key: GraphKey) -> WholeDetector:
    """Return the module of a key in evaluation mode, with random weights and statistics fit to compute with.

    Raises:
        ValueError: the key names something that cannot be built here.
    """
    host = rebuild_host(key.architecture)
    calibration = Calibration(host.channels)
    if key.rule is not None:
        calibration.use_rule(key.rule)
        rule = find_rule(key.rule)
        calibration.remembered = torch.zeros(rule.remembers, host.channels)
        calibration.encodings = torch.zeros(rule.encodings, host.channels)
        calibration.map_std = torch.ones(2 * bool(rule.encodings))
        count = calibration.statistics(torch.zeros(1, host.channels, host.grid_size, host.grid_size)).shape[1]
        calibration.statistics_mean, calibration.statistics_std = torch.zeros(count), torch.ones(count)
    module = WholeDetector(host, calibration, key.timesteps, key.rule is not None)
    generator = torch.Generator().manual_seed(0)
    state = module.state_dict()
    for name, tensor in state.items():
        if isinstance(tensor, Tensor) and tensor.is_floating_point():
            values = torch.rand(tensor.shape, generator=generator)
            # Matrices keep the size of what they are applied to; the rest may be divided by.
            state[name] = (values - 0.5) * (12 / tensor.shape[1:].numel()) ** 0.5 if tensor.ndim > 1 else values + 0.5
    module.load_state_dict(state)
    return module.eval()
