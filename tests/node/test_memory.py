"""The allocator's limit is taken where there is one, and an administrator's own is left."""

import platform
import subprocess
import sys

import pytest

SAY = "from invad_med.node.memory import share_arenas; print(share_arenas())"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
@pytest.mark.parametrize(("environment", "taken"), [({}, "True"), ({"MALLOC_ARENA_MAX": "4"}, "False")])
def test_the_limit(environment, taken, monkeypatch):
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    done = subprocess.run([sys.executable, "-c", SAY], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == taken
