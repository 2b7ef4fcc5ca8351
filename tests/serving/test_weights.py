"""Checkpoints read without torch, against torch.load."""

import datetime
import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from invad_med.serving.weights import open_weights

MODELS = sorted((Path(__file__).parents[2] / "bundles" / "invad" / "models").glob("*.pt"))


def equal(ours, theirs):
    """Say whether a value read without torch is torch's: type, shape, bits of tensors; plain values as they are."""
    if isinstance(theirs, torch.Tensor):
        wanted = (theirs.float() if theirs.dtype == torch.bfloat16 else theirs).detach().numpy()
        same = ours.dtype == wanted.dtype and ours.shape == wanted.shape
        return same and np.ascontiguousarray(ours).tobytes() == np.ascontiguousarray(wanted).tobytes()
    if isinstance(theirs, dict):
        return list(ours) == list(theirs) and all(equal(ours[name], theirs[name]) for name in theirs)
    if isinstance(theirs, list | tuple):
        return type(ours) is type(theirs) and all(equal(*pair) for pair in zip(ours, theirs, strict=True))
    return type(ours) is type(theirs) and ours == theirs


def compare(path):
    """Assert that a file reads as torch reads it."""
    theirs = torch.load(path, weights_only=True)
    with open_weights(path) as weights:
        assert list(weights.values) == list(theirs)
        for name, value in theirs.items():
            assert equal(weights.read(name), value), name


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_models_that_ship_read_as_torch_reads_them(path):
    compare(path)


def test_every_dtype_view_and_nesting_reads_as_torch_reads_it(tmp_path):
    base = torch.arange(24, dtype=torch.float32)
    state = OrderedDict(
        whole=base,
        offset=base[5:11],
        transposed=base.view(4, 6).T,
        strided=base.view(2, 3, 4)[:, ::2, 1:3],
        expanded=base[3:5].view(2, 1).expand(2, 3),
        scalar=torch.tensor(2.5),
        empty=torch.zeros(0, 3),
        parameter=torch.nn.Parameter(torch.ones(2, 2)),
        bfloat16=torch.tensor([1.0, -3.140625, float("inf"), 1e-30]).bfloat16(),
        float16=torch.tensor([1.0, 65504.0, 6e-8]).half(),
        float64=torch.tensor([1.0 + 1e-12]).double(),
        int64=torch.tensor([[-(2**60), 7]]),
        int32=torch.tensor([-5], dtype=torch.int32),
        int16=torch.tensor([-5], dtype=torch.int16),
        int8=torch.tensor([-5], dtype=torch.int8),
        uint8=torch.tensor([250], dtype=torch.uint8),
        bool=torch.tensor([True, False]),
        nested={"a": [1, 2.5, None, True, "words"], "pairs": ((0, None), (1, base[:2]))},
    )
    torch.save(state, tmp_path / "made.pt")
    compare(tmp_path / "made.pt")


def test_the_state_dict_of_a_module_reads(tmp_path):
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    torch.save(module.state_dict(), tmp_path / "module.pt")  # has _metadata
    compare(tmp_path / "module.pt")


def test_the_other_byte_order_is_turned(tmp_path):
    torch.save({"a": torch.tensor([1.5, -2.0])}, tmp_path / "little.pt")
    with (
        zipfile.ZipFile(tmp_path / "little.pt") as old,
        zipfile.ZipFile(tmp_path / "big.pt", "w") as new,
    ):
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("byteorder"):
                content = b"big"
            if name.endswith("data/0"):
                content = np.frombuffer(content, "<f4").astype(">f4").tobytes()
            new.writestr(name, content)
    with open_weights(tmp_path / "big.pt") as weights:
        np.testing.assert_array_equal(weights.read("a"), np.array([1.5, -2.0], np.float32))


class Calls:
    """What runs a function where it is unpickled."""

    def __reduce__(self):
        return (Path.touch, (Path("touched"),))


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"when": datetime.datetime(2020, 1, 1)}, "it names datetime.datetime"),
        ({"model": torch.nn.Linear(1, 1)}, "it names torch.nn.modules.linear.Linear"),
        ({"a": Calls()}, "it names "),
        ({"a": np.ones(2)}, "it names numpy"),
        ({"a": torch.zeros(1, dtype=torch.complex64)}, "it names torch.ComplexFloatStorage"),
    ],
    ids=["datetime", "module", "call", "numpy", "complex"],
)
def test_what_is_no_tensor_is_refused_by_name(content, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(content, "foreign.pt")
    with (
        pytest.raises(ValueError, match=r"checkpoint foreign.pt cannot be read safely \(" + named),
        open_weights("foreign.pt"),
    ):
        pass
    assert not Path("touched").exists()


def damaged(path, change):
    """Rewrite the entries of a checkpoint by a function of name and content; None leaves one out."""
    with zipfile.ZipFile(path) as old:
        entries = {name: change(name, old.read(name)) for name in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, content in entries.items():
            if content is not None:
                new.writestr(name, content)


def test_damage_is_told(tmp_path):
    path = tmp_path / "model.pt"

    def saved():
        torch.save({"a": torch.arange(6.0)}, path)
        return path.read_bytes()

    def message():
        with pytest.raises(ValueError, match="is it a whole file") as caught, open_weights(path) as weights:
            weights.read("a")
        return str(caught.value)

    whole = saved()
    path.write_bytes(whole[: len(whole) // 2])
    assert "(BadZipFile)" in message()
    number = whole.index(np.arange(6.0, dtype=np.float32).tobytes())
    path.write_bytes(whole[:number] + b"\1" + whole[number + 1 :])
    assert "(BadZipFile)" in message()  # the entry's checksum
    for change, reason in (
        (lambda name, content: content[:-4] if name.endswith("data/0") else content, "beyond its storage"),
        (lambda name, content: None if name.endswith("data/0") else content, "(KeyError)"),
        (lambda name, content: None if name.endswith("data.pkl") else content, "(UnpicklingError)"),
        (lambda name, content: content[:20] if name.endswith("data.pkl") else content, "("),
    ):
        saved()
        damaged(path, change)
        assert reason in message()


def test_a_tensor_beyond_its_storage_is_refused(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"a": torch.arange(6.0)}, path)

    def longer(name, content):
        if not name.endswith("data.pkl"):
            return content
        assert content.count(b"K\x06\x85") == 1  # the shape (6,)
        return content.replace(b"K\x06\x85", b"K\x07\x85")

    damaged(path, longer)
    with pytest.raises(ValueError, match="a tensor lies beyond its storage"), open_weights(path) as weights:
        weights.read("a")


def test_a_tensor_that_is_to_be_read_with_the_other_sign_is_refused(tmp_path):
    torch.save({"a": torch.arange(6.0) - 3, "b": torch._neg_view(torch.ones(2))}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="a tensor that is neg"), open_weights(tmp_path / "model.pt"):
        pass


def test_other_files_and_missing_names_are_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist: train one"), open_weights(tmp_path / "none.pt"):
        pass
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="holds a list, not a state dict"), open_weights(tmp_path / "list.pt"):
        pass
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(1)}, buffer, _use_new_zipfile_serialization=False)
    (tmp_path / "old.pt").write_bytes(buffer.getvalue())
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps({"a": 1}))
    for name in ("old.pt", "pickle.pt"):
        with pytest.raises(ValueError, match=r"\(BadZipFile\); is it a whole file"), open_weights(tmp_path / name):
            pass
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pt")
    with open_weights(tmp_path / "a.pt") as weights, pytest.raises(ValueError, match=r"a\.pt has no b"):
        weights.read("b")
