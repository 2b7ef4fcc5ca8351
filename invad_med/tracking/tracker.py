"""Results in MLflow: one parent run, one nested run per data set with the same metric keys, the bundle as a model.

A local SQLite store below the output folder unless a server is named; no patient, file name or path goes in: scores
are logged as figures, cases in the report by row number. `mlflow` is imported only when a tracker is used.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invad_med.metrics.summary import bmad9

if TYPE_CHECKING:
    from invad_med.evaluation.dataset import Evaluation

ALIAS = "champion"


class Tracker:
    """Take down evaluations: ``tracker(evaluations, files, output_dir)``.

    Args:
        tracking_uri: of a server or store; None: the environment's ``MLFLOW_TRACKING_URI``, else
            ``sqlite:///<output_dir>/mlflow.db``, artifacts beside it.
        experiment_name: made if need be.
        run_name: of the parent run; ``bmad-<bundle version>`` if None.
        registered_model_name: name to register the whole bundle under, with the alias ``champion``; None: not.
        bundle_root, models_dir: the bundle's folder and that of the models evaluated.
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
        settings: dict[str, Any] | None = None,
    ) -> None:
        self.tracking_uri, self.experiment_name, self.run_name = tracking_uri, experiment_name, run_name
        self.registered_model_name = registered_model_name
        self.bundle_root = Path(bundle_root)
        self.models_dir = Path(models_dir) if models_dir else self.bundle_root / "models"
        self.settings = settings or {}

    def __call__(self, evaluations: Sequence[Evaluation], files: Sequence[Path], output_dir: Path) -> str:
        """Log evaluations and return the parent run's id.

        Args:
            evaluations: at least one.
            files: tables and report to keep as artifacts; they must name no patient.
            output_dir: where the default store lies.
        """
        import mlflow

        with _store(self.tracking_uri, output_dir) as artifacts:
            if mlflow.get_experiment_by_name(self.experiment_name) is None:
                # The tag opens the experiment with runs and metrics, which MLflow 3 does not show first by itself.
                kind = {"mlflow.experimentKind": "custom_model_development"}
                mlflow.create_experiment(self.experiment_name, artifact_location=artifacts, tags=kind)
            experiment = mlflow.set_experiment(self.experiment_name)
            metadata = json.loads((self.bundle_root / "configs" / "metadata.json").read_text(encoding="utf-8"))
            name = self.run_name or f"bmad-{metadata['version']}"
            tags = {"bundle_version": metadata["version"], "monai_version": metadata["monai_version"]}
            about = f"{', '.join(e.truth.modality.name for e in evaluations)}: see report.html among the artifacts"
            with mlflow.start_run(None, experiment.experiment_id, name, tags=tags, description=about) as parent:
                mlflow.log_params({key: _short(value) for key, value in self.settings.items()})
                mlflow.log_metrics(parent_metrics(evaluations))
                for file in files:
                    mlflow.log_artifact(str(file))
                config = json.loads((self.bundle_root / "configs" / "evaluate.json").read_text(encoding="utf-8"))
                mlflow.log_dict({"settings": self.settings, "config": config}, "executed_config.json")
                for evaluation in evaluations:
                    self._nested(evaluation, tags)
                if self.registered_model_name:
                    register_bundle(self.registered_model_name, self.bundle_root, self.models_dir)
            where = self.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or mlflow.get_tracking_uri()
            print(f"MLflow: run {name} in experiment {self.experiment_name}; mlflow ui --backend-store-uri {where}")
            return str(parent.info.run_id)

    def _nested(self, e: Evaluation, tags: dict[str, str]) -> None:
        import mlflow

        from invad_med.evaluation import pictures

        modality = e.truth.modality
        tags = tags | {"modality": modality.name, "dataset": printable_name(e.name), "split": e.plan.split}
        with mlflow.start_run(run_name=modality.name, nested=True, tags=tags):
            mlflow.log_params({key: _short(value) for key, value in (self.settings | run_params(e)).items()})
            mlflow.log_metrics(run_metrics(e))
            labels = e.truth.labels
            drawn = {"histogram.svg": pictures.histogram(e)}
            if 0 < labels.sum() < len(labels):
                drawn["curves.svg"] = pictures.curves(e)
            if (labels == 0).any():
                drawn["calibration.svg"] = pictures.calibration(e)
            for file, text in drawn.items():
                mlflow.log_text(text, file)


def run_params(e: Evaluation) -> dict[str, Any]:
    """Return what a data set's run was made with: model, data, versions; no path and no name of a file."""
    stated = {f"model {key}": value for key, value in e.provenance.stated().items()}
    return stated | {
        "checkpoint_digest": e.checkpoint_digest,
        "data_digest": e.data_digest,
        "images": len(e.truth.images),
        "groups": int(e.truth.groups.max()) + 1,
    }


def run_metrics(e: Evaluation) -> dict[str, float]:
    """Return a data set's figures: ``image_auroc`` of the calibrated score, its ends, ``paper/image_auroc`` of others.

    The keys are the same for every data set; a figure that does not exist is left out.
    """
    found: dict[str, float] = {}
    for score, judged in e.judged.items():
        prefix = "" if score == "calibrated" else f"{score}/"
        for name, f in judged.figures.items():
            found[prefix + name] = f.value
            if score == "calibrated" and f.low is not None and f.high is not None:
                found |= {f"{name}_low": f.low, f"{name}_high": f.high}
    return found | {"ms_per_image": 1000.0 * e.seconds.get("scoring", 0.0) / max(1, len(e.truth.images))}


def parent_metrics(evaluations: Sequence[Evaluation]) -> dict[str, float]:
    """Return ``<modality>/<metric>`` of every data set, ``mean/<metric>`` over those that have it, and ``bmad9``."""
    found: dict[str, float] = {}
    by_name: dict[str, list[float]] = {}
    for e in evaluations:
        for name, value in e.judged["calibrated"].values.items():
            found[f"{e.truth.modality.name}/{name}"] = value
            by_name.setdefault(name, []).append(value)
    found |= {f"mean/{name}": sum(values) / len(values) for name, values in by_name.items() if "threshold" not in name}
    nine = bmad9({e.truth.modality.name: e.judged["calibrated"].values for e in evaluations})
    return found if nine is None else found | {"bmad9": nine}


def register_bundle(name: str, bundle_root: Path, models_dir: Path, alias: str = ALIAS) -> str:
    """Register the bundle with the models evaluated as a new version of a model, set the alias, return the version."""
    import mlflow

    from invad_med.tracking.model import BundleModel

    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "invad"
        shutil.copytree(bundle_root, bundle, ignore=shutil.ignore_patterns("models", "__pycache__"))
        shutil.copytree(models_dir, bundle / "models")
        info = mlflow.pyfunc.log_model(
            name="bundle",
            python_model=BundleModel(),
            artifacts={"bundle": str(bundle)},
            registered_model_name=name,
            pip_requirements=["invad-med"],
        )
    version = str(info.registered_model_version)
    mlflow.MlflowClient().set_registered_model_alias(name, alias, version)
    return version


def printable_name(name: str) -> str:
    """Return a folder's name in the characters MLflow allows."""
    return re.sub(r"[^\w\-. /:]", "_", name)


def _short(value: Any) -> str:
    return str(value)[:500]


@contextlib.contextmanager
def _store(tracking_uri: str | None, output_dir: Path) -> Iterator[str | None]:
    """Point MLflow at a store for a while; yield where artifacts of a new experiment go (None: the server's choice).

    ``mlflow.set_tracking_uri`` also sets the environment, which would win over a later run's wish: both are put back.
    """
    import mlflow

    before, was = os.environ.get("MLFLOW_TRACKING_URI"), mlflow.get_tracking_uri()
    wanted, artifacts = tracking_uri or before, None
    if wanted is None:
        folder = output_dir.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        wanted, artifacts = f"sqlite:///{folder / 'mlflow.db'}", (folder / "mlartifacts").as_uri()
    mlflow.set_tracking_uri(wanted)
    try:
        yield artifacts
    finally:
        mlflow.set_tracking_uri(was)
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        if before is not None:
            os.environ["MLFLOW_TRACKING_URI"] = before
