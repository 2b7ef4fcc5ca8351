"""What ``configs/evaluate.json`` runs: every data set below a folder, each by its own model, and what it leaves."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from invad_med.data.bmad import BmadDataset, TreeProblem, inspect_tree
from invad_med.data.slices import ReadError
from invad_med.detection import Host, load_detector
from invad_med.diffusion import Grid
from invad_med.evaluation.dataset import evaluate_dataset
from invad_med.evaluation.models_of import choose_checkpoint, modality_of
from invad_med.evaluation.plan import Plan
from invad_med.evaluation.record import Evaluation
from invad_med.evaluation.report import write_report
from invad_med.evaluation.tables import remove_earlier, write_tables
from invad_med.evaluation.tracker import Tracker, TrackingError
from invad_med.parallel import rank, together

logger = logging.getLogger(__name__)

INCOMPLETE = 3  # exit status of a run that could not evaluate some data set, or not take down what it found


class Evaluator:
    """Evaluate every data set found; one that cannot be evaluated is reported, the others are done.

    Args:
        datasets: as `invad_med.data.bmad.inspect_tree` lists them, problems and all.
        grid: timesteps instead of those each model was calibrated for.
        engine: what computes end points.
        denoiser: noise predictor instead of the one that a checkpoint states.
        host: in the place of the one that a checkpoint states, or the path of a published model, see
            `invad_med.hosts.as_host`.
        output_dir: folder for results, made if need be.
        ckpt_path: a checkpoint for the one data set given, or for the one of several that it names; None: those of
            ``models_dir``.
        models_dir: folder of ``<data set>.pt``.
        modality: what the images show, for one data set that does not say it.
        device: to compute on.
        tracker: what takes the results down; None for nothing.
        plan: keys of `invad_med.evaluation.plan.Plan`.
    """

    def __init__(
        self,
        datasets: list[BmadDataset],
        output_dir: str | Path,
        grid: Grid | None = None,
        engine: str = "eager",
        denoiser: nn.Module | None = None,
        host: Host | str | None = None,
        ckpt_path: str | None = None,
        models_dir: str | Path = "models",
        modality: str | None = None,
        device: torch.device | str = "cpu",
        tracker: Tracker | None = None,
        **plan: Any,
    ) -> None:
        self.datasets, self.output_dir = datasets, Path(output_dir)
        self.grid, self.engine, self.denoiser, self.host = grid, engine, denoiser, host
        self.ckpt_path, self.models_dir, self.modality = ckpt_path, models_dir, modality
        self.device, self.tracker, self.plan = device, tracker, Plan(**plan)
        self.evaluations: list[Evaluation] = []
        self.problems: dict[str, str] = {}
        self.taken_down = True

    def prepare(self) -> None:
        """Ask, before hours of work, whether its results can be taken down.

        Raises:
            SystemExit: they cannot; its message, printed by the first process alone, says why.
        """
        tracker = self.tracker
        if tracker is None:
            return
        try:
            together(lambda: tracker.ask(self.output_dir) if rank() == 0 else None)
        except TrackingError as error:
            raise SystemExit(f"nothing was evaluated: {error}" if rank() == 0 else 1) from None

    def run(self) -> None:
        """Evaluate, write tables and report, and take them down; what cannot be taken down is said."""
        self.evaluations, self.problems, self.taken_down = [], {}, True
        for dataset in self.datasets:
            name = dataset.root.resolve().name
            try:
                self.evaluations.append(self._evaluate(dataset))
            except (ValueError, FileNotFoundError, ReadError) as error:
                logger.warning("%s cannot be evaluated: %s", name, error)
                self.problems[name] = str(error)
        if rank() > 0:  # one writes
            return
        earlier = remove_earlier(self.output_dir, {e.name for e in self.evaluations})
        if earlier:
            logger.warning("removed from %s, of an earlier evaluation: %s", self.output_dir, ", ".join(earlier))
        tables = write_tables(self.evaluations, self.problems, self.output_dir)
        report = write_report(self.evaluations, self.problems, self.output_dir)
        print(self.summary())
        if self.tracker is not None and self.evaluations:
            try:
                self.tracker(self.evaluations, [*tables, report], self.output_dir)
            except TrackingError as error:
                self.taken_down = False
                print(f"the results are in {self.output_dir.resolve()}, but in no store: {error}", file=sys.stderr)

    def _evaluate(self, dataset: BmadDataset) -> Evaluation:
        if dataset.problems:
            raise ValueError(dataset.refusal())
        alone = len(self.datasets) == 1
        modality = modality_of(dataset, self.modality, alone, self.ckpt_path)
        path = choose_checkpoint(modality.name, self.ckpt_path, self.models_dir, alone)
        detector = load_detector(path, self.grid, self.engine, self.device, self.host, denoiser=self.denoiser)
        return evaluate_dataset(dataset, modality, detector, path, self.plan)

    def summary(self) -> str:
        """Return image and pixel AUROC of every data set, and what could not be done, in a few lines."""
        lines = []
        for e in self.evaluations:
            shown = [
                f"{key} {f.value:.3f}" + (f" [{f.low:.3f}, {f.high:.3f}]" if f.low is not None else "")
                for key in ("image_auroc", "pixel_auroc", "aupro")
                if (f := e.judged["calibrated"].figures.get(key))
            ]
            lines.append(f"{e.name}: {len(e.truth.images)} images; {', '.join(shown) or 'no figure exists'}")
        lines += [f"{name}: not evaluated: {reason}" for name, reason in self.problems.items()]
        return "\n".join([*lines, f"Results in {self.output_dir.resolve()}: report.html, metrics.json, metrics.csv."])

    def finish(self) -> None:
        """End the program with status 3 if some data set could not be evaluated, or the results not be taken down.

        What could be done is written all the same.

        Raises:
            SystemExit: with status 3.
        """
        if self.problems or not self.taken_down:
            raise SystemExit(INCOMPLETE)


def find_datasets(dataset_dir: str | Path) -> list[BmadDataset]:
    """Return every data set below a folder, with its problems; see `invad_med.data.bmad`.

    Two folders of one name are a problem of both: results go by the folder's name.
    """
    datasets = inspect_tree(dataset_dir)
    by_name: dict[str, list[Path]] = {}
    for dataset in datasets:
        by_name.setdefault(dataset.root.resolve().name, []).append(dataset.root)
    twice = {root: roots for roots in by_name.values() if len(roots) > 1 for root in roots}
    reason = "folders of one name, by which results go; rename one or evaluate each alone"
    return [
        replace(d, problems=(*d.problems, TreeProblem(reason, tuple(twice[d.root])))) if d.root in twice else d
        for d in datasets
    ]
