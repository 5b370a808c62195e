"""Queries, keys and values of the folders' random models, as the attention of `transformers` takes them, in f64.

    python observed.py [--folders FOLDER]

For each folder below, `observed.bin` is written into it: little-endian f32, for each block, then for each of POSITIONS of the
longest prompt of `reference.json`, the query heads, the key heads and the value heads of that token one after the other. Queries
and keys are normed and rotated.
"""
import argparse
import json
import pathlib

import torch
from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

FOLDERS = ["llama", "qwen3", "phi3"]
POSITIONS = [0, 1, 99, 255, 256, 299]

seen = []


def watched(module, query, key, value, attention_mask, **more):
    """Attention of `[batch, heads, tokens, dim]`, which is noted on the way."""
    seen.append([tensor[0].clone() for tensor in (query, key, value)])
    return sdpa_attention_forward(module, query, key, value, attention_mask, **more)


def observe(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="watched")
    prompts = json.loads((folder / "reference.json").read_text())["prompts"]
    tokens = max((prompt["tokens"] for prompt in prompts), key=len)
    seen.clear()
    with torch.no_grad():
        model(torch.tensor([tokens]))
    assert len(seen) == model.config.num_hidden_layers
    rows = [torch.cat([tensor[:, at].flatten() for tensor in block]) for block in seen for at in POSITIONS]
    numbers = torch.stack(rows).numpy().astype("<f4")
    (folder / "observed.bin").write_bytes(numbers.tobytes())
    print(f"{folder.name}: {len(seen)} blocks, {len(POSITIONS)} tokens of {numbers.shape[1]} numbers")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = pathlib.Path(__file__).resolve().parents[2]
    parser.add_argument("--folders", type=pathlib.Path, default=here / "crates/regard-models/tests/data/folders")
    arguments = parser.parse_args()
    AttentionInterface.register("watched", watched)
    # Without one there would be no window.
    AttentionMaskInterface.register("watched", sdpa_mask)
    for name in FOLDERS:
        observe(arguments.folders / name)
