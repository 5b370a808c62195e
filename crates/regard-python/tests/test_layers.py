"""Layers, against PyTorch's own and against the formulas under PyTorch's autograd in float64."""

import math
import signal
import threading

import numpy as np
import pytest
import regard
import safetensors.numpy
import torch
from regard import Mask, layers
from torch.nn import functional as F

CASES = range(6)


def array(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def randomised(layer, rng):
    """The layer, with parameters that are nowhere 0 or 1."""
    layer.parameters = {name: value + np.float32(0.3) * array(rng, *value.shape) for name, value in layer.parameters.items()}
    return layer


def as_good(name, ours, plain, expected, scale=1):
    """Our largest error is at most three times that of PyTorch in float32 (which sums in another order), or a few last places
    of the largest number, or of ``scale``."""
    ours, plain = np.asarray(ours, dtype=np.float64), plain.detach().double().numpy()
    expected = expected.detach().numpy()
    assert ours.shape == expected.shape, name
    assert np.isfinite(ours).all(), name
    error, theirs = (abs(x - expected).max(initial=0) for x in (ours, plain))
    places = 16 * np.finfo(np.float32).eps * abs(expected).max(initial=scale)
    assert error <= 3 * theirs + places, f"{name}: error {error:.2e}, PyTorch's {theirs:.2e}"


def held(layer, reference, *inputs, rng, forward=None, call=None):
    """Results and all gradients of a layer are those of ``reference(parameters, *inputs)``."""
    arrays = [x for x in inputs if x.dtype == np.float32]
    results = []
    for dtype in (torch.float32, torch.float64):
        parameters = {name: torch.tensor(value, dtype=dtype, requires_grad=True) for name, value in layer.parameters.items()}
        given = [torch.tensor(x, dtype=dtype, requires_grad=True) if x.dtype == np.float32 else torch.tensor(x) for x in inputs]
        y = reference(parameters, *given)
        results.append((parameters, [x for x in given if x.requires_grad], y))
    (plain, plain_inputs, plain_y), (exact, exact_inputs, exact_y) = results
    dy = array(rng, *exact_y.shape)
    plain_y.backward(torch.tensor(dy))
    exact_y.backward(torch.tensor(dy, dtype=torch.float64))

    evaluated = (call or layer)(*inputs)
    as_good("results", evaluated, plain_y, exact_y)
    layer.zero_gradients()
    trained = (forward or layer.forward)(*inputs)
    np.testing.assert_array_equal(trained, evaluated)
    found = layer.backward(dy)
    found = () if found is None else found if isinstance(found, tuple) else (found,)
    assert len(found) == len(arrays)
    zero = lambda x: torch.zeros_like(x) if x.grad is None else x.grad  # noqa: E731
    for at, (ours, theirs, right) in enumerate(zip(found, plain_inputs, exact_inputs, strict=True)):
        as_good(f"gradient of input {at}", ours, zero(theirs), zero(right))
    # Sums that cancel, such as a key's bias, have the errors of what they are sums of.
    scale = max(1, *(float(zero(value).abs().max()) for value in exact.values() if value.numel()))
    gradients = layer.gradients
    assert list(gradients) == list(exact)
    for name, gradient in gradients.items():
        as_good(f"gradient of {name}", gradient, zero(plain[name]), zero(exact[name]), scale)


# What PyTorch has.


def part(parameters, name):
    """The parameters of a part, without its name."""
    return {key[len(name) + 1 :]: value for key, value in parameters.items() if key.startswith(name + ".")}


def linear(p, x):
    return F.linear(x, p["weight"], p.get("bias"))


def feed_forward(activation, gated):
    act = {"silu": F.silu, "gelu": F.gelu, "gelu_tanh": lambda x: F.gelu(x, approximate="tanh")}[activation]

    def reference(p, x):
        up = linear(part(p, "up_proj"), x)
        hidden = act(linear(part(p, "gate_proj"), x)) * up if gated else act(up)
        return linear(part(p, "down_proj"), hidden)

    return reference


def norm(kind, dim, eps=1e-5):
    def reference(p, x):
        if kind == "rms":
            return F.rms_norm(x, (dim,), p["weight"], eps)
        return F.layer_norm(x, (dim,), p["weight"], p["bias"], eps)

    return reference


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_linear(rng, case, bias):
    inputs, outputs = (int(n) for n in rng.integers(1, 70, size=2))
    layer = layers.Linear(inputs, outputs, bias=bias, seed=case)
    x = array(rng, *rng.integers(1, 8, size=case % 4), inputs)
    held(layer, linear, x, rng=rng)
    theirs = torch.nn.Linear(inputs, outputs, bias=bias)
    layer.parameters = theirs.state_dict()
    np.testing.assert_allclose(layer(x), theirs(torch.tensor(x)).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("kind", ["rms", "layer"])
@pytest.mark.parametrize("case", CASES)
def test_norm(rng, case, kind):
    dim, eps = int(rng.integers(2, 200)), float(rng.choice([1e-5, 1e-3]))
    layer = randomised(layers.Norm(dim, kind=kind, eps=eps), rng)
    held(layer, norm(kind, dim, eps), array(rng, *rng.integers(1, 90, size=case % 3), dim), rng=rng)


@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh"])
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_feed_forward(rng, activation, gated, bias):
    dim, hidden = (int(n) for n in rng.integers(1, 60, size=2))
    layer = layers.FeedForward(dim, hidden, activation=activation, gated=gated, bias=bias)
    held(layer, feed_forward(activation, gated), array(rng, 2, 7, dim), rng=rng)


@pytest.mark.parametrize("case", CASES)
def test_embedding(rng, case):
    count, dim = (int(n) for n in rng.integers(1, 40, size=2))
    layer = layers.Embedding(count, dim, std=0.5, seed=case)
    tokens = rng.integers(0, count, size=tuple(rng.integers(1, 9, size=case % 4)))
    held(layer, lambda p, ids: F.embedding(ids, p["weight"]), tokens, rng=rng)
    assert isinstance(layer(torch.tensor(tokens)), torch.Tensor)


# Attention, as the formulas say it.


def rotated(x, theta):
    """Rows of heads ``[batch, heads, tokens, dim]`` turned by their positions, half-split."""
    dims = x.shape[-1] // 2 * 2
    frequency = theta ** (-torch.arange(0, dims, 2, dtype=torch.float64) / dims)
    angle = torch.arange(x.shape[2], dtype=torch.float64)[:, None] * frequency
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second, rest = x[..., : dims // 2], x[..., dims // 2 : dims], x[..., dims:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)


def attended(q, k, v, kept, *, scale=None, softcap=None, sinks=None):
    """Softmax attention; a row that sees nothing is 0."""
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    score = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    if softcap is not None:
        score = softcap * torch.tanh(score / softcap)
    score = score.masked_fill(~kept, -torch.inf)
    if sinks is not None:
        score = torch.cat([score, sinks[:, None, None].expand(*score.shape[:3], 1)], dim=-1)
    weight = torch.softmax(score, dim=-1).nan_to_num(0)[..., : k.shape[2]]
    return weight @ v


def heads_of(x, heads):
    return x.unflatten(-1, (heads, -1)).movedim(-2, 1)


def rows_of(x):
    return x.movedim(1, -2).flatten(-2)


def projected(p, x, heads, kv_heads):
    q, k, v = (linear(part(p, f"{name}_proj"), x) for name in "qkv")
    return heads_of(q, heads), heads_of(k, kv_heads), heads_of(v, kv_heads)


def everything(n):
    return torch.ones(n, n, dtype=torch.bool)


def flash(heads, kv_heads, keep=everything, rotary=None, **options):
    def reference(p, x):
        batched = x if x.dim() == 3 else x[None]
        q, k, v = projected(p, batched, heads, kv_heads)
        if rotary is not None:
            q, k = rotated(q, rotary), rotated(k, rotary)
        out = attended(q, k, v, keep(batched.shape[1]), sinks=p.get("sinks"), **options)
        return linear(part(p, "o_proj"), rows_of(out)).reshape(x.shape)

    return reference


def draw_heads(rng):
    kv_heads, group = (int(n) for n in rng.integers(1, 4, size=2))
    dim_k, dim_v = (int(n) for n in rng.choice([2, 5, 8, 16], size=2))
    return kv_heads * group, {"kv_heads": kv_heads, "dim_k": dim_k, "dim_v": dim_v}


@pytest.mark.parametrize("case", range(12))
def test_flash_attention(rng, case):
    heads, sizes = draw_heads(rng)
    dim, tokens = int(rng.integers(1, 40)), int(rng.integers(1, 80))
    masks = [
        (None, everything),
        ("causal", lambda n: everything(n).tril()),
        (Mask.causal() & Mask.window(5, None), lambda n: everything(n).tril().triu(-5)),
    ]
    mask, keep = masks[case % 3]
    options, known = {}, {}
    if case % 2:
        options["rotary"] = known["rotary"] = 100.0
    if case % 4 > 1:
        options["softcap"] = known["softcap"] = 3.0
        options["scale"] = known["scale"] = 0.7
    layer = layers.FlashAttention(
        dim, heads, **sizes, mask=mask, sinks=case % 5 == 0, bias=case % 2 == 0, out_bias=case % 3 == 0, seed=case, **options
    )
    assert ("sinks" in layer.parameters) == (case % 5 == 0)
    assert ("o_proj.bias" in layer.parameters) == (case % 3 == 0)
    x = array(rng, 2, tokens, dim) if case % 4 else array(rng, tokens, dim)
    held(randomised(layer, rng), flash(heads, sizes["kv_heads"], keep, **known), x, rng=rng)


def local_global(heads, kv_heads, window, indices, causal, joint):
    def reference(p, x):
        q, k, v = projected(p, x, heads, kv_heads)
        n = x.shape[1]
        at = torch.arange(n)
        local = (at[:, None] - at).abs() <= window
        chosen = everything(n) & torch.isin(at, torch.tensor(indices, dtype=torch.long))
        if causal:
            local, chosen = local.tril(), chosen.tril()
        if joint:
            out = attended(q, k, v, local | chosen)
        else:
            gate = torch.sigmoid(p["gate"])[:, None, :]
            near, far = attended(q, k, v, local), attended(q, k, v, chosen)
            out = torch.where(chosen.any(-1)[:, None], gate * near + (1 - gate) * far, near)
        return linear(part(p, "o_proj"), rows_of(out))

    return reference


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("case", range(3))
def test_local_global_attention(rng, case, causal, joint):
    heads, sizes = draw_heads(rng)
    dim, tokens, window = int(rng.integers(1, 40)), int(rng.integers(20, 90)), int(rng.integers(0, 9))
    indices = [int(i) for i in rng.integers(0, tokens, size=case * 3)]
    layer = layers.LocalGlobalAttention(dim, heads, **sizes, window=window, causal=causal, joint=joint, seed=case)
    layer.set_indices(np.array(indices, dtype=np.int64))
    assert layer.indices == sorted(set(indices))
    reference = local_global(heads, sizes["kv_heads"], window, indices, causal, joint)
    held(randomised(layer, rng), reference, array(rng, 2, tokens, dim), rng=rng)


def linear_attention(rule, heads, kv_heads, causal=True, rotary=None):
    def reference(p, x):
        batch, tokens, _ = x.shape
        q, k, v = projected(p, x, heads, kv_heads)
        if rotary is not None:
            q, k = rotated(q, rotary), rotated(k, rotary)
        dim = q.shape[-1]
        if "delta" in rule:
            q, k = (y / (y.square().sum(-1, keepdim=True) + dim * 1e-6).sqrt() for y in (q, k))
            beta = torch.sigmoid(heads_of(linear(part(p, "beta_proj"), x), kv_heads))
        decay = None
        if "gated" in rule:
            decay = (F.logsigmoid(heads_of(linear(part(p, "decay_proj"), x), kv_heads)) / 16).exp()
        state = x.new_zeros(batch, kv_heads, dim, v.shape[-1])
        states = []
        for t in range(tokens):
            if decay is not None:
                state = state * decay[:, :, t, :, None]
            value = v[:, :, t]
            if "delta" in rule:
                value = beta[:, :, t] * (value - torch.einsum("bhkv,bhk->bhv", state, k[:, :, t]))
            state = state + k[:, :, t, :, None] * value[:, :, None, :]
            states.append(state)
        if not causal:
            states = [state] * tokens
        states = torch.stack(states, dim=2).repeat_interleave(heads // kv_heads, dim=1)
        out = torch.einsum("bhtkv,bhtk->bhtv", states, q) / math.sqrt(dim)
        out = F.rms_norm(out, (out.shape[-1],), p["norm.weight"], 1e-5)
        return linear(part(p, "o_proj"), rows_of(out))

    return reference


@pytest.mark.parametrize("rule", ["linear", "gated", "gated_by_channel", "delta", "gated_delta"])
@pytest.mark.parametrize("case", range(3))
def test_linear_attention(rng, case, rule):
    heads, sizes = draw_heads(rng)
    dim, tokens = int(rng.integers(2, 40)), int(rng.integers(1, 90))
    layer = layers.LinearAttention(dim, heads, **sizes, rule=rule, rotary=[None, 50.0][case % 2], seed=case)
    reference = linear_attention(rule, heads, sizes["kv_heads"], rotary=[None, 50.0][case % 2])
    held(randomised(layer, rng), reference, array(rng, 2, tokens, dim), rng=rng)


def test_linear_attention_in_both_directions(rng):
    layer = layers.LinearAttention(24, 4, causal=False, rotary=100.0)
    held(randomised(layer, rng), linear_attention("linear", 4, 4, causal=False, rotary=100.0), array(rng, 2, 30, 24), rng=rng)


def state_space(heads, head_dim, groups, state, taps, eps=1e-5):
    inner, keys = heads * head_dim, groups * state

    def reference(p, x):
        batch, tokens, _ = x.shape
        z, mixture, delta = torch.split(linear(part(p, "in_proj"), x), [inner, inner + 2 * keys, heads], dim=-1)
        channels = inner + 2 * keys
        padded = F.pad(mixture.mT, (taps - 1, 0))
        mixture = F.silu(F.conv1d(padded, p["conv1d.weight"], p["conv1d.bias"], groups=channels)).mT
        values, k, q = torch.split(mixture, [inner, keys, keys], dim=-1)
        values = values.unflatten(-1, (heads, head_dim))
        k, q = (y.unflatten(-1, (groups, state)).repeat_interleave(heads // groups, dim=2) for y in (k, q))
        step = F.softplus(delta + p["dt_bias"])
        decay = torch.exp(-p["A_log"].exp() * step)
        sums, out = x.new_zeros(batch, heads, state, head_dim), []
        for t in range(tokens):
            written = k[:, t, :, :, None] * (values[:, t] * step[:, t, :, None])[:, :, None, :]
            sums = sums * decay[:, t, :, None, None] + written
            out.append(torch.einsum("bhkv,bhk->bhv", sums, q[:, t]) + p["D"][:, None] * values[:, t])
        gated = torch.stack(out, dim=1).flatten(-2) * F.silu(z)
        gated = F.rms_norm(gated.unflatten(-1, (groups, -1)), (inner // groups,), None, eps).flatten(-2)
        return linear(part(p, "out_proj"), gated * p["norm.weight"])

    return reference


@pytest.mark.parametrize("case", CASES)
def test_state_space(rng, case):
    groups, each = (int(n) for n in rng.integers(1, 3, size=2))
    head_dim, state, taps, dim = (
        int(rng.integers(1, 12)),
        int(rng.integers(1, 12)),
        int(rng.integers(1, 6)),
        int(rng.integers(2, 30)),
    )
    settings = {"head_dim": head_dim, "groups": groups, "state": state, "taps": taps}
    layer = layers.StateSpace(dim, groups * each, **settings, seed=case)
    reference = state_space(groups * each, **settings)
    held(randomised(layer, rng), reference, array(rng, 2, int(rng.integers(1, 60)), dim), rng=rng)


MIXERS = {
    "softmax": ({"mask": "causal", "rotary": 100.0, "kv_heads": 2}, flash(4, 2, lambda n: everything(n).tril(), rotary=100.0)),
    "local_global": ({"window": 3, "indices": [1, 4]}, local_global(4, 4, 3, [1, 4], False, False)),
    "state_space": ({"state": 8, "head_dim": 6}, state_space(4, 6, 1, 8, 4)),
    **{rule: ({}, linear_attention(rule, 4, 4)) for rule in ("linear", "gated", "gated_by_channel", "delta", "gated_delta")},
}


@pytest.mark.parametrize("kind", ["rms", "layer"])
@pytest.mark.parametrize("mixer", MIXERS)
def test_transformer_block(rng, mixer, kind):
    settings, mix = MIXERS[mixer]
    block = layers.TransformerBlock(
        24, 4, hidden=40, mixer=mixer, norm=kind, norm_eps=1e-4, hidden_bias=kind == "layer", **settings
    )
    first = norm(kind, 24, 1e-4)

    def reference(p, x):
        h = x + mix(part(p, "mixer"), first(part(p, "norm1"), x))
        return h + feed_forward("silu", True)(part(p, "feed_forward"), first(part(p, "norm2"), h))

    held(randomised(block, rng), reference, array(rng, 2, 20, 24), rng=rng)


def test_the_global_tokens_of_a_block_can_be_replaced(rng):
    block = layers.TransformerBlock(24, 4, mixer="local_global", window=1)
    x = array(rng, 1, 30, 24)
    before = block(x)
    block.set_indices([7])
    assert (block(x) != before).any()
    block.set_indices([])
    np.testing.assert_array_equal(block(x), before)
    with pytest.raises(ValueError, match="local_global"):
        layers.TransformerBlock(24, 4).set_indices([1])


def context(inlet):
    def reference(s):
        return lambda p, x: x + p[f"{inlet}.scale"] / x.shape[-1] * (x @ s.to(x.dtype))

    return reference


def test_shared_attention_context(rng):
    layer = randomised(layers.SharedAttentionContext(16, inlets=2), rng)
    s = np.zeros((16, 16))
    for _ in range(3):
        tokens = int(rng.integers(2, 90))
        x, y = array(rng, 2, 3, tokens, 16)
        layer.observe(x, y)
        n = min(tokens, 32)
        rows = [(2 * r + 1) * tokens // (2 * n) for r in range(n)]
        a, b = (z[:, rows].astype(np.float64) for z in (x, y))
        a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
        lengths = np.linalg.norm(a, axis=1)[:, :, None] * np.linalg.norm(b, axis=1)[:, None, :]
        s = 0.99 * s + 0.01 * np.tanh(np.einsum("bti,btj->bij", a, b) / lengths).mean(0)
    assert (layer.matrix == 0).all()
    layer.update()
    np.testing.assert_allclose(layer.matrix, s, atol=1e-6)
    matrix = array(rng, 16, 16)
    layer.matrix = matrix
    np.testing.assert_array_equal(layer.matrix, matrix)
    for inlet in (0, 1):
        both = {"call": lambda x: layer(x, inlet=inlet), "forward": lambda x: layer.forward(x, inlet=inlet)}  # noqa: B023
        held(layer, context(inlet)(torch.tensor(matrix)), array(rng, 2, 20, 16), rng=rng, **both)
    layer.forward(array(rng, 3, 16))
    layer.update()
    with pytest.raises(ValueError, match="changed since forward"):
        layer.backward(array(rng, 3, 16))


# Multi-head attention.


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_multi_head_attention_is_torchs(rng, case, bias):
    heads = int(rng.integers(1, 5))
    dim = heads * int(rng.integers(1, 17))
    theirs = torch.nn.MultiheadAttention(dim, heads, bias=bias, batch_first=True)
    layer = layers.MultiHeadAttention(dim, heads, bias=bias)
    state = {
        "w_qkv": theirs.in_proj_weight.detach().reshape(3, heads, -1, dim),
        "w_out": theirs.out_proj.weight.detach().T.reshape(heads, -1, dim),
    }
    if bias:
        torch.nn.init.normal_(theirs.in_proj_bias)
        torch.nn.init.normal_(theirs.out_proj.bias)
        state |= dict(zip(("b_q", "b_k", "b_v"), theirs.in_proj_bias.detach().reshape(3, heads, -1), strict=True))
        state["b_out"] = theirs.out_proj.bias.detach()
    layer.parameters = state
    x, kv, dy = torch.randn(2, 7, dim, requires_grad=True), torch.randn(2, 11, dim, requires_grad=True), torch.randn(2, 7, dim)
    for memory in (None, kv):
        theirs.zero_grad()
        x.grad = kv.grad = None
        layer.zero_gradients()
        other = x if memory is None else memory
        expected = theirs(x, other, other, need_weights=False)[0]
        expected.backward(dy)
        given = {} if memory is None else {"kv": memory.detach()}
        out = layer.forward(x.detach(), **given)
        assert isinstance(out, torch.Tensor)
        torch.testing.assert_close(out, expected.detach(), atol=1e-5, rtol=1e-4)
        found = layer.backward(dy)
        for ours, right in zip(found if memory is not None else [found], [x.grad, kv.grad], strict=False):
            torch.testing.assert_close(ours, right, atol=1e-5, rtol=1e-4)
        gradients = layer.gradients
        np.testing.assert_allclose(gradients["w_qkv"].reshape(-1, dim), theirs.in_proj_weight.grad, atol=1e-4)
        np.testing.assert_allclose(gradients["w_out"].reshape(dim, dim).T, theirs.out_proj.weight.grad, atol=1e-4)
        if bias:
            both = np.concatenate([gradients[name].reshape(-1) for name in ("b_q", "b_k", "b_v")])
            np.testing.assert_allclose(both, theirs.in_proj_bias.grad, atol=1e-4)
            np.testing.assert_allclose(gradients["b_out"], theirs.out_proj.bias.grad, atol=1e-4)


def multi_head(*, form, first=False, add_input=False, keep=None, scale=None):
    def reference(p, x, *others):
        if "w_qkv" in p:
            q, k, v = p["w_qkv"]
        elif "w_kv" in p:
            q, (k, v) = p["w_q"][0], p["w_kv"]
        else:
            q, k, v = p["w_q"][0], p["w_k"], p["w_v"]

        def project(rows, weight, bias):
            heads = torch.einsum("btd,hed->bhte", rows, weight)
            return heads if bias is None else heads + bias[:, None, :]

        q = project(x, q, p.get("b_q"))
        some = slice(0, 1) if first else slice(None)
        if form == "given":
            keys, values = (y.movedim(2, 1) for y in others)
        else:
            rows = others[0] if form == "kv" else x
            keys = project(rows, k[some], None if "b_k" not in p else p["b_k"][some])
            values = project(rows, v[some], None if "b_v" not in p else p["b_v"][some])
        kept = torch.ones(q.shape[2], keys.shape[2], dtype=torch.bool)
        out = attended(q, keys, values, kept if keep is None else keep(q.shape[2], keys.shape[2]), scale=scale)
        out = torch.einsum("bhtv,hvo->bto", out, p["w_out"])
        return out + p.get("b_out", 0) + (x if add_input else 0)

    return reference


@pytest.mark.parametrize("case", range(24))
@pytest.mark.parametrize("form", ["own", "kv", "given"])
def test_multi_head_attention_in_all_forms(rng, case, form):
    shared, kv_heads = (int(n) for n in rng.integers(1, 4, size=2))
    heads, dim, batch = shared * kv_heads, int(rng.integers(1, 30)), int(rng.integers(1, 5))
    dim_k = int(rng.integers(1, 17))
    dim_v = dim_k if case % 2 else int(rng.integers(1, 17))
    first, add_input = case % 3 == 0, case % 4 == 0
    queries, keys = (int(n) for n in rng.integers(1, 40, size=2))
    mask, keep = None, None
    if case % 5 == 0:
        mask, keep = "causal", lambda n, m: torch.ones(n, m, dtype=torch.bool).tril(m - n)
    layer = layers.MultiHeadAttention(
        dim,
        heads,
        dim_out=dim if add_input else int(rng.integers(1, 30)),
        share_kv_across_n_heads=shared,
        dim_k=dim_k,
        dim_v=dim_v,
        mask=mask,
        scale=0.6 if case % 7 == 0 else None,
        bias=case % 2 == 0,
        seed=case,
    )
    reference = multi_head(form=form, first=first, add_input=add_input, keep=keep, scale=0.6 if case % 7 == 0 else None)
    options = {"reuse_first_head_kv": first, "add_input": add_input}
    own = 1 if first else kv_heads
    inputs = [array(rng, batch, queries, dim)]
    inputs += {
        "own": [],
        "kv": [array(rng, batch, keys, dim)],
        "given": [array(rng, batch, keys, own, dim_k), array(rng, batch, keys, own, dim_v)],
    }[form]

    def named(function, **more):
        names = {"own": (), "kv": ("kv",), "given": ("keys", "values")}[form]
        return lambda x, *others: function(x, **dict(zip(names, others, strict=True)), **options, **more)

    both = {"call": named(layer), "forward": named(layer.forward)}
    held(randomised(layer, rng), reference, *inputs, rng=rng, **both)
    chunked = named(layer, batch_chunk=int(rng.integers(1, batch + 1)))(*inputs)
    np.testing.assert_array_equal(chunked, both["call"](*inputs))


@pytest.mark.parametrize("first_head", [False, True])
@pytest.mark.parametrize("share", [1, 2])
def test_a_cache_is_what_was_written_to_it(rng, first_head, share):
    layer = layers.MultiHeadAttention(24, 4, share_kv_across_n_heads=share, dim_v=5, bias=True, seed=3)
    x, memory = array(rng, 2, 6, 24), array(rng, 2, 9, 24)
    cache = layer.cache(2, capacity=9, first_head=first_head)
    for piece in np.split(memory, [4], axis=1):
        layer.write(piece, cache)
    assert len(cache) == 9
    expected = layer(x, kv=memory, reuse_first_head_kv=first_head, add_input=True)
    np.testing.assert_allclose(layer(x, cache=cache, add_input=True), expected, atol=1e-5)
    with pytest.raises(ValueError, match="9 more do not fit"):
        layer.write(memory, cache)
    with pytest.raises(ValueError, match="leave out"):
        layer(x, cache=cache, kv=memory)
    with pytest.raises(ValueError, match="batch"):
        layer(x[:1], cache=cache)
    with pytest.raises(ValueError, match="cache"):
        layer.stream(x, cache)
    cache.clear()
    with pytest.raises(ValueError, match="written"):
        layer(x, cache=cache)


@pytest.mark.parametrize(
    "layer",
    [
        layers.FlashAttention(24, 4, kv_heads=2, mask="causal", rotary=100.0, sinks=True, seed=1),
        layers.LinearAttention(24, 4, rule="linear", rotary=100.0, seed=1),
        layers.LinearAttention(24, 4, rule="gated_by_channel", seed=1),
        layers.LinearAttention(24, 4, rule="gated_delta", seed=1),
        layers.StateSpace(24, 4, state=8, seed=1),
        layers.TransformerBlock(24, 4, mask="causal", rotary=100.0, seed=1),
        layers.TransformerBlock(24, 4, mixer="state_space", seed=1),
        layers.MultiHeadAttention(24, 4, mask="causal", seed=1),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_stream_in_pieces_is_one_pass(rng, layer):
    state = layer.state(2, capacity=40) if isinstance(layer, layers.Streaming) else layer.cache(2, capacity=40)
    x = array(rng, 2, 40, 24)
    for _ in range(2):
        pieces = [layer.stream(piece, state) for piece in np.split(x, [11, 12, 12, 30], axis=1)]
        np.testing.assert_allclose(np.concatenate(pieces, axis=1), layer(x), atol=2e-5)
        assert len(state) == 40
        state.clear()
        assert len(state) == 0
    with pytest.raises(ValueError, match="batch"):
        layer.stream(x[:1], state)


def test_what_cannot_stream_says_so():
    with pytest.raises(ValueError, match="one after the other"):
        layers.LinearAttention(24, 4, causal=False).state()
    with pytest.raises(ValueError, match="one after the other"):
        layers.TransformerBlock(24, 4, mixer="local_global").state()


# What all layers do.


def every_layer():
    yield layers.Linear(24, 24, seed=1)
    yield layers.Norm(24)
    yield layers.FeedForward(24, 30, seed=1)
    yield layers.FlashAttention(24, 4, seed=1)
    yield layers.MultiHeadAttention(24, 4, seed=1)
    yield layers.LocalGlobalAttention(24, 4, seed=1)
    yield layers.LinearAttention(24, 4, rule="gated_delta", seed=1)
    yield layers.StateSpace(24, 4, state=8, seed=1)
    yield layers.SharedAttentionContext(24)
    yield layers.TransformerBlock(24, 4, mixer="gated", seed=1)


ALL = [pytest.param(layer, id=type(layer).__name__) for layer in every_layer()]


@pytest.mark.parametrize("layer", ALL)
def test_results_are_of_the_kind_of_the_input(rng, layer):
    x = array(rng, 2, 9, 24)
    y = layer(x)
    assert isinstance(y, np.ndarray) and y.dtype == np.float32 and y.flags.writeable
    tensor = layer.forward(torch.tensor(x))
    assert isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float32
    np.testing.assert_array_equal(tensor.numpy(), y)
    assert isinstance(layer.backward(tensor), torch.Tensor)
    jax = pytest.importorskip("jax")
    ours = layer(jax.numpy.asarray(x))
    assert isinstance(ours, jax.Array)
    np.testing.assert_array_equal(np.asarray(ours), y)


@pytest.mark.parametrize("layer", ALL)
def test_rows_need_not_lie_without_gaps(rng, layer):
    x = array(rng, 2, 9, 24)
    apart = np.zeros((9, 48, 2), dtype=np.float32)[:, ::-2, :].T
    apart[...] = x.swapaxes(1, 2)[:, :, :].swapaxes(1, 2).transpose(0, 2, 1)
    strided = apart.transpose(0, 2, 1)
    assert not strided.flags.c_contiguous
    np.testing.assert_array_equal(layer(strided), layer(x))
    np.testing.assert_array_equal(layer.forward(strided), layer(x))
    np.testing.assert_array_equal(layer.backward(strided), (layer.forward(x), layer.backward(x))[1])


@pytest.mark.parametrize("layer", ALL)
def test_nothing_gives_nothing(layer):
    for shape in ((0, 5, 24), (2, 0, 24), (0, 24)):
        nothing = np.zeros(shape, dtype=np.float32)
        assert layer(nothing).shape == shape
        assert layer.forward(nothing).shape == shape
        assert layer.backward(nothing).shape == shape


@pytest.mark.parametrize("layer", ALL)
def test_a_single_sequence_is_a_batch_of_one(rng, layer):
    x = array(rng, 9, 24)
    np.testing.assert_array_equal(layer(x), layer(x[None])[0])


@pytest.mark.parametrize("layer", ALL)
def test_any_number_of_threads_gives_the_same_bits(rng, layer):
    x, dy = array(rng, 3, 70, 24), array(rng, 3, 70, 24)

    def all_of_it():
        layer.zero_gradients()
        return [layer(x), layer.forward(x), layer.backward(dy), *layer.gradients.values()]

    threads = regard.num_threads()
    expected = all_of_it()
    try:
        for count in (1, 3):
            regard.set_num_threads(count)
            for ours, right in zip(all_of_it(), expected, strict=True):
                np.testing.assert_array_equal(ours, right)
    finally:
        regard.set_num_threads(threads)


@pytest.mark.parametrize("layer", ALL)
def test_gradients_add_up_and_are_cleared(rng, layer):
    x, dy = array(rng, 2, 9, 24), array(rng, 2, 9, 24)
    layer.zero_gradients()
    assert all((gradient == 0).all() for gradient in layer.gradients.values())
    layer.forward(x)
    layer.backward(dy)
    once = layer.gradients
    layer.forward(x)
    layer.backward(dy)
    for name, twice in layer.gradients.items():
        np.testing.assert_allclose(twice, 2 * once[name], rtol=1e-5, atol=1e-5 * abs(once[name]).max(initial=0))


@pytest.mark.parametrize("layer", ALL)
def test_a_file_is_what_safetensors_reads(rng, layer, tmp_path):
    layer = randomised(layer, rng)
    x = array(rng, 2, 9, 24)
    before, parameters = layer(x), layer.parameters
    layer.save(tmp_path / "layer.safetensors")
    stored = safetensors.numpy.load_file(tmp_path / "layer.safetensors")
    assert stored.keys() == parameters.keys()
    for name, value in parameters.items():
        np.testing.assert_array_equal(stored[name], value)
    layer.reset()
    assert (layer(x) != before).any() or isinstance(layer, layers.SharedAttentionContext)
    layer.load(str(tmp_path / "layer.safetensors"))
    np.testing.assert_array_equal(layer(x), before)
    # And what safetensors writes.
    doubled = {name: 2 * value for name, value in parameters.items()}
    safetensors.numpy.save_file(doubled | {"other": np.zeros(3)[:0].astype(np.float32)}, tmp_path / "doubled.safetensors")
    layer.load(tmp_path / "doubled.safetensors")
    for name, value in layer.parameters.items():
        np.testing.assert_array_equal(value, doubled[name])
    layer.load_state_dict(parameters)


def test_files_that_do_not_fit(tmp_path):
    layer = layers.Linear(8, 3)
    before = layer.parameters
    with pytest.raises(FileNotFoundError, match="nowhere"):
        layer.load(tmp_path / "nowhere.safetensors")
    (tmp_path / "noise").write_bytes(b"noise" * 100)
    with pytest.raises(ValueError, match="noise"):
        layer.load(tmp_path / "noise")
    layers.Linear(8, 4).save(tmp_path / "other")
    with pytest.raises(ValueError, match=r"weight.*\[4, 8\].*\[3, 8\]"):
        layer.load(tmp_path / "other")
    layers.Linear(8, 3, bias=False).save(tmp_path / "other")
    with pytest.raises(ValueError, match="lacks `bias`"):
        layer.load(tmp_path / "other")
    with pytest.raises(OSError, match="missing"):
        layer.save(tmp_path / "missing" / "file")
    assert all((value == before[name]).all() for name, value in layer.parameters.items())


def test_parameters_are_drawn_by_the_seed():
    one, same, other = (layers.FeedForward(8, 9, seed=seed).parameters for seed in (1, 1, 2))
    assert all((value == same[name]).all() and (value != other[name]).any() for name, value in one.items())


def test_parameters_are_checked():
    layer = layers.Linear(8, 3)
    good = layer.parameters
    for wrong, error, problem in [
        ({"weight": good["weight"]}, ValueError, "no `bias`"),
        (good | {"bais": good["bias"]}, ValueError, "no parameter `bais`; there are weight, bias"),
        (good | {"weight": good["weight"].T}, ValueError, r"`weight` has shape \[8, 3\]; expected \[3, 8\]"),
        (good | {"bias": good["bias"].astype(np.float64)}, TypeError, "bias: .*float64.*float32"),
        (good | {"bias": "zero"}, TypeError, "bias: .*expected an array"),
        ({1: good["bias"]}, TypeError, "names"),
        (7, TypeError, "mapping"),
    ]:
        with pytest.raises(error, match=problem):
            layer.parameters = wrong
    assert all((value == good[name]).all() for name, value in layer.parameters.items())
    layer.load_state_dict({"bias": good["bias"] + 1, "other": 3}, strict=False)
    np.testing.assert_array_equal(layer.parameters["bias"], good["bias"] + 1)
    np.testing.assert_array_equal(layer.parameters["weight"], good["weight"])
    with pytest.raises(AttributeError):
        layer.gradients = good


def test_backward_needs_a_forward_of_the_same_layer(rng):
    layer = layers.Linear(8, 3)
    x, dy = array(rng, 5, 8), array(rng, 5, 3)
    with pytest.raises(ValueError, match="call forward"):
        layer.backward(dy)
    layer(x)
    with pytest.raises(ValueError, match="call forward"):
        layer.backward(dy)
    layer.forward(x)
    with pytest.raises(ValueError, match=r"`dy` has shape \[5, 8\]; expected \[5, 3\]"):
        layer.backward(x)
    layer.backward(dy)
    with pytest.raises(ValueError, match="call forward"):
        layer.backward(dy)
    for change in (layer.reset, lambda: layer.load_state_dict(layer.parameters), layers.AdamW(layer).step):
        layer.forward(x)
        change()
        with pytest.raises(ValueError, match="changed since forward"):
            layer.backward(dy)
    # What is kept is a copy.
    expected = (layer.forward(x), layer.backward(dy))[1], layer.gradients
    layer.zero_gradients()
    mine = x.copy()
    layer.forward(mine)
    mine[...] = np.nan
    np.testing.assert_array_equal(layer.backward(dy), expected[0])
    assert np.isfinite(layer.gradients["weight"]).all()


X = np.zeros((2, 9, 24), dtype=np.float32)
WRONG_INPUTS = [
    (X[..., :23], ValueError, r"`x` has shape \[2, 9, 23\]; expected \[batch, tokens, 24\] or \[tokens, 24\]"),
    (X[0, 0], ValueError, r"`x` has shape \[24\]; expected \[batch, tokens, 24\]"),
    (X[None], ValueError, r"`x` has shape \[1, 2, 9, 24\]; expected"),
    (X.astype(np.float64), TypeError, "`x` has dtype float64; layers compute in float32"),
    (X.astype(np.float16), TypeError, "`x` has dtype float16"),
    (X.astype(np.int64), TypeError, "`x` has dtype int64"),
    (X.tolist(), TypeError, "`x` is a list; expected an array"),
    (None, TypeError, "`x` is a NoneType"),
    (torch.tensor(X, requires_grad=True), ValueError, "`x` requires a gradient"),
    (torch.tensor(X).bfloat16(), TypeError, "bfloat16"),
    (np.zeros((1, 1, 1, 1, 24), dtype=np.float32), ValueError, "5 axes"),
]


@pytest.mark.parametrize("at", range(len(WRONG_INPUTS)))
@pytest.mark.parametrize(
    "layer",
    [
        layers.FlashAttention(24, 4),
        layers.MultiHeadAttention(24, 4),
        layers.TransformerBlock(24, 4, mixer="state_space"),
        layers.SharedAttentionContext(24),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_wrong_inputs(layer, at):
    x, error, problem = WRONG_INPUTS[at]
    for call in (layer, layer.forward):
        with pytest.raises(error, match=problem):
            call(x)


@pytest.mark.parametrize(
    ("make", "error", "problem"),
    [
        (lambda: layers.Linear(0, 3), ValueError, "`inputs` is 0; expected from 1"),
        (lambda: layers.Linear(8, -3), ValueError, "`outputs` is -3"),
        (lambda: layers.Linear(8, 2**60), ValueError, "`outputs` is 1152921504606846976; expected from 1 to"),
        (lambda: layers.Linear(8, 3.0), TypeError, "`outputs` is a float; expected a whole number"),
        (lambda: layers.Linear("8", 3), TypeError, "`inputs` is a str"),
        (lambda: layers.Linear(8), TypeError, "outputs"),
        (lambda: layers.Linear(8, 3, bais=True), TypeError, r"Linear\(\) got an unexpected keyword argument 'bais'"),
        (lambda: layers.Linear(8, 3, bias=1), TypeError, "`bias` is an int; expected True or False"),
        (lambda: layers.Linear(8, 3, seed=-1), ValueError, "`seed` is -1"),
        (lambda: layers.Norm(8, kind="batch"), ValueError, "`kind` is 'batch'; expected one of 'rms', 'layer'"),
        (lambda: layers.Norm(8, kind=3), TypeError, "`kind` is an int"),
        (lambda: layers.Norm(8, eps=-1), ValueError, "eps is -1"),
        (lambda: layers.Norm(8, eps=math.nan), ValueError, "`eps` is NaN; expected a finite number"),
        (lambda: layers.FeedForward(8, 9, activation="relu"), ValueError, "'silu', 'gelu', 'gelu_tanh'"),
        (lambda: layers.FlashAttention(10, 4), ValueError, "4 heads do not divide `dim`, 10: give `dim_k`"),
        (lambda: layers.FlashAttention(8, 4, kv_heads=3), ValueError, "kv_heads is 3, it must be a divisor of the 4 heads"),
        (lambda: layers.FlashAttention(8, 4, mask="causl"), ValueError, "causl"),
        (lambda: layers.FlashAttention(8, 4, mask=np.ones((3, 3))), TypeError, "`mask` is a ndarray; expected a regard.Mask"),
        (lambda: layers.FlashAttention(8, 4, dropout=1), ValueError, "dropout is 1"),
        (lambda: layers.FlashAttention(8, 4, rotary=0), ValueError, "`rotary` is 0; expected the base"),
        (lambda: layers.FlashAttention(8, 4, rotary=1e300), ValueError, "`rotary` is 1.*float32 holds"),
        (lambda: layers.LinearAttention(8, 4, rule="gates"), ValueError, "'gated_by_channel'"),
        (lambda: layers.LinearAttention(8, 4, rule="delta", causal=False), ValueError, "causal|direction"),
        (lambda: layers.LocalGlobalAttention(8, 4, indices=[-1]), ValueError, "`indices` is -1"),
        (lambda: layers.LocalGlobalAttention(8, 4, window=-1), ValueError, "`window` is -1"),
        (lambda: layers.StateSpace(8, 4, groups=3), ValueError, "groups is 3, it must be a divisor of the 4 heads"),
        (lambda: layers.StateSpace(8, 3), ValueError, "`head_dim`"),
        (lambda: layers.MultiHeadAttention(8, 4, share_kv_across_n_heads=3), ValueError, "share_kv_across_n_heads is 3"),
        (lambda: layers.TransformerBlock(8, 4, mixer="conv"), ValueError, "'softmax', 'state_space', 'local_global'"),
        (lambda: layers.TransformerBlock(8, 4, mixer="gated", mask="causal"), TypeError, "unexpected keyword argument 'mask'"),
        (lambda: layers.LanguageModel(0, 8), ValueError, "`vocabulary` is 0"),
        (lambda: layers.LanguageModel(9, 8, layers=2000), ValueError, "layers is 2000, it must be at most 1000"),
        (lambda: layers.LanguageModel(9, 8, objective="denoising", mixer="gated"), ValueError, "causal|direction"),
        (lambda: layers.Trainer(9, 8, batch=2**20, tokens=2**20), ValueError, "accumulation"),
        (lambda: layers.Trainer(9, 8, batch=0), ValueError, "`batch` is 0"),
        (lambda: layers.Trainer(9, 8, clip=-1), ValueError, "clip is -1"),
        (lambda: layers.AdamW(), TypeError, "at least one"),
        (lambda: layers.AdamW(7), TypeError, "`modules` is an int"),
        (lambda: layers.AdamW(*[layers.Norm(3)] * 2), ValueError, "twice"),
        (lambda: layers.AdamW(layers.Norm(3), rate=-1), ValueError, "`rate` is -1"),
        (lambda: layers.AdamW(layers.Norm(3), betas=(1, 0.9)), ValueError, "β₁ is 1"),
        (lambda: layers.AdamW(layers.Norm(3), betas=0.9), TypeError, "`betas` is a float"),
        (lambda: layers.Layer(), TypeError, "constructor|instances"),
    ],
)
def test_wrong_settings(make, error, problem):
    with pytest.raises(error, match=problem):
        make()


def test_wrong_calls(rng):
    tokens = layers.Embedding(50, 8)
    for x, error, problem in [
        ([[3, 50]], ValueError, "the token 50; expected below 50"),
        ([[-1]], ValueError, "`x` has -1"),
        ([[0.5]], TypeError, "whole numbers"),
        ("text", TypeError, "whole numbers"),
        (np.zeros((1, 1, 1, 1), dtype=int), ValueError, "three axes"),
    ]:
        with pytest.raises(error, match=problem):
            tokens(x)
    assert tokens([]).shape == (0, 8)
    layer = layers.LocalGlobalAttention(24, 4, indices=[5])
    with pytest.raises(ValueError, match="global index is 5, it must be below 5"):
        layer(X[:, :5])
    with pytest.raises(ValueError, match="`indices` is -2"):
        layer.set_indices([-2])
    layer = layers.MultiHeadAttention(24, 4, dim_out=7)
    for options, error, problem in [
        ({"kv": X[:1]}, ValueError, r"`kv` has shape \[1, 9, 24\]; expected a batch of 2"),
        ({"kv": X[..., :3]}, ValueError, r"`kv` has shape \[2, 9, 3\]"),
        ({"kv": X[0]}, ValueError, r"`kv` has shape \[9, 24\]"),
        ({"keys": X}, ValueError, "give one of these"),
        ({"kv": X, "keys": X, "values": X}, ValueError, "give one of these"),
        ({"keys": X, "values": X}, ValueError, r"`keys` has shape \[2, 9, 24\]; expected \[2, 9, 4, 6\]"),
        ({"add_input": True}, ValueError, "add_input"),
    ]:
        for call in (layer, layer.forward):
            with pytest.raises(error, match=problem):
                call(X, **options)
    # Without keys nothing is seen; without queries nobody sees.
    assert (layer(X, kv=X[:, :0]) == 0).all()
    assert layer.forward(X[:, :0], kv=X).shape == (2, 0, 7)
    assert [d.shape for d in layer.backward(np.zeros((2, 0, 7), dtype=np.float32))] == [(2, 0, 24), (2, 9, 24)]
    with pytest.raises(ValueError, match="`batch_chunk` is 0"):
        layer(X, batch_chunk=0)
    with pytest.raises(ValueError, match="batch_chunk"):
        cache = layer.cache(2)
        layer.write(X, cache)
        layer(X, cache=cache, batch_chunk=1)
    with pytest.raises(TypeError):
        layer.forward(X, cache=cache)
    with pytest.raises(ValueError, match="`capacity` is 0"):
        layer.cache(2, capacity=0)
    with pytest.raises(ValueError, match="`inlet` is 3; expected below 1"):
        layers.SharedAttentionContext(24)(X, inlet=3)
    with pytest.raises(ValueError, match=r"`y` has shape \[9, 24\]; expected \[2, 9, 24\]"):
        layers.SharedAttentionContext(24).observe(X, X[0])
    flash = layers.FlashAttention(24, 4)
    with pytest.raises(ValueError, match="another mixer"):
        flash.stream(X[0], layers.StateSpace(24, 4).state())
    with pytest.raises(TypeError, match="State"):
        flash.stream(X[0], None)


@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.FlashAttention(16, 4, dropout=0.4, mask="causal", seed=5),
        lambda: layers.MultiHeadAttention(16, 4, dropout=0.4, seed=5),
        lambda: layers.TransformerBlock(16, 4, dropout=0.4, seed=5),
    ],
)
def test_dropout_falls_in_training_alone_and_its_gradients_are_of_what_was_left(rng, make):
    layer, (x, dy, d) = make(), array(rng, 3, 3, 12, 16)
    np.testing.assert_array_equal(layer(x), layer(x))
    first, second = layer.forward(x), layer.forward(x)
    assert (first != layer(x)).any() and (first != second).any()
    # Another layer of this seed drops the same weights.
    np.testing.assert_array_equal(make().forward(x), first)
    # A sequence drops the same by itself.
    np.testing.assert_array_equal(make().forward(x[:1]), first[:1])
    layer = make()
    layer.forward(x)
    slope = float((layer.backward(dy).astype(np.float64) * d).sum())
    step = np.float32(1e-2)
    up, down = (float((make().forward(x + sign * step * d).astype(np.float64) * dy).sum()) for sign in (1, -1))
    assert abs((up - down) / (2 * step) - slope) < 1e-2 * max(1, abs(slope))


@pytest.mark.parametrize(
    "call",
    [
        lambda: layers.Linear(2**20, 2**20),
        lambda: layers.Linear(24, 3)(np.broadcast_to(X[0, 0], (2**40, 24))),
        lambda: layers.Linear(1, 2**20)(np.zeros((2**20, 1), dtype=np.float32)),
        lambda: layers.Linear(1, 2**20).forward(np.zeros((2**20, 1), dtype=np.float32)),
        lambda: layers.MultiHeadAttention(1, 1, dim_out=2**20)(np.zeros((1, 2**20, 1), dtype=np.float32)),
        lambda: layers.Embedding(3, 2**20)(np.zeros(2**20, dtype=int)),
        lambda: layers.LanguageModel(2**31, 2**20),
        lambda: layers.FlashAttention(24, 4).state(2**20, capacity=2**31),
        lambda: layers.SharedAttentionContext(2**20),
    ],
)
def test_what_no_memory_holds_is_refused(call):
    with pytest.raises(MemoryError):
        call()


def test_threads_share_a_layer(rng):
    layer = layers.TransformerBlock(24, 4, mask="causal")
    xs = [array(rng, 1, n, 24) for n in range(1, 40)]
    expected = [layer(x) for x in xs]
    wrong = []

    def work():
        wrong.extend(at for at, x in enumerate(xs) if not np.array_equal(layer(x), expected[at]))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_an_interrupted_backward_pass_leaves_no_gradients(rng):
    layer = layers.FlashAttention(64, 4)
    x = array(rng, 1, 16384, 64)
    small = layer(x[:, :50])

    def interrupt(*_):
        raise KeyboardInterrupt

    def interrupted(call):
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(KeyboardInterrupt):
            call()

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        interrupted(lambda: layer(x))
        layer.forward(x[:, :16000])
        interrupted(lambda: layer.backward(x[:, :16000]))
        state = layer.state(capacity=20000)
        layer.stream(x[:, :5], state)
        interrupted(lambda: layer.stream(x, state))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert all((gradient == 0).all() for gradient in layer.gradients.values())
    np.testing.assert_array_equal(layer(x[:, :50]), small)
    with pytest.raises(ValueError, match="half written"):
        layer.stream(x[:, :5], state)
    state.clear()
    layer.stream(x[:, :5], state)


# Models, and what trains them.


def llama(p, tokens, *, heads, kv_heads, layers, tied):
    x = F.embedding(tokens, p["model.embed_tokens.weight"])
    mix = flash(heads, kv_heads, lambda n: everything(n).tril(), rotary=10_000.0)
    dim = x.shape[-1]
    for at in range(layers):
        block = part(p, f"model.layers.{at}")
        x = x + mix(part(block, "self_attn"), norm("rms", dim)(part(block, "input_layernorm"), x))
        x = x + feed_forward("silu", True)(part(block, "mlp"), norm("rms", dim)(part(block, "post_attention_layernorm"), x))
    x = norm("rms", dim)(part(p, "model.norm"), x)
    return F.linear(x, p["model.embed_tokens.weight" if tied else "lm_head.weight"])


@pytest.mark.parametrize("tied", [True, False])
def test_a_language_model_is_a_llama(rng, tied):
    model = layers.LanguageModel(31, 24, layers=2, heads=4, kv_heads=2, hidden=40, tied=tied, seed=3)
    tokens = rng.integers(0, 31, size=(3, 17))
    results = []
    for dtype in (torch.float32, torch.float64):
        p = {name: torch.tensor(value, dtype=dtype, requires_grad=True) for name, value in model.parameters.items()}
        logits = llama(p, torch.tensor(tokens), heads=4, kv_heads=2, layers=2, tied=tied)
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), torch.tensor(tokens[:, 1:]).flatten())
        loss.backward()
        results.append((p, logits, loss.item()))
    (plain, plain_logits, _), (exact, exact_logits, exact_loss) = results
    as_good("logits", model(tokens), plain_logits, exact_logits)
    assert abs(model.loss(tokens) - exact_loss) < 1e-6
    for recompute in (False, True):
        model.zero_gradients()
        assert abs(model.learn(tokens, recompute=recompute) - exact_loss) < 1e-6
        for name, gradient in model.gradients.items():
            as_good(name, gradient, plain[name].grad, exact[name].grad)
    # Targets and weights of one's own.
    weights = rng.random((3, 17)).astype(np.float32)
    targets = rng.integers(0, 31, size=(3, 17))
    each = F.cross_entropy(exact_logits.flatten(0, 1), torch.tensor(targets).flatten(), reduction="none")
    expected = float((each.detach() * torch.tensor(weights).flatten()).sum())
    assert abs(model.loss(tokens, targets, weights=weights) - expected) < 1e-4
    assert model(tokens[0]).shape == (17, 31)


@pytest.mark.parametrize("mixer", ["softmax", "linear", "gated", "gated_by_channel", "delta", "gated_delta", "state_space"])
def test_a_language_model_learns_and_goes_on(rng, mixer, tmp_path):
    make = lambda: layers.LanguageModel(12, 16, layers=2, heads=2, mixer=mixer, shared_context=True, seed=3)  # noqa: E731
    model = make()
    text = (np.arange(400) % 12).reshape(8, 50)
    optimiser = layers.AdamW(model, rate=0.02)
    losses = []
    for _ in range(30):
        model.zero_gradients()
        losses.append(model.learn(text))
        optimiser.step()
        model.update_context()
    assert losses[0] > 2 and losses[-1] < 0.5
    tokens = rng.integers(0, 12, size=(2, 20))
    logits = model(tokens)
    state = model.state(2, capacity=20)
    for piece, last in zip(np.split(tokens, [7, 8], axis=1), (6, 7, 19), strict=True):
        np.testing.assert_allclose(model.stream(piece, state), logits[:, last], atol=1e-4)
    assert len(state) == 20
    # Greedy: each the most likely of the text so far.
    written = model.generate([1, 2], max_tokens=5, temperature=0)
    text = [1, 2]
    for token in written:
        assert token == int(model(np.array(text))[-1].argmax())
        text.append(token)
    assert (
        model.generate([1, 2], seed=4)
        == model.generate([1, 2], seed=4)
        != model.generate([1, 2], seed=5, temperature=99, top_k=0, top_p=1, min_p=0)
    )
    model.save(tmp_path / "model.safetensors")
    stored = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    assert (stored["shared_context.matrix"] != 0).any()
    other = make()
    other.load(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(other(tokens), logits)


def test_a_language_model_denoises(rng):
    model = layers.LanguageModel(12, 16, layers=1, objective="denoising", seed=3)
    text = (np.arange(400) % 11).reshape(8, 50)
    masked = rng.random(text.shape) < 0.3
    shown = np.where(masked, 11, text)
    weights = (masked / masked.sum()).astype(np.float32)
    optimiser = layers.AdamW(model, rate=0.02)
    losses = []
    for _ in range(40):
        model.zero_gradients()
        losses.append(model.learn(shown, text, weights=weights))
        optimiser.step()
    assert losses[-1] < 0.7 * losses[0]
    with pytest.raises(ValueError, match="targets"):
        model.learn(shown)
    with pytest.raises(ValueError, match="denoising"):
        model.generate([1])


def test_wrong_calls_of_a_language_model(rng):
    model = layers.LanguageModel(12, 16, layers=1)
    assert model(np.zeros((0, 5), dtype=int)).shape == (0, 5, 12)
    for call, error, problem in [
        (lambda: model([[12]]), ValueError, "token 12 is not in the vocabulary of 12"),
        (lambda: model([[0.5]]), TypeError, "whole numbers"),
        (lambda: model(3), ValueError, r"`tokens` has shape \[\]"),
        (lambda: model.loss([3]), ValueError, "at least two"),
        (lambda: model.learn(np.zeros((0, 5), dtype=int)), ValueError, "at least one token"),
        (lambda: model.loss([3, 4], [3]), ValueError, r"`targets` has shape \[1\]; expected \[2\]"),
        (
            lambda: model.loss([3, 4], weights=np.ones(2, dtype=np.float32)),
            ValueError,
            r"`weights` has shape \[2\]; expected \[1\]",
        ),
        (lambda: model.generate([]), ValueError, "at least one"),
        (lambda: model.generate([3], temperature=-1.0), ValueError, "temperature"),
        (lambda: model.stream([3, 4], model.state(2)), ValueError, "batch"),
        (lambda: model.stream([], model.state()), ValueError, "tokens"),
        (lambda: model.stream([3] * 9, model.state(capacity=8)), ValueError, "9 more do not fit"),
        (model.update_context, ValueError, "no shared context"),
    ]:
        with pytest.raises(error, match=problem):
            call()


@pytest.mark.parametrize("clip", [None, 0.5])
def test_adamw_is_torchs(rng, clip, tmp_path):
    pair = layers.Linear(7, 5, bias=False, seed=1), layers.Linear(7, 5, bias=False, seed=2)
    theirs = [torch.nn.Parameter(torch.tensor(layer.parameters["weight"])) for layer in pair]
    reference = torch.optim.AdamW(theirs, lr=0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    optimiser = layers.AdamW(*pair, rate=0.5, decay=0.1, clip=clip)
    optimiser.rate = 0.01
    for step in range(20):
        if step == 10:
            optimiser.save(tmp_path / "moments")
            optimiser = layers.AdamW(*pair, rate=0.01, decay=0.1, clip=clip)
            optimiser.load(tmp_path / "moments")
        for layer, weight in zip(pair, theirs, strict=True):
            x, dy = array(rng, 3, 7), array(rng, 3, 5)
            layer.zero_gradients()
            layer.forward(x)
            layer.backward(dy)
            weight.grad = torch.tensor(dy).T @ torch.tensor(x)
        length = torch.nn.utils.clip_grad_norm_(theirs, clip if clip is not None else math.inf)
        reference.step()
        assert abs(optimiser.step() - float(length)) < 1e-4
        assert optimiser.steps == step + 1
    for layer, weight in zip(pair, theirs, strict=True):
        np.testing.assert_allclose(layer.parameters["weight"], weight.detach().numpy(), atol=1e-5)


def test_adamw_takes_no_step_by_what_is_not_finite(rng):
    layer = layers.Linear(3, 2)
    before = layer.parameters["weight"]
    layer.forward(array(rng, 4, 3))
    layer.backward(np.full((4, 2), np.nan, dtype=np.float32))
    with pytest.raises(ValueError, match="gradient of `weight` is not finite"):
        layers.AdamW(layer).step()
    np.testing.assert_array_equal(layer.parameters["weight"], before)


@pytest.mark.parametrize("options", [{}, {"objective": "denoising"}, {"shared_context": True, "precision": "bfloat16"}])
def test_a_run_goes_on_as_if_it_had_never_stopped(options, tmp_path):
    def make():
        return layers.Trainer(
            12, 16, layers=2, heads=2, batch=2, tokens=10, accumulation=2, steps=12, warmup=2, dropout=0.1, seed=3, **options
        )

    text = np.arange(500) * 7 % 11
    whole, first, second = make(), make(), make()
    losses = [whole.step(text)["loss"] for _ in range(8)]
    assert [first.step(text)["loss"] for _ in range(4)] == losses[:4]
    first.save_model(tmp_path / "model")
    first.save_state(tmp_path / "state")
    second.restore(tmp_path / "model", tmp_path / "state")
    assert second.steps == 4 and second.tokens_of_step == 40
    assert [second.step(text)["loss"] for _ in range(4)] == losses[4:]
    assert whole.evaluate(text) == second.evaluate(text)
    ours, theirs = whole.model.parameters, second.model.parameters
    assert all((ours[name] == theirs[name]).all() for name in ours)
    report = whole.step(text)
    assert set(report) == {"step", "loss", "gradient_norm", "rate", "skipped"}
    assert report["step"] == 9 and report["skipped"] is None and report["gradient_norm"] > 0
    for wrong, error, problem in [
        ([1, 2], ValueError, "at least 11"),
        ([[1, 2]], ValueError, r"expected \[tokens\]"),
        ([12] * 50, ValueError, "token|target"),
    ]:
        with pytest.raises(error, match=problem):
            whole.step(wrong)
    with pytest.raises(ValueError):
        layers.Trainer(12, 8).restore(tmp_path / "model", tmp_path / "state")
    with pytest.raises(FileNotFoundError):
        whole.restore(tmp_path / "model", tmp_path / "nowhere")
