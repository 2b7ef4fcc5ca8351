"""The bundle as an MLflow model: paths of images in, a table of scores out."""

from __future__ import annotations

import dataclasses
from typing import Any

import pandas as pd
from mlflow.pyfunc import PythonModel

from invad_med.data.prediction import Prediction, Scores

_NUMBERS = tuple(field.name for field in dataclasses.fields(Scores))


class BundleModel(PythonModel):
    """Loads the bundle it was logged with and scores what it is given."""

    def load_context(self, context: Any) -> None:
        """Load the models of the logged bundle."""
        from invad_med.inference.predictor import load

        self.predictor = load(bundle_root=context.artifacts["bundle"])

    def predict(self, context: Any, model_input: list[str], params: Any = None) -> pd.DataFrame:
        """Return one row per slice of every file or folder: modality, numbers, status, reason."""
        return pd.DataFrame([_row(prediction) for path in model_input for prediction in self.predictor(path)])


def _row(prediction: Prediction) -> dict[str, Any]:
    numbers = {name: getattr(prediction, name) for name in _NUMBERS}
    return {
        "modality": prediction.modality,
        **numbers,
        "status": str(prediction.status),
        "reason": prediction.reason,
    }
