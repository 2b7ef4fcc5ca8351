"""Where runs are kept: a database below the output folder unless a server or store is named; `mlflow` is imported late.

A store is asked before the work that it is to take down, and must answer within seconds.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from invad_med.addresses import MLFLOW_PASSWORD, MLFLOW_USER, OF_MLFLOW, redacted, refuse_credentials
from invad_med.evaluation.tracker import TrackingError

_VARIABLE = "MLFLOW_TRACKING_URI"
# Seconds to wait for an answer, and how often to ask again, where the environment does not say.
_ASKING = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "5", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
_LOGGING = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3"}  # MLflow's seven take five minutes


@dataclass(frozen=True)
class Store:
    """A store of runs.

    Args:
        uri: of a server, a database or a folder; it holds no password.
        folder: that of a store of ours, which takes artifacts as well; None: another's.
    """

    uri: str
    folder: Path | None = None

    @classmethod
    def choose(cls, tracking_uri: str | None, output_dir: Path) -> Store:
        """Return the store of an address, else of the environment's, else one below the output folder.

        Raises:
            TrackingError: the address holds a user or a password, which it does not quote.
        """
        uri = tracking_uri or os.environ.get(_VARIABLE)
        if not uri:
            folder = output_dir.resolve()
            return cls(_address(folder / "mlflow.db"), folder)
        try:
            refuse_credentials(uri, OF_MLFLOW)
        except ValueError as error:
            raise TrackingError(f"tracking_uri: {error}") from None
        return cls(uri)

    @property
    def artifacts(self) -> str | None:
        """Where those of a new experiment go, as an address; None: the store's choice."""
        return None if self.folder is None else (self.folder / "mlartifacts").as_uri()

    @property
    def look(self) -> str:
        """How its runs are looked at: an address, or the command that shows a local store."""
        if self.uri.startswith(("http://", "https://")):
            return self.uri
        return f"mlflow ui --backend-store-uri {shlex.quote(self.uri)}"

    def ask(self, experiment_name: str) -> None:
        """Make sure that the store answers and can take runs of an experiment.

        Raises:
            TrackingError: it does not, or the experiment was deleted.
        """
        import mlflow

        with self.opened(_ASKING):
            experiment = mlflow.get_experiment_by_name(experiment_name)
            if experiment is not None and experiment.lifecycle_stage != "active":
                raise TrackingError(
                    f"the experiment {experiment_name!r} was deleted from {self.uri}: restore it (mlflow experiments "
                    f"restore --experiment-id {experiment.experiment_id}) or give another --experiment_name"
                )

    @contextlib.contextmanager
    def opened(self, patience: dict[str, str] | None = None) -> Iterator[None]:
        """Point MLflow at the store for a while.

        ``mlflow.set_tracking_uri`` also sets the environment, which would win over a later run's wish: both are put
        back.

        Args:
            patience: environment variables for the time, where the environment does not have them.

        Raises:
            TrackingError: whatever the store fails in meanwhile, in a line.
        """
        import mlflow
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        variables, was = dict(os.environ), mlflow.get_tracking_uri()
        try:
            if self.folder is not None:
                self.folder.mkdir(parents=True, exist_ok=True)
            os.environ.update((_LOGGING if patience is None else patience) | variables)
            mlflow.set_tracking_uri(self.uri)
            yield
        except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:
            raise TrackingError(f"MLflow at {redacted(self.uri)}: {_line(error)}") from error
        finally:
            mlflow.set_tracking_uri(was)
            for name in (_VARIABLE, *_ASKING):
                os.environ.pop(name, None)
                if name in variables:
                    os.environ[name] = variables[name]


def _address(database: Path) -> str:
    """Return the address of an SQLite database, whatever characters its path has.

    A path with ``?``, ``#`` or ``%`` is quoted, and its driver named: MLflow makes the folders of ``sqlite:///``, which
    would be those of the quoted path.
    """
    path = re.sub("[%?#]", lambda found: f"%{ord(found[0]):02X}", str(database))
    return f"sqlite:///{path}" if path == str(database) else f"sqlite+pysqlite:///{path}"


def _line(error: Exception) -> str:
    """Return an error's first line, its tail where it is long: there stands what happened."""
    line = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    advice = (
        f" (user and password go into {MLFLOW_USER} and {MLFLOW_PASSWORD})" if " 401" in line or "403" in line else ""
    )
    return (line if len(line) <= 400 else f"{line[:120]} ... {line[-260:]}") + advice
