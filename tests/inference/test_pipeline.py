"""From slices to predictions, and through MONAI's batches."""

import pickle

import numpy as np
import pytest
from monai.data import decollate_batch
from PIL import Image

from invad_med.data.prediction import Detection, Status
from invad_med.data.slices import ReadError, Slice
from invad_med.inference.inputs import list_inputs
from invad_med.inference.monai import LoadSliced, MapToSliced, collate
from invad_med.inference.pipeline import score_inputs, score_source
from invad_med.readers import sources
from invad_med.readers.sources import read_source


class Means:
    """Stands for detectors: the map of an image is the image, its score the image's mean."""

    device = "cpu"

    def __init__(self, one_by_one=False):
        self.batches, self.one_by_one = [], one_by_one

    def alone(self, modality):
        return self.one_by_one

    def image_size(self, modality):
        return 32

    def detect(self, images, modalities):
        assert images.shape[1:] == (3, 32, 32)
        self.batches.append(list(modalities))
        return [Detection(map=image[0], score=float(image.mean()), map_threshold=1.0) for image in images]


@pytest.fixture
def inputs(tmp_path):
    grey = [np.full((16, 24), 20 * i, np.uint8) for i in range(5)]
    for page in grey:
        page[0] = 255  # a picture of one grey would not be scored
    pages = [Image.fromarray(page) for page in grey]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 24), dtype=np.uint8)).save(tmp_path / "b.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:200])
    pages[4].save(tmp_path / "c.png")
    return list_inputs(tmp_path, ["phantom"], "phantom", "phantom")


def test_a_folder_is_scored_in_order_and_one_bad_slice_stops_nothing(inputs):
    detectors = Means()
    pairs = list(score_inputs(detectors, inputs, batch_size=2))
    assert detectors.batches == [["phantom"] * 2] * 3 + [["phantom"]]  # a black image stands for the bad slice
    list(score_inputs(each := Means(one_by_one=True), inputs, batch_size=2))
    assert each.batches == [["phantom"] * 2] * 2 + [["phantom"]] * 2  # which is needed where batches matter alone
    assert [(p.source.name, p.index, p.status) for p, _ in pairs] == [
        *(("a", i, Status.SCORED) for i in range(5)), ("b", 0, Status.UNREADABLE), ("c", 0, Status.SCORED),
    ]  # fmt: skip
    for (prediction, piece), item in zip(pairs, inputs.items, strict=True):
        assert (prediction.source, prediction.index) == (item.source, item.index)
        if prediction.status is Status.SCORED:
            assert piece.index == prediction.index and prediction.map.shape == (16, 24)
            np.testing.assert_allclose(prediction.map[3:-3], piece.pixels[3:-3] / 255, atol=1e-6)  # the edge is padded
        else:
            assert str(piece) == prediction.reason and prediction.map is None


def test_a_bad_slice_within_a_source_leaves_the_others_theirs(inputs):
    items = [item for item in inputs.items if item.source.name == "a"]
    pieces = read_source(items[0].source)
    whole = [p.score for p, _ in score_source(Means(), items, pieces, 2)]
    pieces[2] = ReadError("cut off")
    rest = [(p.score, p.reason) for p, _ in score_source(Means(), items, pieces, 2)]
    assert rest == [(s, None) for s in whole[:2]] + [(None, "cut off")] + [(s, None) for s in whole[3:]]


def test_batches_of_monai_carry_slices_and_are_taken_apart_again(inputs, monkeypatch):
    decoded = []
    real = sources._READERS["raster"]
    monkeypatch.setitem(sources._READERS, "raster", lambda source: decoded.append(source.name) or real(source))
    load = LoadSliced("image", size=32)
    items = [load(item) for item in inputs.datalist]
    assert decoded == ["a", "b", "c"]
    batch = pickle.loads(pickle.dumps(collate(items)))  # as from a loading process
    assert batch["image"].shape == (7, 3, 32, 32) and batch["modality"] == ["phantom"] * 7
    apart = decollate_batch(batch)
    assert [item["input"] for item in apart] == list(inputs.items)
    assert [type(item["slice"]) for item in apart] == [Slice] * 5 + [ReadError, Slice]
    np.testing.assert_array_equal(apart[3]["slice"].pixels, items[3]["slice"].pixels)

    back = MapToSliced("pred")
    maps = [back(item | {"pred": item["image"][:1]})["pred"] for item in apart]
    assert [m.shape for m in maps] == [(1, 16, 24)] * 5 + [(1, 32, 32), (1, 16, 24)]
    np.testing.assert_allclose(maps[3][0, 3:-3], items[3]["slice"].pixels[3:-3] / 255, atol=1e-6)
    assert decoded == ["a", "b", "c"]
