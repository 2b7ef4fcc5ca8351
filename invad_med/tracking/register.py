"""The bundle as a registered model that loads where this package is not installed: its source travels with it."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import tempfile
from pathlib import Path

import invad_med
from invad_med.detection.models import DEFAULT
from invad_med.tracking.record import Registration

ALIAS = "champion"


def register_bundle(registration: Registration, alias: str = ALIAS) -> str:
    """Register a bundle with its models as a new version of a model, within a run, and return the version.

    Args:
        registration: what to register; its default model becomes the bundle's ``models/model.pt``.
        alias: that the version gets.

    Raises:
        OSError: a file is gone.
    """
    import mlflow

    with tempfile.TemporaryDirectory() as folder:
        bundle, code = Path(folder) / "invad", Path(folder) / "code" / "invad_med"
        copy_bundle(registration, bundle)
        shutil.copytree(Path(invad_med.__file__).parent, code, ignore=shutil.ignore_patterns("bundles", "__pycache__"))
        info = mlflow.pyfunc.log_model(
            name="bundle",
            python_model=str(Path(__file__).with_name("served.py")),
            artifacts={"bundle": str(bundle)},
            registered_model_name=registration.name,
            code_paths=[str(code)],
            pip_requirements=pinned_requirements(),
        )
    version = str(info.registered_model_version)
    mlflow.MlflowClient().set_registered_model_alias(registration.name, alias, version)
    return version


def copy_bundle(registration: Registration, target: Path) -> None:
    """Copy a bundle with the models named and no others."""
    ignored = shutil.ignore_patterns("models", "__pycache__")
    shutil.copytree(registration.bundle_root, target, ignore=ignored)
    (target / "models").mkdir()
    for modality, file in registration.models.items():
        stem = DEFAULT if modality == registration.default else modality
        shutil.copy(file, target / "models" / f"{stem}.pt")


def pinned_requirements() -> list[str]:
    """Return this package's own dependencies as ``name==version``, as they are installed here.

    A build's local label (``+cpu``) is left out: package indexes do not have it.

    Raises:
        importlib.metadata.PackageNotFoundError: this package is used without being installed.
    """
    stated = importlib.metadata.requires("invad-med") or []
    names = [re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in stated if "extra ==" not in line]
    return [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in names]
