"""Trainings of a command made in the test's process, which takes seconds less each."""

import monai.bundle

from invad_med.commands import designs
from invad_med.options import read_overrides
from tests.conftest import CONFIGS


def in_this_process(monkeypatch):
    """Have commands train here; return lists of the keys of each training and of why one was refused."""
    trained, refused = [], []

    def here(config, given, overrides, stdout):
        keys = {key: str(path) for key, path in given.items()} | read_overrides(overrides, config)
        trained.append(keys)
        try:
            words = {key: "$None" if value is None else value for key, value in keys.items()}
            monai.bundle.run(config_file=str(CONFIGS / config), **words)
        except (Exception, SystemExit) as error:
            refused.append(str(error.__cause__ or error))
            return 1
        return 0

    monkeypatch.setattr(designs, "run_config", here)
    return trained, refused
