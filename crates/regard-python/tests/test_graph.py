"""Attention of what is looked for: graphs, retrieval, and blocks chosen by content; and sequences that begin alike."""

import numpy as np
import pytest
import reference
import regard
import torch
from regard import Mask


def test_graph_masks(rng):
    keys = rng.standard_normal((200, 16), dtype=np.float32)
    index = regard.Index(keys, links=8)
    linked = np.zeros((200, 200), dtype=bool)
    for node in range(200):
        for level in range(index.levels[node] + 1):
            linked[node, index.neighbours(level, node)] = True
        linked[node, node] = True
    assert (index.edges().to_numpy(200, 200) == linked).all()
    assert (index.edges(symmetric=True).to_numpy(200, 200) == linked | linked.T).all()
    levels = np.array(index.levels)
    assert (index.layers(1).to_numpy(200, 200) == (levels >= 1)).all()
    assert (index.hierarchy().to_numpy(200, 200) == (levels >= levels[:, None])).all()
    near = abs(np.arange(200)[:, None] - np.arange(200)) <= 5
    assert (index.adaptive(10).to_numpy(200, 200) == linked | near).all()


def test_the_nearest_keys_are_found(rng):
    keys, queries = rng.standard_normal((400, 16), dtype=np.float32), rng.standard_normal((50, 16), dtype=np.float32)
    index = regard.Index(keys)
    assert (len(index), index.dim) == (400, 16)
    products = queries.astype(np.float64) @ keys.T
    best = np.argsort(-products, axis=1)[:, :10]
    found = index.nearest(queries, 10, width=60)
    assert found.shape == (50, 10) and found.dtype == np.int64
    ordered = np.take_along_axis(products, found, 1)
    assert (np.diff(ordered, axis=1) <= 0).all()
    recall = np.mean([len(set(ours) & set(theirs)) / 10 for ours, theirs in zip(found, best, strict=True)])
    assert recall > 0.9
    # Of all keys nothing is missed.
    assert (index.nearest(queries, 500) == np.argsort(-products, axis=1)).all()
    assert index.nearest(queries[:0], 3).shape == (0, 3)
    for bad, problem in [
        ((queries[0], 3), "expected \\[queries, dim\\]"),
        ((queries[:, :3], 3), "dim"),
        ((queries, 0), "count"),
    ]:
        with pytest.raises(ValueError, match=problem):
            index.nearest(*bad)


@pytest.mark.parametrize("sight", ["all", "filtered", "grown"])
def test_retrieval_is_attention_over_what_it_found(rng, sight):
    q, k, v = (rng.standard_normal((2, heads, 150, 16), dtype=np.float32) for heads in (4, 2, 2))
    retrieved = regard.retrieve(q, k, v, 8, width=30, sight=sight, window=(9, 0), first=3, scale=0.5)
    causal = reference.causal(150, 150) if sight != "all" else np.ones((150, 150), dtype=bool)
    kept = np.broadcast_to((reference.window(150, 150, 9, 0) | (np.arange(150) < 3)) & causal, (2, 4, 150, 150)).copy()
    for b, h, i in np.ndindex(2, 4, 150):
        found = retrieved.keys(b, h, i)
        assert not kept[b, h, i, found].any() and causal[i, found].all()
        kept[b, h, i, found] = True
    expected, lse = reference.attention(q, k, v, kept=kept, scale=0.5)
    np.testing.assert_allclose(retrieved.out, expected, atol=1e-5)
    np.testing.assert_allclose(retrieved.lse, lse, atol=1e-5)
    # What was found are nearly all of the best.
    score = np.where(causal, reference.scores(q, k), -np.inf)
    best = np.argsort(-score, axis=-1)[..., :8]
    there = np.take_along_axis(kept & causal, best, -1)[:, :, 8:]
    assert there.mean() > 0.9
    with pytest.raises(IndexError, match="`head` is 4"):
        retrieved.keys(0, 4, 0)


def test_retrieval_of_all_keys_and_with_indexes(rng):
    q, k, v = torch.from_numpy(rng.standard_normal((3, 2, 60, 8), dtype=np.float32))
    exact = regard.attention(q, k, v, "causal")
    everything = regard.retrieve(q, k, v, 60, sight="filtered")
    assert isinstance(everything.out, torch.Tensor) and everything.out.shape == q.shape
    torch.testing.assert_close(everything.out, exact, atol=1e-6, rtol=0)
    indexes = [regard.Index(keys, links=8) for keys in k]
    given, made = (regard.retrieve(q, k, v, 4, **how) for how in ({"indexes": indexes}, {"links": 8}))
    assert torch.equal(given.out, made.out)
    with pytest.raises(ValueError, match="indexes"):
        regard.retrieve(q, k, v, 4, indexes=indexes[:1])
    with pytest.raises(TypeError, match="list of regard.Index"):
        regard.retrieve(q, k, v, 4, indexes=[1, 2])
    with pytest.raises(TypeError, match="`window` is an int; expected a pair .left, right."):
        regard.retrieve(q, k, v, 4, window=5)
    with pytest.raises(ValueError, match="`window` is -1"):
        regard.retrieve(q, k, v, 4, window=(-1, None))
    with pytest.raises(ValueError, match="`sight` is 'some'"):
        regard.retrieve(q, k, v, 4, sight="some")
    with pytest.raises(TypeError, match="float64, expected float32"):
        regard.retrieve(q.double(), k, v, 4)


@pytest.mark.parametrize("causal", [True, False])
def test_blocks_are_chosen_by_their_means(rng, causal):
    heads, tokens, dim, size, count = 4, 200, 16, 32, 3
    q = rng.standard_normal((1, heads, tokens, dim), dtype=np.float32)
    k = rng.standard_normal((1, 2, tokens, dim), dtype=np.float32) + 0.5
    mask = regard.select(q, k, blocks=count, size=size, causal=causal)
    blocks = -(-tokens // size)
    mean = lambda x: np.stack([x[..., b * size : (b + 1) * size, :].mean(-2, dtype=np.float64) for b in range(blocks)], -2)  # noqa: E731
    scores = mean(q)[0] @ np.repeat(mean(k)[0], 2, axis=0).swapaxes(-1, -2)
    kept = np.zeros((1, heads, tokens, tokens), dtype=bool)
    for h, row in np.ndindex(heads, blocks):
        seen = row + 1 if causal else blocks
        always = {0, row}
        others = sorted(set(range(seen)) - always, key=lambda column: -scores[h, row, column])
        for column in always | set(others[: count - len(always)]):
            kept[0, h, row * size : (row + 1) * size, column * size : (column + 1) * size] = True
    if causal:
        kept &= reference.causal(tokens, tokens)
    assert (mask.to_numpy(tokens, tokens).reshape(kept.shape) == kept).all()


def test_other_rules_of_blocks(rng):
    q = rng.standard_normal((1, 2, 256, 16), dtype=np.float32)
    density = lambda mask: mask.to_numpy(256, 256).mean()  # noqa: E731
    assert density(regard.select(q, q, share=0.0)) < density(regard.select(q, q, share=0.75)) < density(Mask.causal())
    assert (regard.select(q, q, mass=0.0).to_numpy(256, 256) == Mask.causal().to_numpy(256, 256)).all()
    window = regard.select(q, q, by="exact", window=0.6, size=32).to_numpy(256, 256).reshape(-1, 256, 256)
    assert (np.diff(window[:, :, 32:].astype(int), axis=-1, prepend=0) == 1).sum(-1).max() == 1
    assert density(regard.select(q, q, window=0.3)) < density(regard.select(q, q, window=1.0)) == density(Mask.causal())
    weights = reference.scores(3 * q, q, kept=reference.causal(256, 256))
    weights = np.exp(weights - weights.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    held = lambda by: (weights * regard.select(3 * q, q, by=by, blocks=2, size=16).to_numpy(256, 256)).sum(-1).mean()  # noqa: E731
    assert held("exact") >= max(held("estimated"), held("pooled"))
    for options, problem in [({}, "one of"), ({"blocks": 2, "share": 0.5}, "only one"), ({"blocks": 2, "by": "luck"}, "luck")]:
        with pytest.raises((TypeError, ValueError), match=problem):
            regard.select(q, q, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(8, 4, 2, 1, 5, 100), (3, 2, 2, 7, 7, 33), (1, 3, 1, 2, 9, 1), (2, 2, 2, 4, 6, 0)])
def test_a_shared_beginning(rng, shape, dtype):
    batch, heads, kv_heads, queries, keys, prefix = shape
    drawn = lambda *shape: torch.from_numpy(rng.standard_normal(shape)).to(dtype)  # noqa: E731
    q, k, v = drawn(batch, heads, queries, 16), drawn(batch, kv_heads, keys, 16), drawn(batch, kv_heads, keys, 24)
    prefix_k, prefix_v = drawn(kv_heads, prefix, 16), drawn(kv_heads, prefix, 24)
    whole = [torch.cat([a.expand(batch, -1, -1, -1), b], 2).double().numpy() for a, b in ((prefix_k, k), (prefix_v, v))]
    sinks = rng.standard_normal(heads)
    expected, lse = reference.attention(
        q.double().numpy(), *whole, kept=reference.causal(queries, prefix + keys), softcap=5.0, sinks=sinks
    )
    out, ours = regard.prefix_attention(q, k, v, prefix_k, prefix_v, softcap=5.0, sinks=sinks, return_lse=True)
    tolerance = {torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}[dtype]
    assert out.dtype == ours.dtype == torch.float32
    np.testing.assert_allclose(out, expected, atol=tolerance)
    np.testing.assert_allclose(ours, lse, atol=tolerance)
    room = torch.empty(batch, heads, queries, 24, dtype=dtype)
    assert regard.prefix_attention(q, k, v, prefix_k[None], prefix_v[None], out=room, softcap=5.0, sinks=sinks) is room
    np.testing.assert_allclose(room.double(), expected, atol=tolerance)


def test_beginnings_that_do_not_fit(rng):
    q = rng.standard_normal((2, 2, 3, 8), dtype=np.float32)
    beginning = rng.standard_normal((2, 5, 8), dtype=np.float32)
    with pytest.raises(ValueError, match="`prefix_v` has shape \\[2, 4, 8\\]; expected \\[2, 5, 8\\]"):
        regard.prefix_attention(q, q, q, beginning, beginning[:, :4])
    with pytest.raises(TypeError, match="unexpected keyword argument 'dropout'"):
        regard.prefix_attention(q, q, q, beginning, beginning, dropout=0.1)
    with pytest.raises(TypeError, match="`prefix_k` has dtype float64, `q` float32"):
        regard.prefix_attention(q, q, q, beginning.astype(float), beginning)
    with pytest.raises(TypeError, match="float64"):
        regard.prefix_attention(*(x.astype(float) for x in (q, q, q, beginning, beginning)))
