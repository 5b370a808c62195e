"""A program that uses what there is, for a type checker: see test_documentation.py. It is not run."""

from typing import assert_type

import numpy as np
import regard
import regard.torch
import regard.transformers
import torch
from regard import Mask

q = np.zeros((1, 2, 3, 4), np.float32)
t = torch.zeros(1, 2, 3, 4)


def attention(flag: bool) -> None:
    assert_type(regard.attention(t, t, t, "causal"), torch.Tensor)
    out, lse = regard.attention(q, q, q, Mask.causal(), key_lengths=[3], sinks=np.zeros(2), return_lse=True)
    print(out.dtype, lse.shape)
    assert_type(regard.attention(t, t, t, return_lse=flag), torch.Tensor | tuple[torch.Tensor, torch.Tensor])
    _, dk, _ = regard.attention_backward(t, t, t, t, t[..., 0], t)
    assert_type(dk, torch.Tensor)
    both = regard.merge((t, t[..., 0]), (t, t[..., 0]))
    assert_type(both, tuple[torch.Tensor, torch.Tensor])
    assert_type(regard.scores(t, t, heads=[0], rows=range(2), stage="raw"), torch.Tensor)
    plan = regard.plan((1, 2, 3, 4), (1, 2, 3, 4), (1, 2, 3, 4), "causal")
    assert_type(plan(t, t, t, return_lse=True), tuple[torch.Tensor, torch.Tensor])
    print(plan.density + 1.0, plan.regimes[0].upper())
    assert_type(regard.prefix_attention(t, t, t, t, t), torch.Tensor)


def masks() -> None:
    mask = Mask.causal() & (Mask.window(3, None) | ~Mask.edges([(0, 1)], symmetric=True)) | Mask.keys([True, False])
    mask |= Mask.global_keys([0]) & Mask.dense(np.ones((3, 3), dtype=bool)) & Mask.edges((np.zeros(4), np.zeros(0)))
    print(mask.layout(3, 3).density + mask.layout(3, 3).cost, mask.svg(3, 3).upper(), mask.to_numpy(3, 3).sum())
    index = regard.Index(q[0, 0], links=8)
    print(index.nearest(q[0, 0], 2).shape, index.dim + 1, index.adaptive(2) & mask)
    found = regard.retrieve(t, t, t, 2, window=(1, 0), sight="grown")
    assert_type(found.out, torch.Tensor)
    print(found.keys(0, 0, 0), regard.select(q, q, blocks=2) & mask)


def caches() -> None:
    cache = regard.Cache(2, 4, capacity=10, dtype="int8")
    cache.append(q, q)
    paged = regard.PagedCache(regard.PagePool(2, 4, pages=3))
    assert_type(regard.decode(t, cache), torch.Tensor)
    out, lse = regard.decode(t, [paged, paged.fork()], return_lse=True)
    print(out, lse, cache.capacity + regard.PagePool.page)


def linear() -> None:
    assert_type(regard.linear_attention(t, t, t), torch.Tensor)
    out, state = regard.linear_attention(t, t, t, rule="gated", decay=t, return_state=True)
    out, (sums, exponents) = regard.favor_attention(t, t, t, features=regard.FavorFeatures(4, 8), return_state=True)
    print(out, state, sums, exponents, regard.linear_attention_backward(t, t, t, t).state.sum())


def models() -> None:
    decoder = regard.Decoder.load("model.gguf")
    print(decoder.generate("Hello", seed=1).upper(), *decoder.stream([{"role": "user", "content": "Hello"}]))
    print(decoder.logits([1, 2]).shape, decoder.perplexity("Hello") + 1, regard.Encoder.load("folder").encode(["a"]).shape)
    print(regard.machine()["isa"].upper(), regard.num_threads() + 1)
    regard.layers.FlashAttention(32, 4, mask="causal")
    regard.transformers.register()
    with regard.torch.patched():
        regard.torch.attention(t, t, t, Mask.causal())
    assert_type(regard.torch.scaled_dot_product_attention(t, t, t, is_causal=True), torch.Tensor)


regard.attention(1, q, q)  # type: ignore[call-overload]
regard.plan((1, 2), (1, 2), (1, 2)).density = 2  # type: ignore[misc]
