"""What docs/python.md and the README show runs, and draws the pictures beside it."""

import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

#: What the examples take for granted: a model of PyTorch's with its input, and a folder of a language model.
GIVEN = """
import torch
from transformers import LlamaConfig, LlamaForCausalLM
model, x = torch.nn.Linear(8, 8), torch.randn(2, 8)
path = "llama"
small = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=50)
LlamaForCausalLM(LlamaConfig(**small)).save_pretrained(path)
"""


def blocks(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", ["docs/python.md", "README.md"])
def test_what_is_shown_runs(page, data, tmp_path, monkeypatch, capsys):
    pytest.importorskip("transformers")
    for name in ("SmolLM2-135M-Instruct.Q4_1.gguf", "all-MiniLM-L6-v2", "moby-dick.txt"):
        if not (data / name).exists():
            pytest.skip(f"{data / name} is missing: scripts/fetch-test-data fetches it")
        os.symlink(data.resolve() / name, tmp_path / name)
    (tmp_path / "docs/python").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    given, names, shown = {}, {}, blocks(page)
    assert len(shown) >= (6 if page.startswith("docs") else 1)
    exec(GIVEN, given)
    for block in shown:
        names.update(given)
        exec(compile(block, page, "exec"), names)
    for drawn in (tmp_path / "docs/python").iterdir():
        assert drawn.read_bytes() == (ROOT / "docs/python" / drawn.name).read_bytes(), f"{page} draws another {drawn.name}"
    if page == "docs/python.md":
        assert len(list((ROOT / "docs/python").iterdir())) == 4
        assert "4" in capsys.readouterr().out
