"""What MLflow runs to load a registered bundle; nothing is pickled."""

from mlflow.models import set_model

from invad_med.tracking.model import BundleModel

set_model(BundleModel())
