"""Regard's own Python package, one timed call at a time: what a case takes through Python.

    python regard_step.py

The protocol is in ../README.md. Tensors are PyTorch's, as a user has them: gradients go through its autograd.
"""
import regard
import regard.torch

import torch_step
from step import serve


def mask(case):
    """The case's mask."""
    if case["mask"] in ("none", "causal"):
        return None if case["mask"] == "none" else regard.Mask.causal()
    beside = regard.Mask.global_keys(range(case.get("globals", 0)))
    if case["mask"] == "window":
        return regard.Mask.window(case["window"], case["window"]) | beside
    if case["mask"] == "causal-window":
        return regard.Mask.causal() & (regard.Mask.window(case["window"] - 1, None) | beside)
    raise ValueError(f"mask {case['mask']!r}")


class Attention(torch_step.Attention):
    """The inputs of one case, and the call on them."""

    def __init__(self, request):
        self.case = request["case"]
        super().__init__(request)

    def options_of(self, case):
        return {"mask": mask(case)}

    def held(self, pair):
        """A decode case's keys and values are in a cache, unless it has none."""
        if self.case.get("cache") == "none":
            return pair
        if self.case.get("cache", "contiguous") != "contiguous":
            raise ValueError(f"cache {self.case['cache']!r}: only contiguous ones are measured through Python")
        k, v = pair
        name = self.case.get("cache_dtype", self.case["dtype"])
        dtype = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}.get(name, name)
        caches = []
        for keys, values in zip(k, v):
            cache = regard.Cache(k.shape[1], k.shape[3], v.shape[3], capacity=k.shape[2], dtype=dtype)
            cache.append(keys, values)
            caches.append(cache)
        return caches, None

    def attend(self, k, v):
        if v is None:
            return regard.decode(self.q, k, **self.options)
        if self.backward:
            return regard.torch.attention(self.q, k, v, **self.options)
        return regard.attention(self.q, k, v, **self.options)


def prepare(request):
    regard.set_num_threads(request.get("threads", 2))
    return torch_step.prepare(request, Attention, f"regard {regard.__version__} in Python")


if __name__ == "__main__":
    serve(prepare, {"step": torch_step.step, "output": torch_step.output})
