"""Exact attention through NumPy, against the formulas in float64 and against JAX."""

import numpy as np
import pytest
import reference
import regard
from regard import Mask

CASES = range(150)


def draw(rng, dtype=np.float32):
    """Arrays of random sizes: odd ones, one, none; heads that share; values of another size."""
    batch, kv_heads, group = rng.integers(1, 4), rng.integers(1, 4), rng.integers(1, 4)
    n_q, n_k = (int(rng.choice([0, 1, 2, 7, 33, 64, 65, 130, 300], p=[0.04, *[0.12] * 8])) for _ in range(2))
    dim, dim_v = rng.choice([1, 3, 16, 64, 80], size=2)
    array = lambda *shape: rng.standard_normal(shape).astype(dtype)  # noqa: E731
    q, k = array(batch, kv_heads * group, n_q, dim), array(batch, kv_heads, n_k, dim)
    return q, k, array(batch, kv_heads, n_k, dim_v)


def draw_mask(rng, n_q, n_k, offset=None):
    """A mask, and what it keeps."""
    left, right, n = (int(x) for x in rng.integers(0, max(n_k, 2), size=3))
    size = int(rng.integers(1, 40))
    p, j = np.arange(n_q)[:, None] + (n_k - n_q if offset is None else offset), np.arange(n_k)
    some = rng.random(n_k) < 0.5
    chosen = rng.integers(0, max(n_k, 1), size=3)
    pairs = rng.integers(0, max(n_k, 1), size=(50, 2))
    edges = {(int(a), int(b)) for a, b in pairs}
    linked = np.array([[(int(a), int(b)) in edges for b in j] for a in p[:, 0]], dtype=bool).reshape(n_q, n_k)
    everything = np.ones((n_q, n_k), dtype=bool)
    masks = [
        (Mask.full(), everything),
        (Mask.causal(), reference.causal(n_q, n_k, offset)),
        (Mask.window(left, right), reference.window(n_q, n_k, left, right, offset)),
        (Mask.window(None, right), reference.window(n_q, n_k, None, right, offset)),
        (Mask.prefix(n), everything & (j < n)),
        (Mask.keys(some), everything & some),
        (Mask.global_keys(chosen), everything & np.isin(j, chosen)),
        (Mask.global_queries(chosen), everything & np.isin(p, chosen)),
        (Mask.block_diagonal(size), p // size == j // size),
        (Mask.strided(size), everything & (j % size == 0)),
        (Mask.edges(pairs), linked),
    ]
    (a, kept_a), (b, kept_b) = (masks[at] for at in rng.integers(len(masks), size=2))
    return [(a, kept_a), (a & b, kept_a & kept_b), (a | b, kept_a | kept_b), (~a, ~kept_a)][rng.integers(4)]


def close(ours, theirs, tolerance):
    """Within a share of what numbers of order one have."""
    np.testing.assert_allclose(np.asarray(ours, dtype=np.float64), theirs, rtol=tolerance, atol=tolerance)


def as_good(ours, plain, expected):
    """Our largest error is at most twice that of the plain method in the same numbers, or a few last places."""
    assert (np.isfinite(ours) == np.isfinite(expected)).all()
    finite = np.isfinite(expected)
    error, theirs = (abs(x[finite].astype(np.float64) - expected[finite]).max(initial=0) for x in (ours, plain))
    places = 4 * np.finfo(ours.dtype).eps * abs(expected[finite]).max(initial=1)
    assert error <= 2 * theirs + places, f"error {error:.2e}, the plain method's {theirs:.2e}"


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_random_calls_are_the_formula(rng, case, dtype):
    q, k, v = draw(rng, dtype)
    (batch, heads, n_q, _), n_k = q.shape, k.shape[2]
    options, known = {}, {}
    if rng.random() < 0.3:
        options["offset"] = known["offset"] = int(rng.integers(-20, n_k + 20))
    mask, kept = draw_mask(rng, n_q, n_k, known.get("offset"))
    if rng.random() < 0.3:
        options["scale"] = known["scale"] = float(rng.normal())
    if rng.random() < 0.3:
        options["softcap"] = known["softcap"] = float(rng.uniform(0.5, 30))
    if rng.random() < 0.3:
        shape = [extent if rng.random() < 0.6 else 1 for extent in (batch, heads, n_q, n_k)]
        known["bias"] = rng.standard_normal(shape).astype(np.float64 if dtype == np.float64 else np.float32)
        options["bias"] = known["bias"]
    if rng.random() < 0.3:
        options["alibi"] = known["slopes"] = rng.uniform(0, 1, heads)
    if rng.random() < 0.3:
        options["sinks"] = known["sinks"] = rng.standard_normal(heads)
    expected, expected_lse = reference.attention(q, k, v, kept=kept, **known)
    plain, plain_lse = reference.attention(q, k, v, kept=kept, dtype=np.float32, **known)
    if dtype == np.float64:
        # The plain method is the reference itself, but for the order of its sums.
        plain, plain_lse = expected + 1e-12, expected_lse + 1e-12
    out = regard.attention(q, k, v, mask, **options)
    assert out.dtype == dtype and out.shape == expected.shape
    as_good(out, plain.astype(dtype), expected)
    out, lse = regard.attention(q, k, v, mask, return_lse=True, **options)
    assert out.dtype == lse.dtype == (np.float64 if dtype == np.float64 else np.float32)
    as_good(out, plain, expected)
    as_good(lse, plain_lse, expected_lse)


@pytest.mark.parametrize("case", range(40))
def test_gradients_are_central_differences(rng, case):
    q, k, v = (x[:, :, :20] for x in draw(rng, np.float64))
    (_, heads, n_q, _), n_k = q.shape, k.shape[2]
    mask, kept = draw_mask(rng, n_q, n_k)
    bias, sinks = rng.standard_normal((1, heads, 1, n_k)), rng.standard_normal(heads)
    terms = {"softcap": 5.0, "bias": bias, "sinks": sinks}
    out, lse = regard.attention(q, k, v, mask, return_lse=True, **terms)
    dout, dlse = rng.standard_normal(out.shape), rng.standard_normal(lse.shape)
    gradients = regard.attention_backward(q, k, v, out, lse, dout, mask, dlse=dlse, **terms)

    def value(q, k, v, bias, sinks):
        out, lse = reference.attention(q, k, v, kept=kept, softcap=5.0, bias=bias, sinks=sinks)
        return (out * dout).sum() + (lse * dlse).sum()

    inputs = [q, k, v, bias, sinks]
    for at, gradient in enumerate([*gradients, gradients.bias, gradients.sinks]):
        assert gradient.shape == inputs[at].shape and gradient.dtype == np.float64
        along, little = rng.standard_normal(inputs[at].shape), 1e-5
        both = [[*inputs[:at], inputs[at] + sign * little * along, *inputs[at + 1 :]] for sign in (1, -1)]
        difference = (value(*both[0]) - value(*both[1])) / (2 * little)
        np.testing.assert_allclose((gradient * along).sum(), difference, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("axes", [2, 3, 4])
def test_fewer_axes(rng, axes):
    q, k, v = rng.standard_normal((3, 1, 1, 30, 16), dtype=np.float32)
    expected, expected_lse = reference.attention(q, k, v, kept=reference.causal(30, 30))
    cut = (0,) * (4 - axes)
    out, lse = regard.attention(q[cut], k[cut], v[cut], "causal", return_lse=True)
    close(out, expected[cut], 5e-6)
    close(lse, expected_lse[cut], 5e-6)
    dq, _, _ = regard.attention_backward(q[cut], k[cut], v[cut], out, lse, out, "causal")
    assert dq.shape == q[cut].shape
    assert regard.scores(q[cut], k[cut], "causal").shape == (1, 1, 30, 30)[4 - axes :]


def test_lengths_offsets_and_segments(rng):
    q, k, v = rng.standard_normal((3, 3, 2, 40, 16), dtype=np.float32)
    queries, keys = [40, 7, 0], [33, 40, 12]
    out = regard.attention(q, k, v, "causal", key_lengths=keys, query_lengths=queries)
    for b, (n_q, n_k) in enumerate(zip(queries, keys, strict=True)):
        alone = (x[b : b + 1, :, :n] for x, n in ((q, n_q), (k, n_k), (v, n_k)))
        close(out[b, :, :n_q], reference.attention(*alone, kept=reference.causal(n_q, n_k))[0][0], 5e-6)
        assert not out[b, :, n_q:].any()
    out = regard.attention(q, k, v, "causal", offset=np.array([0, 5, -3]))
    for b, offset in enumerate([0, 5, -3]):
        one = slice(b, b + 1)
        close(out[one], reference.attention(q[one], k[one], v[one], kept=reference.causal(40, 40, offset))[0], 5e-6)
    packed = regard.attention(q[:1], k[:1], v[:1], "causal", segments=[10, 25])
    apart = regard.attention(q[:1], k[:1], v[:1], "causal", segments=[(0, (0, 10), (0, 10)), (0, (10, 35), (10, 35))])
    assert (packed == apart).all() and not packed[:, :, 35:].any()
    part = slice(10, 35)
    alone = reference.attention(q[:1, :, part], k[:1, :, part], v[:1, :, part], kept=reference.causal(25, 25))[0]
    close(packed[:, :, part], alone, 5e-6)


@pytest.mark.parametrize("keys", [None, [20, 13]])
@pytest.mark.parametrize("shape", [(18, 20), (2, 18, 20), (2, 1, 18, 20), (2, 4, 18, 20), (1, 4, 18, 20)])
def test_a_mask_of_booleans_has_rows_of_queries(rng, shape, keys):
    q, (k, v) = rng.standard_normal((2, 4, 18, 16)), rng.standard_normal((2, 2, 2, 20, 16))
    if len(shape) == 3:
        shape = (4, 18, 20)
    kept = rng.random(shape) < 0.4
    whole = np.broadcast_to(kept, (2, 4, 18, 20)).copy()
    for b, length in enumerate(keys or []):
        whole[b, :, :, length:] = False
    for offset in [None, -3]:
        out = regard.attention(q, k, v, kept, key_lengths=keys, offset=offset)
        close(out, reference.attention(q, k, v, kept=whole)[0], 1e-12)


def test_states_of_parts_merge_to_the_whole(rng):
    q, k, v = rng.standard_normal((3, 2, 4, 90, 32), dtype=np.float32)
    parts = [slice(0, 31), slice(31, 32), slice(32, 90)]
    state = regard.attention(q, k[:, :, :0], v[:, :, :0], return_lse=True)
    assert (state[1] == -np.inf).all()
    for part in parts:
        state = regard.merge(state, regard.attention(q, k[:, :, part], v[:, :, part], return_lse=True))
    expected, expected_lse = reference.attention(q, k, v)
    close(state[0], expected, 5e-6)
    close(state[1], expected_lse, 5e-6)


def test_scores_of_every_stage(rng):
    q, k = rng.standard_normal((2, 2, 4, 20, 16), dtype=np.float32)
    bias, sinks = rng.standard_normal((1, 1, 20, 20), dtype=np.float32), rng.standard_normal(4)
    kept = reference.causal(20, 20)
    call = {"softcap": 3.0, "bias": bias, "sinks": sinks}
    raw, capped = reference.scores(q, k), reference.scores(q, k, softcap=3.0)
    biased = reference.scores(q, k, softcap=3.0, bias=bias, kept=kept)
    total = np.exp(biased).sum(-1, keepdims=True) + np.exp(sinks)[:, None, None]
    for stage, expected in {"raw": raw, "softcap": capped, "biased": biased, "weights": np.exp(biased) / total}.items():
        close(regard.scores(q, k, "causal", stage=stage, **call), expected, 5e-6)
        some = regard.scores(q, k, "causal", stage=stage, batch=1, heads=[3, 0], rows=range(5), **call)
        close(some, expected[1:][:, [3, 0], :5], 5e-6)


def test_dropout_is_that_of_its_seed_and_its_mean_the_whole(rng):
    q, k, v = rng.standard_normal((3, 1, 2, 40, 16), dtype=np.float32)
    drop = lambda seed, **more: regard.attention(q, k, v, dropout=0.3, seed=seed, **more)  # noqa: E731
    assert (drop(1) == drop(1)).all() and not (drop(1) == drop(2)).all()
    assert not (drop(1) == drop(1, sequence_ids=[5])).all()
    many = np.stack([drop(seed) for seed in range(400)])
    error = abs(many.mean(0) - regard.attention(q, k, v)) / (many.std(0) / 20)
    assert error.mean() < 1.2 and error.max() < 6
    with pytest.raises(ValueError, match="`dropout` needs a `seed`"):
        regard.attention(q, k, v, dropout=0.3)


def test_jax_agrees(rng):
    jax = pytest.importorskip("jax")
    q, k, v = (x.swapaxes(1, 2) for x in rng.standard_normal((3, 2, 50, 4, 32), dtype=np.float32))
    for causal in (False, True):
        theirs = jax.nn.dot_product_attention(*(x.swapaxes(1, 2) for x in (q, k, v)), is_causal=causal)
        close(regard.attention(q, k, v, "causal" if causal else None), np.asarray(theirs).swapaxes(1, 2), 5e-6)


def test_plans_are_the_call(rng):
    q, k, v = rng.standard_normal((3, 2, 4, 70, 32), dtype=np.float32)
    plan = regard.plan(q.shape, k.shape, v.shape, "causal", softcap=20.0)
    assert (plan(q, k, v) == regard.attention(q, k, v, "causal", softcap=20.0)).all()
    assert plan.live_pairs == 8 * 70 * 71 // 2 and plan.flops == 4 * 32 * plan.live_pairs
    assert "causal" in str(plan) and len(plan.regimes) == 2
    with pytest.raises(ValueError, match="the plan is of float32"):
        plan(q[:, :, :5], k, v)
    with pytest.raises(TypeError, match="`scale` was decided"):
        plan(q, k, v, scale=1.0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8"])
@pytest.mark.parametrize("paged", [False, True])
def test_caches_give_what_the_whole_gives(rng, dtype, paged):
    q = rng.standard_normal((2, 8, 3, 64), dtype=np.float32)
    k, v = rng.standard_normal((2, 2, 2, 600, 64), dtype=np.float32)
    pool = regard.PagePool(2, 64, pages=8, dtype=dtype)
    lengths = [600, 313]
    caches = []
    for b, length in enumerate(lengths):
        cache = regard.PagedCache(pool) if paged else regard.Cache(2, 64, capacity=600, dtype=dtype)
        for start, end in [(0, 1), (1, 300), (300, length)]:
            cache.append(k[b, :, start:end], v[b, :, start:end])
        assert len(cache) == length and cache.dtype == dtype
        caches.append(cache)
    out, lse = regard.decode(q, caches, return_lse=True)
    tolerance = {"float32": 5e-6, "float16": 2e-3, "bfloat16": 2e-2, "int8": 3e-2}[dtype]
    for b, length in enumerate(lengths):
        one = slice(b, b + 1)
        alone = q[one], k[one, :, :length], v[one, :, :length]
        expected, expected_lse = reference.attention(*alone, kept=reference.causal(3, length))
        close(out[one], expected, tolerance)
        close(lse[one], expected_lse, tolerance)
    branch = caches[0].fork()
    branch.truncate(10)
    branch.append(k[1, :, :5], v[1, :, :5])
    assert (len(branch), len(caches[0])) == (15, 600)
    # What the branch writes is its own.
    assert (regard.decode(q, caches, return_lse=True)[0] == out).all()


def test_a_full_cache_and_a_full_pool_take_nothing(rng):
    k = rng.standard_normal((2, 300, 8), dtype=np.float32)
    cache = regard.Cache(2, 8, capacity=400)
    cache.append(k, k)
    with pytest.raises(ValueError, match="300 of 400 tokens, 300 more"):
        cache.append(k, k)
    pool = regard.PagePool(2, 8, pages=2)
    paged = regard.PagedCache(pool)
    paged.append(k, k)
    with pytest.raises(ValueError, match="2 of 2 pages in use"):
        paged.fork().append(k, k)
    assert (len(cache), len(paged), pool.used) == (300, 300, 2)
    del paged
    assert pool.used == 0


def test_threads_make_no_difference(rng):
    q, k, v = rng.standard_normal((3, 1, 4, 500, 64), dtype=np.float32)
    before = regard.num_threads()
    try:
        runs = []
        for threads in (1, 2, 3):
            regard.set_num_threads(threads)
            assert regard.num_threads() == threads
            out, lse = regard.attention(q, k, v, "causal", return_lse=True)
            runs.append([out, lse, *regard.attention_backward(q, k, v, out, lse, out, "causal")])
        for run in runs[1:]:
            assert all((a == b).all() for a, b in zip(run, runs[0], strict=True))
        with pytest.raises(ValueError, match="0 threads"):
            regard.set_num_threads(0)
    finally:
        regard.set_num_threads(before)


def test_the_machine_is_measured():
    machine = regard.machine()
    assert machine["threads"] == regard.num_threads() and machine["cores"] >= 1
    assert machine["f32_gflops"] > 1 and machine["read_gbs"] > 0.5
