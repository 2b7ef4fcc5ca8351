"""The bundle as an MLflow model: paths of images in, a table of scores out."""

from __future__ import annotations

from typing import Any

import pandas as pd
from mlflow.pyfunc import PythonModel


class BundleModel(PythonModel):
    """Loads the bundle it was logged with and scores what it is given."""

    def load_context(self, context: Any) -> None:
        """Load the models of the logged bundle."""
        from invad_med.inference.predictor import load

        self.predictor = load(bundle_root=context.artifacts["bundle"])

    def predict(self, context: Any, model_input: list[str], params: Any = None) -> pd.DataFrame:
        """Return one row per slice of every file or folder: score, p-value, threshold, data set, reason."""
        keys = ("modality", "score", "p_value", "threshold", "paper_score", "status", "reason")
        found = [prediction for path in model_input for prediction in self.predictor(path)]
        return pd.DataFrame([{key: getattr(prediction, key) for key in keys} for prediction in found])
