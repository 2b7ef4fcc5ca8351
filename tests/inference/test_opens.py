"""What a run costs in files: every slice is decoded once and every file opened at most twice, whatever is written."""

import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import pydicom
import pytest
from dicom_results import make_enhanced_mr, make_series, named
from PIL import Image
from pydicom.uid import RLELossless, generate_uid

from invad_med.bundle import root

# Counts, in a process of its own: an audit hook cannot be taken off again.
COUNT = """
import collections, json, os, sys
folder, output, bundle = sys.argv[1:]
opened, decoded = collections.Counter(), collections.Counter()

def hook(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        path = os.path.abspath(os.fsdecode(arguments[0]))
        if path.startswith(folder + os.sep) and not os.path.isdir(path):
            opened[os.path.relpath(path, folder)] += 1

sys.addaudithook(hook)

from nibabel.arrayproxy import ArrayProxy
from PIL import ImageFile
from pydicom.pixels.decoders.base import Decoder

def count(owner, name, key):
    real = getattr(owner, name)
    def counting(self, *a, **k):
        word = key(self, *a)
        if word:
            decoded[word] += 1
        return real(self, *a, **k)
    setattr(owner, name, counting)

count(Decoder, "as_array", lambda self, ds, *a: str(ds.SOPInstanceUID))
count(Decoder, "iter_array", lambda self, ds, *a: str(ds.SOPInstanceUID))
count(Decoder, "as_buffer", lambda self, ds, *a: str(ds.SOPInstanceUID))
count(Decoder, "iter_buffer", lambda self, ds, *a: str(ds.SOPInstanceUID))
count(ArrayProxy, "_get_unscaled", lambda self, *a: "nifti")
count(ImageFile.ImageFile, "load", lambda self: f"{os.path.basename(self.fp.name)} {self.tell()}"
      if self.tile and str(getattr(self.fp, "name", "")).startswith(folder) else None)

import invad_med.readers.dicom.pixels as pixels
pixels.apart = lambda call: call()  # what is counted in another process would be lost with it

from monai.bundle import run
run(config_file=os.path.join(bundle, "configs", "inference.json"), dataset_dir=folder, output_dir=output,
    device="cpu", dicom_out=["overlay", "parametric_map", "report", "secondary_capture"], gate=False)
print("COUNTS " + json.dumps([opened, decoded]))
"""


def stated(path):
    """Let a DICOM file say that it shows a brain."""
    ds = pydicom.dcmread(path)
    ds.Modality, ds.BodyPartExamined = "MR", "BRAIN"
    ds.save_as(path)


def two_times(path):
    """Make two acquisitions of a multi-frame file, of five places each."""
    ds = pydicom.dcmread(path)
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    ds.SeriesInstanceUID = generate_uid()
    for i, frame in enumerate(ds.PerFrameFunctionalGroupsSequence):
        frame.PlanePositionSequence = ds.PerFrameFunctionalGroupsSequence[i % 5].PlanePositionSequence
        content = pydicom.Dataset()
        content.TemporalPositionIndex = 1 + i // 5
        frame.FrameContentSequence = [content]
    ds.save_as(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tmp_path_factory.mktemp("opens") / "in" / "brain"
    base.mkdir(parents=True)
    volume = np.random.default_rng(0).integers(0, 900, (5, 24, 20), dtype=np.int16)
    make_series(base / "plain", volume)
    make_series(base / "compressed", volume[:4], syntax=RLELossless)
    make_enhanced_mr(base / "frames.dcm")
    two_times(make_enhanced_mr(base / "times.dcm"))
    (base / "bare").write_bytes(named("MR_small.dcm").read_bytes())  # told by its content
    for path in (*(base / "plain").iterdir(), *(base / "compressed").iterdir(), base / "frames.dcm",
                 base / "times.dcm", base / "bare"):  # fmt: skip
        stated(path)
    nib.save(nib.Nifti1Image(volume.T.astype(np.float32), np.diag([2.0, 2.0, 3.0, 1.0])), base / "volume.nii.gz")
    Image.fromarray(volume[0].astype(np.uint8)).save(base / "picture.png")
    pages = [Image.fromarray(page.astype(np.uint8)) for page in volume[:2]]
    pages[0].save(base / "pages.tif", save_all=True, append_images=pages[1:])
    return base.parent


@pytest.fixture(scope="module")
def counted(folder, tmp_path_factory):
    """Return where a run's results are, how often it opened each file and how often it decoded each image."""
    output = tmp_path_factory.mktemp("counted") / "out"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COUNT, str(folder), str(output), root()],
        capture_output=True,
        text=True,
        cwd=output.parent,
    )
    line = next((line for line in done.stdout.splitlines() if line.startswith("COUNTS ")), None)
    assert line, (done.stdout + done.stderr)[-3000:]
    return output, *json.loads(line.removeprefix("COUNTS "))


@pytest.mark.filterwarnings("ignore")
def test_every_slice_is_decoded_once_and_every_file_opened_at_most_twice(folder, counted):
    output, opened, decoded = counted
    files = [p for p in folder.rglob("*") if p.is_file()]
    assert len(files) == 5 + 4 + 1 + 1 + 1 + 3
    names = {p.relative_to(folder).as_posix() for p in files}  # there is no manifest.json, which is looked for
    assert {name: count for name, count in opened.items() if name in names} == dict.fromkeys(names, 2)
    images = [str(pydicom.dcmread(p).SOPInstanceUID) for p in files if p.suffix in (".dcm", "")]
    expected = dict.fromkeys([*images, "nifti", "picture.png 0", "pages.tif 0", "pages.tif 1"], 1)
    own = {str(pydicom.dcmread(p).SOPInstanceUID) for p in output.rglob("*.dcm")}  # read back as written
    assert {name: count for name, count in decoded.items() if name not in own} == expected

    written = [p.name for p in output.rglob("*") if p.is_file()]
    for name, count in {"overlay": 5 + 4 + 1, "parametric_map": 6, "report": 6 + 1, "secondary_capture": 9}.items():
        assert sum(w.startswith(name) for w in written) == count, name
    assert sum(w.endswith(".png") for w in written) == 5 + 4 + 10 + 10 + 1 + 5 + 1 + 2 + 1


@pytest.mark.filterwarnings("ignore")
def test_slices_may_be_loaded_in_other_processes(folder, counted, tmp_path):
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", f"{root()}/configs/inference.json"]
    command += ["--dataset_dir", str(folder), "--output_dir", str(tmp_path), "--device", "cpu"]
    command += ["--dataloader#num_workers", "2", "--dicom_out", "overlay", "--gate", "False"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "scores.csv").read_text() == (counted[0] / "scores.csv").read_text()
    assert len(list(tmp_path.rglob("overlay*.dcm"))) == 10
