"""A record of a run, logged."""

from __future__ import annotations

from pathlib import Path

from invad_med.tracking.record import DatasetRun, RunRecord
from invad_med.tracking.store import Store

# The tag opens an experiment with runs and metrics, which MLflow 3 does not show first by itself.
_KIND = {"mlflow.experimentKind": "custom_model_development"}


def log_run(record: RunRecord, output_dir: Path, store: Store) -> str:
    """Log a run with its data sets and files, register its bundle if asked to, and return the parent run's id.

    Args:
        record: what to log.
        output_dir: folder of the results, where the record's files lie.
        store: where to.

    Raises:
        TrackingError: the store fails, or a file is gone.
    """
    import mlflow

    with store.opened():
        if mlflow.get_experiment_by_name(record.experiment_name) is None:
            mlflow.create_experiment(record.experiment_name, artifact_location=store.artifacts, tags=_KIND)
        experiment = mlflow.set_experiment(record.experiment_name).experiment_id
        tags, about = dict(record.tags), record.description
        with mlflow.start_run(None, experiment, record.name, tags=tags, description=about) as parent:
            mlflow.log_params(dict(record.params))
            mlflow.log_metrics(dict(record.metrics))
            for file in record.files:
                mlflow.log_artifact(str(output_dir / file))
            mlflow.log_dict(dict(record.config), "executed_config.json")
            for dataset in record.datasets:
                _log_dataset(dataset)
            if record.registration is not None:
                from invad_med.tracking.register import register_bundle

                register_bundle(record.registration)
    print(f"MLflow: run {record.name} in experiment {record.experiment_name}; {store.look}")
    return str(parent.info.run_id)


def _log_dataset(dataset: DatasetRun) -> None:
    import mlflow

    with mlflow.start_run(run_name=dataset.name, nested=True, tags=dict(dataset.tags)):
        mlflow.log_params(dict(dataset.params))
        mlflow.log_metrics(dict(dataset.metrics))
        for file, text in dataset.texts.items():
            mlflow.log_text(text, file)
