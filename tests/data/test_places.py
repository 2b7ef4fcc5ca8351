"""The place of a slice along its stack."""

import pytest

from invad_med.data.places import place_along


@pytest.mark.parametrize(
    ("index", "shown", "place"),
    [(0, range(4), 0.125), (3, range(4), 0.875), (5, [5], 0.5), (4, [2, 6], 0.5), (1, [2, 6], None), (7, [2, 6], None)],
)
def test_it_runs_from_the_first_to_the_last_that_shows_anything(index, shown, place):
    assert place_along(index, shown) == place


@pytest.mark.parametrize("index", [0, 1])
def test_a_stack_that_shows_nothing_has_none(index):
    assert place_along(index, []) is None
