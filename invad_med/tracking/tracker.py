"""Results in MLflow: one parent run, one nested run per data set with the same metric keys, the bundle as a model.

A local SQLite store below the output folder unless a server is named; no patient, file name or path goes in: scores
are logged as figures, cases in the report by row number. `mlflow` is imported only when a tracker is used.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invad_med.detection import ModelFiles
from invad_med.evaluation.tracker import TrackingError
from invad_med.tracking.log import log_run
from invad_med.tracking.log_again import COMMAND
from invad_med.tracking.record import Registration, RunRecord
from invad_med.tracking.store import Store

if TYPE_CHECKING:
    from invad_med.evaluation.record import Evaluation


class Tracker:
    """Take down evaluations: ``ask`` before the work, call after it.

    Args:
        tracking_uri: of a server or store; None: the environment's ``MLFLOW_TRACKING_URI``, else
            ``sqlite:///<output_dir>/mlflow.db``, artifacts beside it.
        experiment_name: made if need be.
        run_name: of the parent run; ``bmad-<bundle version>`` if None.
        registered_model_name: name to register the whole bundle under, with the alias ``champion``; None: not.
        bundle_root, models_dir: the bundle's folder and that of the models evaluated.
        ckpt_path: the checkpoint evaluated that lies elsewhere, or None.
        settings: plain values the run was made with.
    """

    def __init__(
        self,
        tracking_uri: str | None = None,
        experiment_name: str = "invad_med",
        run_name: str | None = None,
        registered_model_name: str | None = None,
        bundle_root: str | Path = ".",
        models_dir: str | Path | None = None,
        ckpt_path: str | Path | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.tracking_uri, self.experiment_name, self.run_name = tracking_uri, experiment_name, run_name
        self.registered_model_name, self.ckpt_path = registered_model_name, ckpt_path
        self.bundle_root = Path(bundle_root)
        self.models_dir = Path(models_dir) if models_dir else self.bundle_root / "models"
        self.settings = dict(settings or {})

    def ask(self, output_dir: Path) -> None:
        """Make sure that what is found out can be taken down.

        Raises:
            TrackingError: the address holds a password, the store does not answer, or the experiment was deleted.
        """
        Store.choose(self.tracking_uri, output_dir).ask(self.experiment_name)

    def __call__(self, evaluations: Sequence[Evaluation], files: Sequence[Path], output_dir: Path) -> str:
        """Write ``evaluation.json``, log evaluations and return the parent run's id.

        Args:
            evaluations: at least one.
            files: tables and report below ``output_dir`` to keep as artifacts; they must name no patient.
            output_dir: folder of the results, and of the default store.

        Raises:
            TrackingError: they cannot be logged; ``python -m invad_med log-again`` does it later.
        """
        record = self.describe(evaluations, files, output_dir)
        record.write(output_dir)
        try:
            return log_run(record, output_dir, Store.choose(self.tracking_uri, output_dir))
        except TrackingError as error:
            raise TrackingError(f"{error}; to log them later: {COMMAND} {shlex.quote(str(output_dir))}") from error

    def describe(self, evaluations: Sequence[Evaluation], files: Sequence[Path], output_dir: Path) -> RunRecord:
        """Return what is logged, as plain values."""
        from invad_med.tracking.describe import as_params, dataset_run, parent_metrics

        metadata = json.loads((self.bundle_root / "configs" / "metadata.json").read_text(encoding="utf-8"))
        config = json.loads((self.bundle_root / "configs" / "evaluate.json").read_text(encoding="utf-8"))
        tags = {"bundle_version": metadata["version"], "monai_version": metadata["monai_version"]}
        modalities = [e.truth.modality.name for e in evaluations]
        return RunRecord(
            name=self.run_name or f"bmad-{metadata['version']}",
            description=f"{', '.join(modalities)}: see report.html among the artifacts",
            tags=tags,
            params=as_params(self.settings),
            metrics=parent_metrics(evaluations),
            files=tuple(file.relative_to(output_dir).as_posix() for file in files),
            config={"settings": self.settings, "config": config},
            datasets=tuple(dataset_run(e, tags, self.settings) for e in evaluations),
            experiment_name=self.experiment_name,
            tracking_uri=self.tracking_uri,
            registration=self._registration(modalities) if self.registered_model_name else None,
        )

    def _registration(self, modalities: Sequence[str]) -> Registration:
        assert self.registered_model_name is not None
        models = ModelFiles.in_folder(self.models_dir)
        if self.ckpt_path is not None:
            models = models.with_checkpoint(self.ckpt_path, modalities[0])
        default = models.default or modalities[0]
        files = {modality: str(Path(file).resolve()) for modality, file in models.files.items()}
        return Registration(self.registered_model_name, str(self.bundle_root.resolve()), files, default)
