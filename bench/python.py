"""What a call costs through Python, what one new token does, and what a sentence model gains: Regard and PyTorch in turns,
each checked first.

    python bench/python.py             # small calls, and one query over keys in tensors
    python bench/python.py MODEL       # sentences too, through a model's folder, such as all-MiniLM-L6-v2
    python bench/python.py --quick     # a look, in a second
"""

import argparse
import itertools
import pathlib
import statistics
import time

import numpy as np
import regard
import regard.torch
import torch
import torch.nn.functional as F

LOOMINGS = pathlib.Path(__file__).parent / "loomings.txt"
# So long everything works before it is timed: cores that rested are slow at first.
WAKING_S = 0.025
# Bytes of all copies of keys and values: more than any cache holds.
FROM_MEMORY = 128 << 20


def in_turns(calls, rounds, each):
    """The median seconds of each call over so many rounds; in each round a call is timed `each` times at once."""
    seconds = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            while time.perf_counter() - begin < WAKING_S:
                call()
            start = time.perf_counter()
            for _ in range(each):
                call()
            seconds[name].append((time.perf_counter() - start) / each)
    return {name: statistics.median(of) for name, of in seconds.items()}


def small_calls(rounds):
    """Attention of one head of two tokens: what is left is what a call costs."""
    q, k, v = np.random.default_rng(0).standard_normal((3, 1, 1, 2, 8), dtype=np.float32)
    tensors = [torch.from_numpy(array) for array in (q, k, v)]
    calls = {
        "regard.attention, NumPy": lambda: regard.attention(q, k, v),
        "regard.attention, NumPy, causal": lambda: regard.attention(q, k, v, "causal"),
        "regard.attention, tensors": lambda: regard.attention(*tensors),
        "regard.torch.scaled_dot_product_attention": lambda: regard.torch.scaled_dot_product_attention(*tensors),
        "torch.nn.functional.scaled_dot_product_attention": lambda: F.scaled_dot_product_attention(*tensors),
    }
    causal = np.where(np.tri(2, dtype=bool), 0, -np.inf)
    for name, call in calls.items():
        scores = q.astype(np.float64) @ k.swapaxes(-1, -2) / np.sqrt(8) + (causal if "causal" in name else 0)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        error = np.abs(np.asarray(call()) - weights @ v / weights.sum(-1, keepdims=True)).max()
        assert error < 1e-6, f"{name} is off by {error}"
    print("| a call on two tokens | µs |\n| --- | --- |")
    for name, seconds in in_turns(calls, rounds, 500).items():
        print(f"| `{name}` | {seconds * 1e6:.1f} |")


def new_tokens(rounds):
    """One query over keys and values that are tensors, as caches of Hugging Face's hold them; they come from memory."""
    print("\n| one query: heads, of keys, keys, dim | type | PyTorch, ms | Regard, ms | |\n| --- | --- | --- | --- | --- |")
    for heads, kv_heads, keys, dim in ((32, 8, 8192, 128), (14, 2, 8192, 64), (8, 8, 8192, 64), (32, 8, 1024, 128)):
        for dtype in (torch.float32, torch.bfloat16):
            q = torch.randn(1, heads, 1, dim).to(dtype)
            k, v = torch.randn(2, 1, kv_heads, keys, dim).to(dtype)
            copies = [(k, v)] + [(k.clone(), v.clone()) for _ in range(FROM_MEMORY // (k.nbytes + v.nbytes))]
            pairs = itertools.cycle(copies)
            calls = {
                "PyTorch": lambda q=q, pairs=pairs: F.scaled_dot_product_attention(q, *next(pairs), enable_gqa=True),
                "Regard": lambda q=q, pairs=pairs: regard.torch.scaled_dot_product_attention(q, *next(pairs), enable_gqa=True),
            }
            exact = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), enable_gqa=True)
            error = (calls["Regard"]().double() - exact).abs().max().item()
            assert error < (1e-5 if dtype == torch.float32 else 2e-2), f"one query is off by {error}"
            theirs, ours = (1e3 * seconds for seconds in in_turns(calls, rounds, 1).values())
            name = str(dtype).removeprefix("torch.")
            print(f"| {heads}, {kv_heads}, {keys}, {dim} | {name} | {theirs:.2f} | {ours:.2f} | {theirs / ours:.1f}× |")


def sentences(folder, rounds):
    """128 runs of 20 words and 32 of 200 through a model, with PyTorch's attention and with Regard's."""
    import regard.transformers
    from sentence_transformers import SentenceTransformer

    regard.transformers.register()

    def model(attention, dtype=torch.float32):
        options = {"attn_implementation": attention, "dtype": dtype}
        return SentenceTransformer(folder, device="cpu", model_kwargs=options)

    models = {name: model(name) for name in ("sdpa", "regard")}
    exact = model("eager", torch.float64)
    words = LOOMINGS.read_text(encoding="utf-8").split()
    print("\n| sentences a second, f32 | sdpa | regard | |\n| --- | --- | --- | --- |")
    for length, count in ((20, 128), (200, 32)):
        step = (len(words) - length) // count
        texts = [" ".join(words[at * step : at * step + length]) for at in range(count)]
        vectors = exact.encode(texts)
        for name, of in models.items():
            error = 1 - (of.encode(texts).astype(np.float64) * vectors).sum(-1).min()
            assert error < 1e-6, f"{name}: a cosine of {1 - error} with vectors in f64"
        calls = {name: lambda of=of, texts=texts: of.encode(texts) for name, of in models.items()}
        sdpa, ours = (count / seconds for seconds in in_turns(calls, rounds, 1).values())
        print(f"| {length} words | {sdpa:.1f} | {ours:.1f} | {ours / sdpa:.2f}× |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="the folder of a sentence model")
    parser.add_argument("--quick", action="store_true", help="one round instead of nine")
    options = parser.parse_args()
    rounds = 1 if options.quick else 9
    torch.set_num_threads(regard.num_threads())
    small_calls(rounds)
    new_tokens(rounds)
    if options.model:
        sentences(options.model, rounds)


if __name__ == "__main__":
    main()
