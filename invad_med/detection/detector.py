"""The whole detector as one module: image in, anomaly map and scores out."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invad_med.data.prediction import Detection
from invad_med.data.provenance import Provenance
from invad_med.data.study import Verdict
from invad_med.detection.engine import Engine, FromRaw, make_engine
from invad_med.detection.host import Host, rebuild_host
from invad_med.detection.judging import Judge, study_verdict
from invad_med.diffusion import Grid, Timesteps, Walked, check_timesteps, inversion_timesteps
from invad_med.hosts import as_host
from invad_med.networks.checkpoints import load_strictly, read_checkpoint
from invad_med.scoring.calibration import Calibration
from invad_med.scoring.familiarity import Familiarity, moments
from invad_med.scoring.likeness import Likeness
from invad_med.scoring.rules import DEFAULT_RULE, LENGTH_RULE
from invad_med.scoring.scores import anomaly_map, paper_score, resize_map
from invad_med.scoring.studies import StudyCalibration
from invad_med.serving.engines import Served

_OLD_PARTS = ("features.", "denoiser.")  # of the host, in checkpoints of version 0.1


class _Studies(StudyCalibration, nn.Module):
    """The calibration of studies as a part of a module, so that it travels in the state dict."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        StudyCalibration.__init__(self)

    def get_extra_state(self) -> dict[str, Any]:
        return self.to_state()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.take_state(state)


class AnomalyDetector(nn.Module):
    """A host, an inversion and a calibration, joined: (B, 3, H, W) in [0, 1] -> (B, 1, H, W).

    The map is that of the calibration's rule if it was fitted for the detector's timesteps, else the norm of the end
    point.

    Args:
        host: the diffusion model that is inverted.
        calibration: statistics of normal images; unfitted if None.
        timesteps: pairs (t, t_next) of the inversion; the paper's three steps if None.
        engine: what computes end points, a name of `invad_med.detection.engine.ENGINES`.

    Raises:
        ValueError: a pair outside the host's schedule or that it cannot evaluate, or an unknown engine.
    """

    alone = False

    def __init__(
        self,
        host: Host,
        calibration: Calibration | None = None,
        timesteps: Timesteps | None = None,
        engine: str = "eager",
    ) -> None:
        super().__init__()
        self.host = host
        self.calibration = calibration or Calibration(host.channels, DEFAULT_RULE if host.gaussian else LENGTH_RULE)
        self.familiarity = Familiarity()
        self.studies = _Studies()
        self.provenance = Provenance(architecture=host.architecture.to_plain())
        self.engine_name = engine
        paper = inversion_timesteps(3, "paper", len(host.alphas_cumprod))
        self.timesteps = paper if timesteps is None else timesteps
        self.register_load_state_dict_pre_hook(_take_up_old_states)

    @property
    def timesteps(self) -> list[tuple[int, int | None]]:
        """Pairs (t, t_next) of the inversion; setting them makes the engine anew."""
        return self._timesteps

    @timesteps.setter
    def timesteps(self, timesteps: Timesteps) -> None:
        check_timesteps(timesteps, len(self.host.alphas_cumprod))
        reason = self.host.why_not(timesteps)
        if reason is not None:
            raise ValueError(f"{reason}; give other timesteps")
        self._timesteps = [(t, t_next) for t, t_next in timesteps]
        self.engine: Engine = make_engine(self.engine_name, self.host, self._timesteps)

    @property
    def withheld(self) -> str | None:
        """Why calibrated scores have no meaning, or None if they have."""
        return self.calibration.why_not(self.timesteps)

    def end_point(self, image: Tensor) -> Tensor:
        """Return z_T of ``image`` (B, 3, H, W) in [0, 1], resized (bilinear) if need be: (B, C, h, w)."""
        return self.engine(self.resized(image))

    def walk(self, image: Tensor, raw: Tensor | None = None) -> Walked:
        """Return where the inversion of ``image`` (B, 3, H, W) in [0, 1] starts and ends, each (B, C, h, w).

        Args:
            image: resized (bilinear) if need be.
            raw: what `invad_med.hosts.host.Host.raw` made of it, where that is known.
        """
        resized = self.resized(image)
        raw = self.host.raw(resized) if raw is None else raw
        z = self.engine.from_raw(raw) if isinstance(self.engine, FromRaw) else self.engine(resized)
        return Walked(self.host.normalise(raw), z)

    def resized(self, image: Tensor) -> Tensor:
        """Return ``image`` (B, 3, H, W) as the host takes it: (B, 3, image_size, image_size)."""
        if image.ndim != 4 or image.shape[1] != 3:
            raise ValueError(f"the detector expects images (B, 3, H, W) in [0, 1], not {tuple(image.shape)}")
        size = (self.host.image_size, self.host.image_size)
        if image.shape[-2:] == size:
            return image
        return F.interpolate(image, size=size, mode="bilinear", align_corners=False, antialias=True)

    def map(self, walked: Walked, size: Sequence[int]) -> Tensor:
        """Return the anomaly map of images (B, C, h, w): (B, H, W) for ``size`` (H, W), >= 0."""
        return resize_map(self._map(walked), size)

    def _map(self, walked: Walked) -> Tensor:
        return self.calibration.map(walked) if self.withheld is None else anomaly_map(walked.end_point)

    def forward(self, image: Tensor) -> Tensor:
        """Return the anomaly map of ``image`` (B, 3, H, W) in [0, 1]: (B, 1, H, W), >= 0."""
        return self.map(self.walk(image), image.shape[-2:])[:, None]

    @property
    def image_size(self) -> int:
        """Side in pixels of the square image that the host takes."""
        return self.host.image_size

    @property
    def computed_by(self) -> str:
        """Engine and precision."""
        return f"{self.engine_name} float32"

    @torch.no_grad()
    def detect(
        self, image: Tensor | np.ndarray, false_positive_rate: float = 0.05, gate: bool = True
    ) -> list[Detection]:
        """Return map and scores of each image of ``image`` (B, 3, H, W) in [0, 1]; see `Detector.detect`."""
        resized = self.resized(torch.as_tensor(image).to(self.host.device))
        raw = self.host.raw(resized)
        walked = self.walk(resized, raw)
        z, withheld = walked.end_point, self.withheld
        encoding = moments(raw).cpu().numpy() if gate and self.familiarity.fitted else None
        scores = None if withheld is not None else self.calibration.score(z).cpu().numpy()
        paper = paper_score(z).cpu().numpy() if self.host.gaussian else None
        found = Served(self._map(walked).float().cpu().numpy(), paper, scores, encoding)
        prior_norm, title = self.host.channels**0.5, self.provenance.title
        judge = Judge(self.calibration.references, withheld, prior_norm, title, self.computed_by, self.likeness)
        return judge(found, (image.shape[-2], image.shape[-1]), false_positive_rate)

    @cached_property
    def encoder(self) -> str:
        """Digest of what makes an image's encoding."""
        return self.host.encoder_digest()

    @property
    def likeness(self) -> Likeness | None:
        """Of encodings to those of the images that it was trained on; None without a limit."""
        return self.familiarity.likeness

    @torch.no_grad()
    def moments(self, image: Tensor | np.ndarray) -> np.ndarray:
        """Return mean and deviation of each channel of the encodings of ``image`` (B, 3, H, W): (B, 2C)."""
        return moments(self.host.raw(self.resized(torch.as_tensor(image).to(self.host.device)))).cpu().numpy()

    def judge_study(
        self, scores: Sequence[float], positions: Sequence[float] | None = None, false_positive_rate: float = 0.05
    ) -> Verdict:
        """Return the verdict of a study, see `invad_med.detection.judging.study_verdict`."""
        return study_verdict(self.studies, scores, positions, false_positive_rate)

    def get_extra_state(self) -> dict[str, Any]:
        """Return the provenance, which travels in the state dict: plain values only."""
        return self.provenance.to_state()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take up a checkpoint's provenance."""
        self.provenance = Provenance.from_state(state)


def _take_up_old_states(module: nn.Module, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
    """Rename in place what version 0.1 stored beside the calibration, and add what earlier versions do not hold."""
    state_dict.setdefault(f"{prefix}studies._extra_state", StudyCalibration().to_state())
    for name in [name for name in state_dict if name.startswith(tuple(prefix + part for part in _OLD_PARTS))]:
        state_dict[f"{prefix}host.{name.removeprefix(prefix)}"] = state_dict.pop(name)
    mean = state_dict.get(f"{prefix}calibration.z_mean")
    if mean is not None:  # of earlier checkpoints, which remember nothing, or no encodings
        for name in ("remembered", "encodings"):
            state_dict.setdefault(f"{prefix}calibration.{name}", mean.new_zeros(0, len(mean)))
        state_dict.setdefault(f"{prefix}calibration.map_std", mean.new_zeros(0))
    for name, unfitted in Familiarity().state_dict().items():  # of checkpoints up to version 0.2
        state_dict.setdefault(f"{prefix}familiarity.{name}", unfitted)


def load_detector(
    path: str | Path,
    grid: Grid | None = None,
    engine: str = "eager",
    device: torch.device | str = "cpu",
    host: Host | str | Path | None = None,
    **parts: nn.Module | None,
) -> AnomalyDetector:
    """Return the detector that a checkpoint holds, built as its provenance states, in evaluation mode.

    Args:
        path: the file.
        grid: timesteps instead of those it was calibrated for; scores are then withheld.
        engine: what computes end points.
        device: where it is put.
        host: in the place of the one that it states, which must be the same; for one that cannot be built again. A path
            is one of `invad_med.hosts.read_host`.
        parts: networks instead of those it states, such as ``denoiser``; its weights must fit them.

    Raises:
        FileNotFoundError, ValueError: the file is missing or cannot be read safely, cannot be built here, does not
            fit, by name, or is not finite.
    """
    tensors = read_checkpoint(path)
    stated = Provenance.from_state(tensors.get("_extra_state", {}))
    # Copies of what is the caller's, so that a second checkpoint does not change the detector of the first.
    given = copy.deepcopy(host) if isinstance(host, Host) else None if host is None else as_host(host)
    parts = {name: copy.deepcopy(part) for name, part in parts.items()}
    built = rebuild_host(stated.architecture, given, **parts)
    detector = AnomalyDetector(built, engine=engine)
    _take_up_old_states(detector, tensors, "")  # its names are compared before it is loaded
    load_strictly(detector, tensors)
    for name, tensor in detector.state_dict().items():
        if isinstance(tensor, Tensor) and not torch.isfinite(tensor).all():
            raise ValueError(f"checkpoint {path} has NaN or infinite values ({name}): its training diverged")
    detector.calibration.check_sizes()
    _ = detector.likeness  # which compares its sizes
    calibrated = detector.calibration.timesteps or detector.timesteps
    detector.timesteps = (grid or Grid()).resolve(calibrated, len(built.alphas_cumprod))
    detector.to(device).eval()
    built.check_behaviour()
    return detector
