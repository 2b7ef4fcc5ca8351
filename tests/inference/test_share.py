"""A folder is shared among processes without loss or overlap."""

import pytest

from invad_med.bundle import root
from invad_med.inference.inputs import list_inputs, share_inputs


def test_every_source_is_whole_in_exactly_one_part():
    inputs = list_inputs(root() + "/sample", ["brain", "chest", "phantom"], "brain")
    parts = [share_inputs(inputs, rank, 3) for rank in range(3)]
    assert sorted((i.source.name, i.index) for p in parts for i in p.items) == sorted(
        (i.source.name, i.index) for i in inputs.items
    )
    sources = [{i.source for i in p.items} for p in parts]
    assert not (sources[0] & sources[1] or sources[1] & sources[2] or sources[0] & sources[2])
    assert [len(p.unscored) for p in parts] == [len(inputs.unscored), 0, 0]
    with pytest.raises(ValueError, match="cannot be shared among 10000 processes: start fewer"):
        share_inputs(inputs, 0, 10_000)
