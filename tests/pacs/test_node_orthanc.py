"""The example of docs/orthanc: Orthanc sends stable studies to a node, whose results come back; a small campaign."""

import pytest
from orthanc import MISSING

from tests.campaigns.node import DCMTK
from tests.campaigns.node_orthanc import FORWARDS, campaign

pytestmark = [
    pytest.mark.pacs,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(bool(MISSING), reason=MISSING),
    pytest.mark.skipif(not (DCMTK / "dcmsend").exists(), reason="DCMTK is not installed"),
]


@pytest.mark.parametrize("by", FORWARDS)
def test_every_study_in_orthanc_gets_its_results_once(by, tmp_path):
    assert not campaign(5, 2, by, 3, tmp_path / by)
