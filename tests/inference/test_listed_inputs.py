"""What a run scores, lists and counts of a folder that holds something of everything."""

import gzip

import numpy as np
from dicom_made import write_series
from PIL import Image

from invad_med.data.own_results import png_mark
from invad_med.inference.inputs import list_inputs


def test_everything_is_scored_or_listed(tmp_path, caplog):
    head = dict(BodyPartExamined="HEAD", PixelSpacing=[1, 1])
    for start, z, echo in ((100, range(0, 30, 5), 5), (200, range(0, 50, 5), 90)):
        write_series(
            tmp_path / "phases", [(p, start + k, head | dict(EchoTime=echo)) for k, p in enumerate(z)], seed=echo
        )
    write_series(tmp_path / "mosaic", [(0, 1, head | dict(ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"]))])
    (mosaic,) = (tmp_path / "mosaic").iterdir()
    (tmp_path / "packed.dcm.gz").write_bytes(gzip.compress(mosaic.read_bytes()))
    picture = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    picture.save(tmp_path / "old.png", pnginfo=png_mark())
    (tmp_path / "notes.txt").write_text("words")

    inputs = list_inputs(tmp_path, ["brain"], "brain")
    sources = {item.source.name: item.source.n_slices for item in inputs.items}
    assert sorted(sources.values()) == [6, 10] and len(inputs.items) == 16
    assert all(
        len({item.index for item in inputs.items if item.source.name == name}) == n for name, n in sources.items()
    )
    (unscored,) = inputs.unscored
    assert unscored.reason == "not scored: a mosaic holds many slices in one picture; split it into slices first"
    (problem,) = inputs.problems
    assert problem.reason == "DICOM compressed with gzip; unpack it first"
    assert "1 file(s) are results of earlier runs and are passed over" in caplog.text
