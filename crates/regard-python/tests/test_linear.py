"""Linear attention and FAVOR+, against their formulas in float64, and PyTorch's gradients of these."""

import numpy as np
import pytest
import reference
import regard
import torch


def recurrence(q, k, v, decay, beta, state, scale):
    """Linear attention step by step, in float64."""
    q, k, v, decay, beta, state = (np.asarray(x, dtype=np.float64) for x in (q, k, v, decay, beta, state))
    state, out = state.copy(), np.empty((*q.shape[:3], v.shape[3]))
    for t in range(q.shape[2]):
        state *= np.exp(decay[:, :, t])[..., None]
        written = (
            v[:, :, t] if beta.size == 0 else beta[:, :, t, None] * (v[:, :, t] - np.einsum("bhkv,bhk->bhv", state, k[:, :, t]))
        )
        state += np.einsum("bhk,bhv->bhkv", k[:, :, t], written)
        out[:, :, t] = scale * np.einsum("bhkv,bhk->bhv", state, q[:, :, t])
    return out, state


@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 1e-5), (np.float64, 1e-13)])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("rule", ["linear", "gated", "delta", "gated_delta"])
def test_linear_rules_are_the_recurrence(rng, rule, per_channel, dtype, tolerance):
    batch, heads, tokens, dim, dim_v = 2, 3, 131, 16, 24
    q, k = rng.standard_normal((2, batch, heads, tokens, dim), dtype=dtype)
    k /= np.linalg.norm(k, axis=-1, keepdims=True)
    v = rng.standard_normal((batch, heads, tokens, dim_v), dtype=dtype)
    decay = -rng.random((batch, heads, tokens, dim if per_channel else 1), dtype=dtype)
    beta = rng.random((batch, heads, tokens), dtype=dtype)
    state = rng.standard_normal((batch, heads, dim, dim_v), dtype=dtype)
    given = {"decay": decay if "gated" in rule else None, "beta": beta if "delta" in rule else None, "state": state}
    out, after = regard.linear_attention(q, k, v, rule=rule, scale=0.5, return_state=True, **given)
    gates = decay if "gated" in rule else np.zeros((batch, heads, tokens, 1))
    betas = beta if "delta" in rule else np.empty(0)
    expected, expected_after = recurrence(q, k, v, gates, betas, state, 0.5)
    most = abs(expected).max()
    assert out.dtype == after.dtype == dtype
    assert abs(out - expected).max() < tolerance * most
    assert abs(after - expected_after).max() < tolerance * abs(expected_after).max()
    # In parts it is the same.
    half = lambda x, part: None if x is None else x[:, :, part]  # noqa: E731
    parts = []
    for part in (slice(0, 50), slice(50, tokens)):
        more = {name: half(given[name], part) for name in ("decay", "beta")}
        piece, state = regard.linear_attention(
            *(half(x, part) for x in (q, k, v)), rule=rule, scale=0.5, state=state, return_state=True, **more
        )
        parts.append(piece)
    assert abs(np.concatenate(parts, axis=2) - expected).max() < tolerance * most


def test_decays_betas_and_states_are_as_wide_as_they_are_computed(rng):
    q, k, v = rng.standard_normal((3, 1, 2, 10, 4))
    decay = -rng.random((1, 2, 10, 1))
    with pytest.raises(TypeError, match="`decay` has dtype float32; expected float64"):
        regard.linear_attention(q, k, v, rule="gated", decay=decay.astype(np.float32))
    with pytest.raises(TypeError, match="`decay` has dtype float64; expected float32"):
        regard.linear_attention(*(x.astype(np.float32) for x in (q, k, v)), rule="gated", decay=decay)


def of_rule(q, k, v, decay, beta, state, scale):
    """The recurrence for PyTorch to differentiate; heads of each divide those of the states."""
    states = max(x.shape[1] for x in (k, v, decay, beta) if x is not None)
    wide = lambda x, heads: x.repeat_interleave(heads // x.shape[1], 1)  # noqa: E731
    q, k, v = wide(q, max(states, q.shape[1])), wide(k, states), wide(v, states)
    group, out = q.shape[1] // states, []
    for t in range(q.shape[2]):
        if decay is not None:
            state = wide(decay, states)[:, :, t].exp()[..., None] * state
        written = v[:, :, t]
        if beta is not None:
            read = torch.einsum("bhkv,bhk->bhv", state, k[:, :, t])
            written = wide(beta, states)[:, :, t, None] * (written - read)
        state = state + torch.einsum("bhk,bhv->bhkv", k[:, :, t], written)
        out.append(scale * torch.einsum("bhkv,bhk->bhv", state.repeat_interleave(group, 1), q[:, :, t]))
    return torch.stack(out, 2), state


def near(ours, theirs, tolerance=2e-5):
    """Within a share of the largest number."""
    assert abs(np.asarray(ours, dtype=np.float64) - theirs).max(initial=0) <= tolerance * max(abs(theirs).max(initial=0), 1e-3)


@pytest.mark.parametrize("case", range(6))
@pytest.mark.parametrize("rule", ["linear", "gated", "delta", "gated_delta"])
def test_gradients_are_those_of_the_recurrence(rng, rule, case):
    batch, states, tokens = int(rng.integers(1, 3)), 2 * int(rng.integers(1, 3)), int(rng.choice([1, 7, 64, 90]))
    dim, dim_v = (int(x) for x in rng.choice([1, 5, 16, 24], size=2))
    drawn = lambda *shape: torch.from_numpy(rng.standard_normal(shape)).float().double()  # noqa: E731
    heads = lambda: int(rng.choice([1, 2, states]))  # noqa: E731
    q = drawn(batch, int(rng.choice([states, 2 * states])), tokens, dim)
    k, v = drawn(batch, heads(), tokens, dim), drawn(batch, states, tokens, dim_v)
    k = torch.nn.functional.normalize(k, dim=-1).float().double()
    decay = -drawn(batch, heads(), tokens, dim if case % 2 else 1).abs() if "gated" in rule else None
    beta = torch.sigmoid(drawn(batch, heads(), tokens)).float().double() if "delta" in rule else None
    state = drawn(batch, states, dim, dim_v)
    inputs = [x.requires_grad_() for x in (q, k, v, decay, beta, state) if x is not None]
    out, after = of_rule(q, k, v, decay, beta, state, 0.7)
    dout, dstate = drawn(*out.shape), drawn(*after.shape)
    expected = iter(torch.autograd.grad([out, after], inputs, [dout, dstate]))

    single = lambda x: None if x is None else x.detach().float().numpy()  # noqa: E731
    given = {"decay": single(decay), "beta": single(beta), "state": single(state)}
    gradients = regard.linear_attention_backward(
        *(single(x) for x in (q, k, v, dout)), rule=rule, scale=0.7, dstate=single(dstate), **given
    )
    for name, of in {"q": q, "k": k, "v": v, "decay": decay, "beta": beta, "state": state}.items():
        ours = getattr(gradients, name)
        assert (ours is None) == (of is None)
        if of is not None:
            assert ours.shape == of.shape and ours.dtype == np.float32
            near(ours, next(expected).numpy())


def test_gradients_without_a_state_and_in_both_directions(rng):
    q, k, v, dout = (torch.from_numpy(rng.standard_normal((2, 3, 40, 8), dtype=np.float32)) for _ in range(4))
    wide = [x.double().requires_grad_() for x in (q, k, v)]
    scores = wide[0] @ wide[1].mT / 8**0.5
    for causal in (True, False):
        out = (scores.tril() if causal else scores) @ wide[2]
        expected = torch.autograd.grad(out, wide, dout.double(), retain_graph=True)
        for ours, theirs in zip(regard.linear_attention_backward(q, k, v, dout, causal=causal), expected, strict=True):
            near(ours, theirs.numpy())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_of_narrow_numbers_are_those_of_the_numbers_they_are(rng, dtype):
    q, k, v, dout = (torch.from_numpy(rng.standard_normal((1, 2, 70, 16))).to(dtype) for _ in range(4))
    narrow = regard.linear_attention_backward(q, k, v, dout)
    for ours, theirs in zip(narrow, regard.linear_attention_backward(*(x.float() for x in (q, k, v, dout))), strict=True):
        assert ours.dtype == torch.float32
        near(ours, theirs.numpy())


def estimate(q, k, v, rows, scale, causal):
    """FAVOR+ by its formula (Choromanski et al., 2021), in float64."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    rows = torch.from_numpy(rows).double() * scale**0.5
    of_q, of_k = q @ rows.T, k @ rows.T - scale / 2 * (k * k).sum(-1, keepdim=True)
    weights = (of_q - of_q.amax()).exp() @ (of_k - of_k.amax()).exp().mT
    weights = weights.tril() if causal else weights
    return weights @ v / weights.sum(-1, keepdim=True)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("shape", [(1, 4, 2, 100, 16, 24), (2, 3, 3, 65, 8, 1), (1, 2, 1, 1, 5, 7)])
def test_favor_is_its_formula_and_so_are_its_gradients(rng, shape, causal):
    batch, heads, kv_heads, tokens, dim, dim_v = shape
    drawn = lambda *shape: torch.from_numpy(0.7 * rng.standard_normal(shape)).float()  # noqa: E731
    q, k, v = drawn(batch, heads, tokens, dim), drawn(batch, kv_heads, tokens, dim), drawn(batch, kv_heads, tokens, dim_v)
    dout = drawn(batch, heads, tokens, dim_v)
    features = regard.FavorFeatures(dim, 96, seed=5)
    options = {"features": features, "scale": 0.4, "causal": causal}
    wide = [x.double().requires_grad_() for x in (q, k, v)]
    expected = estimate(*wide, features.rows, 0.4, causal)
    near(regard.favor_attention(q, k, v, **options), expected.detach().numpy())
    near(regard.favor_attention(*(x.detach() for x in wide), **options), expected.detach().numpy(), 1e-12)
    theirs = torch.autograd.grad(expected, wide, dout.double())
    gradients = regard.favor_attention_backward(q, k, v, dout, **options)
    assert gradients.decay is gradients.beta is None and gradients.state.shape == (batch, kv_heads, 96, dim_v + 1)
    for ours, of in zip(gradients, theirs, strict=True):
        near(ours, of.numpy(), 1e-4)


def test_favor_hands_gradients_on_through_its_state(rng):
    q, k, v, dout = 0.7 * rng.standard_normal((4, 1, 2, 120, 16)).astype(np.float32)
    features = regard.FavorFeatures(16, 64)
    whole = regard.favor_attention_backward(q, k, v, dout, features=features)
    first, rest = ([x[:, :, part] for x in (q, k, v)] for part in (slice(0, 50), slice(50, None)))
    _, state = regard.favor_attention(*first, features=features, return_state=True)
    behind = regard.favor_attention_backward(*rest, dout[:, :, 50:], features=features, state=state)
    before = regard.favor_attention_backward(*first, dout[:, :, :50], features=features, dstate=behind.state)
    for ours, parts in zip(whole, zip(before, behind, strict=True), strict=True):
        near(np.concatenate(parts, axis=2), ours.astype(np.float64), 1e-4)


def test_gradients_in_float64_are_refused(rng):
    q = rng.standard_normal((1, 2, 10, 4))
    for backward in (regard.linear_attention_backward, regard.favor_attention_backward):
        with pytest.raises(TypeError, match="float64.*convert"):
            backward(q, q, q, q)


def test_favor_in_parts_is_the_whole(rng):
    q, k, v = 0.7 * rng.standard_normal((3, 1, 4, 200, 32))
    features = regard.FavorFeatures(32, 64, seed=3)
    for dtype, tolerance in [(np.float32, 2e-5), (np.float64, 1e-13)]:
        q, k, v = (x.astype(dtype) for x in (q, k, v))
        whole, (sums, exponents) = regard.favor_attention(q, k, v, features=features, return_state=True)
        assert whole.dtype == sums.dtype == exponents.dtype == dtype
        first, state = regard.favor_attention(q[:, :, :90], k[:, :, :90], v[:, :, :90], features=features, return_state=True)
        rest = regard.favor_attention(q[:, :, 90:], k[:, :, 90:], v[:, :, 90:], features=features, state=state)
        np.testing.assert_allclose(np.concatenate([first, rest], axis=2), whole, atol=tolerance)


def test_favor_comes_nearer_with_features(rng):
    q, k, v = 0.7 * rng.standard_normal((3, 1, 4, 200, 32), dtype=np.float32)
    exact = reference.attention(q, k, v, kept=reference.causal(200, 200))[0]
    errors = []
    for count in (32, 512, 8192):
        runs = [regard.favor_attention(q, k, v, features=count, seed=seed) for seed in range(4)]
        errors.append(np.mean([abs(run - exact).mean() for run in runs]))
    # A sixteenth of the variance is a quarter of the error, once there are features enough.
    assert errors[0] > 1.5 * errors[1] and errors[1] > 2.5 * errors[2]
