"""Sources for the tests of the DICOM writers."""

import pytest
from dicom_results import named

from invad_med.readers.sources import scan


@pytest.fixture
def ct(tmp_path):
    """A source of one CT slice."""
    (source,) = scan(named("CT_small.dcm")).sources
    return source
