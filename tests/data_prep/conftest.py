"""What every source must show, and files in its raw format."""

import hashlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from data_prep import layout
from invad_med.data.bmad import read_tree
from invad_med.data.masks import read_mask
from invad_med.data.modalities import all_modalities
from invad_med.data.transforms import to_image
from invad_med.readers.sources import read_raster

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def snapshot(folder: Path, times: bool = False) -> dict:
    return {
        p.relative_to(folder).as_posix(): (hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_mtime_ns * times)
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


class Killed(BaseException):
    """Not an Exception: nothing may catch it, as nothing catches SIGKILL."""


@pytest.fixture
def proven(tmp_path, monkeypatch):
    """Build, build again (nothing may change), kill at several points and repeat (same bytes); return the set."""

    def prove(prepare, *args, **options):
        options = {"progress": False, "workers": 1, **options}
        output = tmp_path / "out"
        report = prepare(*args, output=output, **options)
        assert report.problems == () and report.made > 0
        first = snapshot(output, times=True)
        again = prepare(*args, output=output, **options)
        assert (again.made, again.counts) == (0, report.counts)
        assert snapshot(output, times=True) == first

        content = snapshot(output)
        images = [name for name in content if name.endswith(".png")]
        write = layout.write_atomically
        for stop in sorted({0, len(images) // 2, len(images) - 1, len(images) + 1}):
            broken = tmp_path / f"killed{stop}"
            left = stop

            def dying(path, data):
                nonlocal left
                if left == 0:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.with_name(f".{path.name}.partial").write_bytes(data[: len(data) // 2])
                    raise Killed
                left -= 1
                write(path, data)

            with monkeypatch.context() as patch:
                patch.setattr(layout, "write_atomically", dying)
                with pytest.raises(Killed):
                    prepare(*args, output=broken, **options)
            assert snapshot(broken) != content
            prepare(*args, output=broken, **options)
            assert snapshot(broken) == content, f"killed after {stop} files"

        (found,) = read_tree(output)
        counts = {s: {c: n["images"] for c, n in classes.items()} for s, classes in found.splits.items()}
        assert counts == report.counts
        lists = json.loads((output / "datalist.json").read_text())
        assert sorted(i["image"] for split in lists.values() for i in split) == sorted(
            i.image.relative_to(output).as_posix() for i in found.items
        )
        assert all(item.group for item in found.items)
        modality = found.modality or all_modalities()["brain"]
        for item in found.items:  # loaded as training and scoring load it
            piece = read_raster(item.image)
            image = to_image(piece, modality, 32)
            assert image.shape == (3, 32, 32) and bool(((image >= 0) & (image <= 1)).all())
            assert item.mask is None or read_mask(item.mask).shape == piece.pixels.shape[:2]
        assert str(tmp_path) not in (output / "manifest.json").read_text() + (output / "manifest.csv").read_text()
        return found

    return prove


@pytest.fixture
def save_nifti():
    def save(path: Path, display: np.ndarray, affine=LPS, flip=()) -> Path:
        """Save (N, H, W) in LPS display orientation as (W, H, N) voxels; `flip` stores these axes the other way."""
        path.parent.mkdir(parents=True, exist_ok=True)
        voxels, affine = display.transpose(2, 1, 0), np.array(affine, dtype=float)
        for axis in flip:
            affine[:3, 3] += affine[:3, axis] * (voxels.shape[axis] - 1)
            affine[:3, axis] *= -1
            voxels = np.flip(voxels, axis)
        nib.save(nib.Nifti1Image(np.ascontiguousarray(voxels), affine), path)
        return path

    return save


@pytest.fixture
def pixels():
    return lambda path: np.asarray(Image.open(path))
