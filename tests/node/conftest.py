"""The folder of a node in this process."""

import pytest

from invad_med.node.store import Store


@pytest.fixture
def store(tmp_path):
    found = Store(tmp_path / "storage")
    found.open()
    return found
