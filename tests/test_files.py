"""Files that appear whole or not at all."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from invad_med.files import remove_partials, whole_file, write_atomically


def test_the_longest_name_is_written(tmp_path):
    write_atomically(tmp_path / "folder" / ("a" * 255), b"x")
    assert [len(p.name) for p in (tmp_path / "folder").iterdir()] == [255]


def test_many_threads_may_write_one_file(tmp_path):
    def write(i):
        write_atomically(tmp_path / "x", str(i).encode() * 1000)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(400)))
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    content = (tmp_path / "x").read_bytes()
    assert content == content[: len(content) // 1000] * 1000


def test_a_failure_leaves_what_was_there(tmp_path):
    (tmp_path / "x").write_text("before")

    def fail():
        with whole_file(tmp_path / "x") as partial:
            partial.write_text("half")
            assert partial.parent == tmp_path
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [p.read_text() for p in tmp_path.iterdir()] == ["before"]


def test_what_a_killed_process_leaves_is_found(tmp_path):
    with whole_file(tmp_path / "x") as partial:
        partial.write_text("half")
        name = partial.name
    for i, age in enumerate((0, 5000)):
        leftover = tmp_path / f"{name[:-9]}{i}.partial"
        leftover.write_text("half")
        os.utime(leftover, (os.path.getmtime(leftover) - age,) * 2)
    (tmp_path / ".own.partial").write_text("of somebody else")
    remove_partials(tmp_path, older_than=3600)
    assert {p.name for p in tmp_path.iterdir()} == {"x", f"{name[:-9]}0.partial", ".own.partial"}
    remove_partials(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"x", ".own.partial"}
