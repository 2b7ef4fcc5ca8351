"""Which weights are kept: the best on images held out from training, never on the test split."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import Evaluator
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from invad_med.detection import AnomalyDetector, Host
from invad_med.diffusion import Timesteps, Walked
from invad_med.features.endpoints import walked
from invad_med.files import whole_file
from invad_med.networks.checkpoints import read_checkpoint
from invad_med.parallel import rank
from invad_med.scoring.calibration import Calibration
from invad_med.scoring.choice import EndPoints, as_walk, choose
from invad_med.scoring.rules import DEFAULT_RULE
from invad_med.training.features import CohortFeatures

logger = logging.getLogger(__name__)

Figures = dict[str, float]


class Selection:
    """Ignite handler: validate at intervals and at the last step, keep the best averaged weights, end the run.

    Better is a lower ``val_loss``, among the validations whose ``val_auroc``, where there is one, lies within a
    standard error of the highest so far: a few abnormal images tell weights apart that differ much, and no others.

    Args:
        evaluator: validates ``network``; its metrics hold ``val_loss``.
        network: the averaged weights, not wrapped.
        path: where the best are kept, ``best.pt``.
        interval: steps between two validations; None: a fifth of the run.
        total_steps: of the run: the last is validated, and ends it.
        auroc: image AUROC of a network on labelled validation images, or None.
        patience: stop after this many validations in a row without a better one; None: never.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        network: nn.Module,
        path: str | Path,
        interval: int | None,
        total_steps: int,
        auroc: CalibratedAuroc | None = None,
        patience: int | None = None,
    ) -> None:
        interval = max(1, total_steps // 5) if interval is None else interval
        if patience is not None and patience < 1:
            raise ValueError(f"patience={patience}: give a number of validations from 1, or null to never stop early")
        self.evaluator, self.network, self.path = evaluator, network, Path(path)
        self.interval, self.total_steps, self.auroc, self.patience = interval, total_steps, auroc, patience
        self.settings = {
            "interval": interval,
            "total_steps": total_steps,
            "patience": patience,
            "auroc": getattr(auroc, "settings", auroc),
        }
        self.history: list[dict[str, float]] = []

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)

    def _step(self, engine: Engine) -> None:
        step = engine.state.iteration
        if step % self.interval and step < self.total_steps:
            return
        self.evaluator.run(max(1, engine.state.epoch))
        figures: Figures = {"val_loss": float(self.evaluator.state.metrics["val_loss"])}
        if self.auroc is not None:
            value = figures["val_auroc"] = self.auroc(self.network)
            figures["val_auroc_error"] = auroc_standard_error(value, len(self.auroc.normal), len(self.auroc.abnormal))
        self.history.append({"step": step, **figures})
        improved = self.best["step"] == step
        shown = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
        logger.info("step %d: %s%s", step, shown, " (best so far)" if improved else "")
        if improved:
            self._keep(step, figures)
        if self.exhausted:
            logger.info("stopped: %d validations without a better one", self.patience)
        if self.finished(step):
            engine.terminate()

    def _keep(self, step: int, figures: Figures) -> None:
        weights = get_model_state_dict(self.network, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        if rank() == 0:
            with whole_file(self.path) as partial:
                torch.save({"step": step, "figures": figures, "network": weights}, partial)

    @property
    def best(self) -> dict[str, float]:
        """Step and figures of the best validation so far, the earliest of equals."""
        return best_validation(self.history)

    @property
    def exhausted(self) -> bool:
        """Whether patience has run out."""
        if self.patience is None or not self.history:
            return False
        return len(self.history) - 1 - self.history.index(self.best) >= self.patience

    def finished(self, step: int) -> bool:
        """Whether a run that has done ``step`` steps is over."""
        return step >= self.total_steps or self.exhausted

    def load_best(self) -> dict[str, Any]:
        """Return the state dict of the best weights.

        Raises:
            FileNotFoundError, ValueError: the file is gone or not whole.
        """
        return read_checkpoint(self.path)["network"]

    def state_dict(self) -> dict[str, Any]:
        """Return the validations so far."""
        return {"history": [dict(row) for row in self.history]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the validations of a run that was cut."""
        self.history = [dict(row) for row in state["history"]]


def best_validation(history: Sequence[Figures]) -> Figures:
    """Return the best of validations in the order they were made; what is not better than one before is never returned.

    Args:
        history: figures ``val_loss``, and ``val_auroc`` (0 to 1) with its ``val_auroc_error`` where known.
    """
    best, least = history[0], -math.inf
    for row in history:
        if "val_auroc" in row:
            least = max(least, row["val_auroc"] - row["val_auroc_error"])
        near, kept = row.get("val_auroc", 0.0) >= least, best.get("val_auroc", 0.0) >= least
        if near and (not kept or row["val_loss"] < best["val_loss"]):
            best = row
    return best


def auroc_standard_error(auroc: float, normal: int, abnormal: int) -> float:
    """Return the standard error of an AUROC (0 to 1) of so many images (Hanley and McNeil, Radiology 1982;143:29)."""
    one, other = auroc / (2 - auroc), 2 * auroc**2 / (1 + auroc)
    variance = auroc * (1 - auroc) + (abnormal - 1) * (one - auroc**2) + (normal - 1) * (other - auroc**2)
    return math.sqrt(max(0.0, variance) / (normal * abnormal))


class CalibratedAuroc:
    """Image AUROC of a network's calibrated score, abnormal images against normal ones.

    The calibration that the score needs is fitted each time, on some of the training images.

    Args:
        host: whose normalisation and schedule apply.
        timesteps: pairs (t, t_next) of the inversion.
        train: (N, C, h, w) raw features of normal training images; at most ``limit`` of them are used.
        normal, abnormal: (n, C, h, w) raw features to tell apart, none of a training image.
        held_out: (n, C, h, w) raw features of normal images for the calibration; ``normal`` if None.
        limit: number of images.
        rule: of the score; None: chosen anew for each network, see `invad_med.scoring.choice`.
        lesions: (n, h, w) bool, the abnormal cells of ``abnormal``, for the choice; None if unknown.
        patients: numbers of those that ``normal`` and ``abnormal`` are of, for the choice; None if unknown.
    """

    def __init__(
        self,
        host: Host,
        timesteps: Timesteps,
        train: Tensor,
        normal: Tensor,
        abnormal: Tensor,
        held_out: Tensor | None = None,
        limit: int = 64,
        rule: str | None = DEFAULT_RULE,
        lesions: Tensor | None = None,
        patients: tuple[list[int], list[int]] | None = None,
    ) -> None:
        self.host, self.timesteps, self.rule = host, timesteps, rule
        self.lesions, self.patients = lesions, patients
        self.settings = {"timesteps": timesteps, "rule": rule, "limit": limit}
        self.train = train[:: max(1, len(train) // limit)][:limit]
        self.normal, self.abnormal, self.held_out = normal, abnormal, held_out

    def __call__(self, network: nn.Module) -> float:
        """Return the AUROC of ``network``, 0 to 1."""
        network.eval()
        train, normal, abnormal = (self._walk(network, raw) for raw in (self.train, self.normal, self.abnormal))
        held_out = normal if self.held_out is None else self._walk(network, self.held_out)
        rule = self.rule
        if rule is None:
            walk = {as_walk(self.timesteps): EndPoints(train, normal, abnormal)}
            rule = choose(walk, self.lesions, patients=self.patients).rule
        calibration = Calibration(train.end_point.shape[1], rule).fit(train, held_out, self.timesteps)
        scores = calibration.score(normal.joined(abnormal).end_point)
        labels = [0] * len(normal) + [1] * len(abnormal)
        return float(roc_auc_score(labels, scores.numpy()))

    def _walk(self, network: nn.Module, raw: Tensor) -> Walked:
        return walked(self.host, raw, self.timesteps, network)


def validation_auroc(
    detector: AnomalyDetector, cohort_features: CohortFeatures, enabled: bool = True, rule: str | None = DEFAULT_RULE
) -> CalibratedAuroc | None:
    """Return the AUROC to select by: abnormal images of ``valid`` against the cohort's normal selection images.

    None where the cohort has no abnormal validation image, or it is not wanted.
    """
    if not enabled or len(cohort_features.abnormal) == 0:
        return None
    parts = cohort_features
    return CalibratedAuroc(
        detector.host,
        detector.timesteps,
        parts.train,
        parts.selection,
        parts.abnormal,
        rule=rule,
        lesions=parts.lesions,
        patients=parts.patients,
    )
