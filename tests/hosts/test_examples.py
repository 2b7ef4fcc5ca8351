"""The examples of docs/hosts.md, run as they stand, in their order."""

import re
import time
from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs" / "hosts.md"


def test_the_examples_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    blocks = re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(), flags=re.MULTILINE | re.DOTALL)
    start, names = time.perf_counter(), {}
    for block in blocks:
        exec(compile(block, str(DOCUMENT), "exec"), names)
    assert len(blocks) == 4 and time.perf_counter() - start < 120
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("UNet2DModel [(") and "source=<ScaleSource.ESTIMATED" in said[1] and "images=" in said[1]
    good, spotted = map(float, re.findall(r"(?:good|spot) (\d\.\d\d)", said[2]))
    assert good > 0.05 >= spotted
    assert {path.name for path in tmp_path.glob("*.pt")} == {"ddpm.pt", "latent.pt", "function.pt"}
