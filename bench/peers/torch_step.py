"""PyTorch's CPU attention, one timed call at a time, so that another program can alternate with it.

    python torch_step.py

The protocol is in ../README.md: a case with the paths of its raw inputs, then `step [N]`, `output PATH`, `quit`.
"""
import itertools
import math

import numpy as np
import torch
import torch.nn.functional as F

from step import serve, timed
from torch_attention import DTYPES, keep

FROM_MEMORY = 128 << 20  # bytes that a decode case rotates over: more than any cache holds


def read(path, shape, dtype):
    """A tensor of this shape from a raw little-endian file."""
    raw = np.fromfile(path, np.uint8)
    need = math.prod(shape) * dtype.itemsize
    if raw.size != need:
        raise ValueError(f"{path}: {raw.size} bytes, expected {need} for {shape} in {dtype}")
    return torch.from_numpy(raw).view(dtype).view(shape)


def mask(case):
    """What PyTorch is told of the case's mask: its own causal flag, a boolean mask, or nothing."""
    queries, keys = case["queries"], case["keys"]
    # With one query at the end, causal keeps everything. PyTorch's flag counts from the top left.
    if case["mask"] == "none" or (case["mask"] == "causal" and queries == 1):
        return {}
    if case["mask"] == "causal" and queries == keys:
        return {"is_causal": True}
    if case["mask"] not in ("causal", "window", "causal-window"):
        raise ValueError(f"mask {case['mask']!r}")
    rows = torch.arange(queries)[:, None] + (keys - queries)
    return {"attn_mask": keep(case, rows, torch.arange(keys)[None])}


class Attention:
    """The inputs of one case, and the call on them."""

    def __init__(self, request):
        case, inputs = request["case"], request["inputs"]
        if isinstance(case["queries"], list):
            raise ValueError("PyTorch has no packed sequences here")
        batch, heads, kv_heads, queries, keys, dim = (
            case[k] for k in ("batch", "heads", "kv_heads", "queries", "keys", "dim")
        )
        dtype = DTYPES[case["dtype"]]
        self.backward = case.get("backward", False)
        self.q = read(inputs["q"], (batch, heads, queries, dim), dtype)
        self.k = read(inputs["k"], (batch, kv_heads, keys, dim), dtype)
        self.v = read(inputs["v"], (batch, kv_heads, keys, dim), dtype)
        self.grad = read(inputs["grad"], (batch, heads, queries, dim), dtype) if self.backward else None
        for tensor in (self.q, self.k, self.v):
            tensor.requires_grad_(self.backward)
        self.options = self.options_of(case)
        decoding = queries == 1 and not self.backward
        self.copies = math.ceil(FROM_MEMORY / (self.k.nbytes + self.v.nbytes)) if decoding else 1
        pairs = [(self.k, self.v)] + [(self.k.clone(), self.v.clone()) for _ in range(self.copies - 1)]
        self.pairs = itertools.cycle([self.held(pair) for pair in pairs] if decoding else pairs)

    def options_of(self, case):
        """What a call is told beside its tensors."""
        return mask(case) | ({"enable_gqa": True} if case["heads"] != case["kv_heads"] else {})

    def held(self, pair):
        """Keys and values as a decode case has them."""
        return pair

    def attend(self, k, v):
        return F.scaled_dot_product_attention(self.q, k, v, **self.options)

    def __call__(self):
        """One forward, or one forward and backward."""
        k, v = next(self.pairs)
        if not self.backward:
            with torch.no_grad():
                return self.attend(k, v)
        self.attend(k, v).backward(self.grad)
        self.q.grad = self.k.grad = self.v.grad = None

    def results(self):
        """The output, and with it the gradients of q, k and v for a backward case, by name."""
        if not self.backward:
            return {"out": self()}
        out = self.attend(self.k, self.v)
        grads = torch.autograd.grad(out, (self.q, self.k, self.v), self.grad)
        return {"out": out.detach(), **dict(zip(("dq", "dk", "dv"), grads))}


def prepare(request, attention=Attention, peer=f"torch {torch.__version__}"):
    torch.set_num_threads(request.get("threads", 2))
    prepared = attention(request)
    for _ in range(request.get("warm_up", 2)):
        prepared()
    return prepared, {"peer": peer, "id": request["case"]["id"], "copies": prepared.copies}


def step(attention, count="1"):
    return timed(attention, int(count))


def output(attention, path):
    results = attention.results()
    with open(path, "wb") as file:
        for tensor in results.values():
            tensor.float().contiguous().numpy().astype("<f4").tofile(file)
    return {"written": [{"name": name, "shape": list(tensor.shape)} for name, tensor in results.items()]}


if __name__ == "__main__":
    serve(prepare, {"step": step, "output": output})
