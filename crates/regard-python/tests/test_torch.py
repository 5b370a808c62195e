"""PyTorch: its own attention and its gradients are the oracle."""

import shutil

import pytest
import reference

torch = pytest.importorskip("torch")

import regard.torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from regard import Mask  # noqa: E402
from regard.torch import patched, scaled_dot_product_attention  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402
from torch.nn.attention.bias import causal_lower_right  # noqa: E402
from torch.nn.functional import scaled_dot_product_attention as theirs  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402


def tensors(rng, dtype, requires_grad=True):
    """Random shapes, with leading axes of any number, heads that are broadcast, and strides."""
    lead = [int(x) for x in rng.integers(1, 4, size=rng.integers(0, 3))]
    heads, n_q, n_k = (int(rng.choice(choice)) for choice in ([1, 2, 6], [1, 5, 33, 70], [1, 7, 33, 130]))
    dim, dim_v = (int(x) for x in rng.choice([1, 8, 16, 40], size=2))
    group = int(rng.choice([1, 1, 2])) if heads % 2 == 0 else 1
    make = lambda *shape: torch.from_numpy(rng.standard_normal(shape)).to(dtype)  # noqa: E731
    q, k, v = make(*lead, heads, n_q, dim), make(*lead, heads // group, n_k, dim), make(*lead, heads // group, n_k, dim_v)
    if rng.random() < 0.3:
        q, k, v = (x.transpose(-2, -3).contiguous().transpose(-2, -3) for x in (q, k, v))
    return [x.requires_grad_(requires_grad) for x in (q, k, v)], group


def draw_mask(rng, q, k, dtype):
    """None, booleans or numbers, broadcast on any axis; never a row of nothing, where PyTorch's own kernels differ."""
    shape = [*q.shape[:-1], k.shape[-2]]
    shape = [extent if rng.random() < 0.7 else 1 for extent in shape]
    shape = shape[int(rng.integers(0, len(shape) - 1)) :]
    if rng.random() < 0.5:
        return torch.from_numpy(rng.standard_normal(shape)).to(dtype)
    kept = torch.from_numpy(rng.random(shape) < 0.6)
    kept[..., 0] = True
    return kept


@pytest.mark.parametrize("case", range(200))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_random_calls_and_gradients_are_pytorchs(rng, case, dtype):
    inputs, group = tensors(rng, dtype)
    q, k, v = inputs
    options = {"enable_gqa": group > 1}
    if rng.random() < 0.3:
        options["is_causal"] = True
    elif rng.random() < 0.6:
        options["attn_mask"] = draw_mask(rng, q, k, dtype)
    if rng.random() < 0.3:
        # PyTorch's own takes the root of it.
        options["scale"] = float(rng.uniform(0.01, 2))
    mask = options.get("attn_mask")
    if mask is not None and mask.is_floating_point() and mask.dim() >= 2:
        inputs.append(mask.requires_grad_())
    # The truth is theirs in float64 of the same numbers; the measure is their error in the same type.
    exactly = [x.detach().double().requires_grad_() for x in inputs]
    precise = dict(options)
    if len(exactly) == 4:
        precise["attn_mask"] = exactly[3]
    elif mask is not None and mask.is_floating_point():
        precise["attn_mask"] = mask.double()
    truth = theirs(*exactly[:3], **precise)
    upstream = torch.from_numpy(rng.standard_normal(tuple(truth.shape)))
    truths = [truth, *torch.autograd.grad(truth, exactly, upstream)]

    def run(function):
        out = function(q, k, v, **options)
        return [out, *torch.autograd.grad(out, inputs, upstream.to(dtype))]

    # A gradient is a difference of products dout·v, which may cancel: of one key altogether.
    before = (upstream.norm(dim=-1).max() * v.double().norm(dim=-1).max()) * max(x.double().abs().max() for x in (q, k))
    before = float(before) * options.get("scale", q.shape[-1] ** -0.5)
    for at, (ours, plain, true) in enumerate(zip(run(scaled_dot_product_attention), run(theirs), truths, strict=True)):
        assert ours.shape == plain.shape and ours.dtype == plain.dtype
        error, their_error = (float(abs(x.double() - true).max()) for x in (ours, plain))
        most = max(float(abs(true).max()), 1, before if at > 0 else 0)
        assert error <= 2 * their_error + (64 if dtype == torch.float64 else 8) * torch.finfo(dtype).eps * most


#: Leading axes of query, key, value and mask, and heads of these, that are broadcast to each other.
BROADCAST = [
    ([], [2], [2], [], (3, 3, 3, 1)),
    ([1, 1], [2, 3], [2, 3], [1, 1], (3, 3, 3, 3)),
    ([2, 3], [1, 3], [3], [2, 1], (3, 3, 3, 1)),
    ([2, 3], [2, 3], [2, 3], [3], (1, 6, 6, 6)),
    ([2], [1], [2], [2], (6, 1, 1, 1)),
    ([1, 1], [1, 1], [1, 1], [1, 1], (2, 2, 1, 2)),
]


@pytest.mark.parametrize("kind", ["none", "bool", "float"])
@pytest.mark.parametrize("leads", BROADCAST)
@pytest.mark.parametrize("compiled", [False, True])
def test_what_is_broadcast(rng, leads, kind, compiled):
    *leads, heads = leads
    make = lambda at, *shape: torch.from_numpy(rng.standard_normal((*leads[at], heads[at], *shape)))  # noqa: E731
    inputs = [make(0, 5, 4).requires_grad_(), make(1, 7, 4).requires_grad_(), make(2, 7, 3).requires_grad_()]
    if kind == "float":
        inputs.append(make(3, 5, 7).requires_grad_())
    kept = make(3, 5, 7) < 0.5
    kept[..., 0] = True
    mask = {"none": [], "bool": [kept], "float": inputs[3:]}[kind]
    call = torch.compile(scaled_dot_product_attention, backend="aot_eager") if compiled else scaled_dot_product_attention
    ours = call(*inputs[:3], *mask)
    # PyTorch's own is given them written out.
    lead = torch.broadcast_shapes(*(x.shape[:-2] for x in inputs[:3]))
    expected = theirs(*(x.expand(*lead, *x.shape[-2:]) for x in inputs[:3]), *mask)
    assert ours.shape == expected.shape
    upstream = torch.from_numpy(rng.standard_normal(tuple(expected.shape)))
    both = ([out, *torch.autograd.grad(out, inputs, upstream)] for out in (ours, expected))
    for a, b in zip(*both, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


def test_two_and_three_axes(rng):
    q = torch.from_numpy(rng.standard_normal((3, 5, 4)))
    k, v = torch.from_numpy(rng.standard_normal((2, 7, 4)))
    expected = theirs(q, k.expand(3, 7, 4), v.expand(3, 7, 4))
    torch.testing.assert_close(scaled_dot_product_attention(q, k, v), expected)


def test_gradcheck(rng):
    make = lambda *shape: torch.from_numpy(rng.standard_normal(shape)).requires_grad_()  # noqa: E731
    q, k, v = make(2, 4, 5, 3), make(2, 2, 7, 3), make(2, 2, 7, 2)
    check = torch.autograd.gradcheck
    assert check(lambda q, k, v: scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True), (q, k, v))
    mask = make(4, 5, 7)
    assert check(lambda q, k, v, m: scaled_dot_product_attention(q, k, v, m, enable_gqa=True), (q, k, v, mask))
    sinks = make(4)
    call = lambda q, k, v, bias, sinks: regard.torch.attention(  # noqa: E731
        q, k, v, Mask.causal(), bias=bias, sinks=sinks, softcap=2.0, alibi=[0.1, 0.2, 0.3, 0.4], return_lse=True
    )
    assert check(call, (q, k, v, make(2, 1, 5, 7), sinks))
    drop = lambda q, k, v: regard.torch.attention(q, k, v, dropout=0.4, seed=3)  # noqa: E731
    assert check(drop, (q, k, v))


def test_through_the_lse_too(rng):
    q, k, v = (torch.from_numpy(x).requires_grad_() for x in rng.standard_normal((3, 1, 2, 30, 8)))
    halves = [regard.torch.attention(q, k[:, :, at], v[:, :, at], return_lse=True) for at in (slice(0, 9), slice(9, 30))]
    lse = torch.logaddexp(halves[0][1], halves[1][1])
    merged = sum(out * (own - lse).exp().unsqueeze(-1) for out, own in halves)
    upstream = torch.from_numpy(rng.standard_normal(tuple(merged.shape)))
    ours = torch.autograd.grad(merged, (q, k, v), upstream)
    for a, b in zip(ours, torch.autograd.grad(theirs(q, k, v), (q, k, v), upstream), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_a_query_that_sees_nothing(rng):
    q, k, v = (torch.from_numpy(x).requires_grad_() for x in rng.standard_normal((3, 1, 1, 4, 8)))
    kept = torch.ones(4, 4, dtype=torch.bool)
    kept[2] = False
    out = scaled_dot_product_attention(q, k, v, kept)
    out.sum().backward()
    assert not out[0, 0, 2].any() and not q.grad[0, 0, 2].any() and torch.isfinite(k.grad).all()


def test_dropout_follows_pytorchs_generator(rng):
    q, k, v = (torch.from_numpy(x) for x in rng.standard_normal((3, 1, 2, 60, 8)))
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(scaled_dot_product_attention(q, k, v, dropout_p=0.5))
    assert (runs[0] == runs[1]).all() and not (runs[0] == runs[2]).all()


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("kind", ["causal", "bool", "float", "gqa"])
def test_compiled(rng, kind, dynamic, grad):
    torch._dynamo.reset()
    q = torch.from_numpy(rng.standard_normal((2, 4, 20, 16))).float().requires_grad_(grad)
    k, v = (
        torch.from_numpy(x).float().requires_grad_(grad) for x in rng.standard_normal((2, 2, 2 if kind == "gqa" else 4, 24, 16))
    )
    options = {
        "causal": {"is_causal": True},
        "bool": {"attn_mask": torch.from_numpy(rng.random((1, 1, 20, 24)) < 0.8)},
        "float": {"attn_mask": torch.from_numpy(rng.standard_normal((4, 1, 24))).float().requires_grad_(grad)},
        "gqa": {"enable_gqa": True},
    }[kind]

    def model(q, k, v):
        return scaled_dot_product_attention(q * 2, k, v, **options).relu()

    compiled = torch.compile(model, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for n in (20, 13):
        if kind in ("bool", "float") and n != 20:
            continue
        ours, expected = compiled(q[:, :, :n], k, v), model(q[:, :, :n], k, v)
        torch.testing.assert_close(ours, expected)
        if grad:
            inputs = [q, k, v, *(x for x in options.values() if isinstance(x, torch.Tensor) and x.requires_grad)]
            for a, b in zip(*(torch.autograd.grad(x.sum(), inputs) for x in (ours, expected)), strict=True):
                torch.testing.assert_close(a, b)


@pytest.mark.parametrize("permuted", [False, True])
def test_the_operator_passes_pytorchs_own_check(rng, permuted):
    shape = (3, 2, 5, 2, 4) if permuted else (3, 2, 2, 5, 4)
    q, k, v = (torch.from_numpy(x) for x in rng.standard_normal(shape))
    q, k, v = ((x.transpose(1, 2) if permuted else x).requires_grad_() for x in (q, k, v))
    mask = torch.from_numpy(rng.standard_normal((2, 5, 5)))
    mask = (mask.transpose(1, 2) if permuted else mask).requires_grad_()
    operation = torch.ops.regard.scaled_dot_product_attention.default
    torch.library.opcheck(operation, (q, k, v, mask, *[None] * 3, 0.0, False, None, False, None, None))
    kept, bias = torch.from_numpy(rng.random((5, 5)) < 0.8), mask.detach()[None].requires_grad_()
    sinks = torch.zeros(q.shape[1], dtype=torch.float64, requires_grad=True)
    torch.library.opcheck(operation, (q, k, v, kept, bias, sinks, None, 0.0, False, 0.3, True, 20.0, None))
    torch.library.opcheck(operation, (q, k, v, None, None, sinks, None, 0.0, False, 0.3, True, None, "causal"))


@pytest.mark.filterwarnings("error:Dynamo")
@pytest.mark.parametrize("name", ["attention", "linear_attention", "favor_attention"])
def test_between_two_graphs(rng, name):
    torch._dynamo.reset()
    q, k, v = (torch.from_numpy(x).float().requires_grad_() for x in rng.standard_normal((3, 1, 2, 9, 8)))
    call = lambda q: getattr(regard.torch, name)(2 * q, k, v) + 1  # noqa: E731
    ours, expected = torch.compile(call, backend="aot_eager")(q), call(q)
    for a, b in zip(*([x, *torch.autograd.grad(x.sin().sum(), (q, k, v))] for x in (ours, expected)), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.skipif(shutil.which("g++") is None, reason="PyTorch's compiler needs g++, which is missing here")
def test_compiled_for_training_by_pytorchs_compiler(rng):
    torch._dynamo.reset()
    torch.manual_seed(0)
    project = torch.nn.Linear(32, 96)
    x = torch.from_numpy(rng.standard_normal((2, 9, 32))).float()

    def model(x):
        q, k, v = project(x).view(2, 9, 3, 4, 8).permute(2, 0, 3, 1, 4)
        return scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)

    def run(model):
        out = model(x)
        return [out, *torch.autograd.grad(out.square().sum(), list(project.parameters()))]

    for a, b in zip(run(torch.compile(model)), run(model), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_modules_are_patched(rng):
    torch.manual_seed(0)
    model = torch.nn.TransformerEncoderLayer(32, 4, dim_feedforward=64, batch_first=True, dropout=0.0).train()
    x = torch.from_numpy(rng.standard_normal((2, 9, 32))).float()
    padding = torch.zeros(2, 9, dtype=torch.bool)
    padding[1, 6:] = True
    calls = []
    original = regard.torch.attend

    def run():
        out = model(x, src_key_padding_mask=padding)
        return [out, *torch.autograd.grad(out[0].sum(), list(model.parameters()))]

    expected = run()
    try:
        regard.torch.attend = lambda *a, **b: calls.append(1) or original(*a, **b)
        with patched(), patched():
            ours = run()
            assert len(calls) == 1
            # A mode that sees every function is none of the tensors' own.
            with torch.device("cpu"):
                run()
            assert len(calls) == 2
    finally:
        regard.torch.attend = original
    assert torch.nn.functional.scaled_dot_product_attention is theirs
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a[:1] if a is ours[0] else a, b[:1] if b is expected[0] else b, rtol=1e-4, atol=1e-5)
    with patched():
        # What it does not compute goes on to PyTorch's own.
        meta = torch.empty(1, 2, 5, 8, device="meta")
        assert torch.nn.functional.scaled_dot_product_attention(meta, meta, meta).shape == (1, 2, 5, 8)
    with pytest.raises(RuntimeError, match="on purpose"), patched():
        raise RuntimeError("on purpose")
    assert torch.nn.functional.scaled_dot_product_attention is theirs


def test_patches_of_others_stay(rng):
    q, k, v = (torch.from_numpy(x) for x in rng.standard_normal((3, 1, 2, 5, 8)))
    calls = []

    def wrapper(*arguments, **options):
        calls.append(1)
        return theirs(*arguments, **options)

    functional = torch.nn.functional
    try:
        functional.scaled_dot_product_attention = wrapper
        with patched():
            functional.scaled_dot_product_attention(q, k, v)
            assert not calls
            # PyTorch's own class of masks sees to itself.
            bias = causal_lower_right(3, 5)
            ours = functional.scaled_dot_product_attention(q[:, :, :3], k, v, bias)
        assert functional.scaled_dot_product_attention is wrapper
        with patched():
            functional.scaled_dot_product_attention = theirs
        assert functional.scaled_dot_product_attention is theirs
    finally:
        functional.scaled_dot_product_attention = theirs
    expected = theirs(q[:, :, :3], k, v, torch.ones(3, 5, dtype=torch.bool).tril(2))
    torch.testing.assert_close(ours, expected)


def test_who_wraps_the_patch(rng):
    """Wrapped within a patch, it goes on when that has ended, and in the next one."""
    q = torch.from_numpy(rng.standard_normal((1, 2, 5, 8)))
    functional, calls = torch.nn.functional, []
    try:
        with patched():
            inner = functional.scaled_dot_product_attention
            functional.scaled_dot_product_attention = lambda *a, **b: calls.append(1) or inner(*a, **b)
        for _ in range(3):
            torch.testing.assert_close(functional.scaled_dot_product_attention(q, q, q), theirs(q, q, q))
            with patched():
                torch.testing.assert_close(functional.scaled_dot_product_attention(q, q, q), theirs(q, q, q))
                meta = torch.empty(1, 2, 5, 8, device="meta")
                assert functional.scaled_dot_product_attention(meta, meta, meta).shape == (1, 2, 5, 8)
    finally:
        functional.scaled_dot_product_attention = theirs
    assert len(calls) == 6


def test_second_derivatives_are_refused(rng):
    q, k, v = (torch.from_numpy(x).float().requires_grad_() for x in rng.standard_normal((3, 1, 2, 6, 8)))
    for call in (
        scaled_dot_product_attention,
        regard.torch.attention,
        regard.torch.linear_attention,
        regard.torch.favor_attention,
        lambda *x: torch.ops.regard.scaled_dot_product_attention(*x, *[None] * 4, 0.0, False, None, False, None, None)[0],
    ):
        out = call(q, k, v)
        first = torch.autograd.grad(out.sum(), q, create_graph=True)[0]
        torch.testing.assert_close(first, torch.autograd.grad(call(q, k, v).sum(), q)[0])
        with pytest.raises(RuntimeError, match="second derivatives|does not require grad|autograd"):
            (out.square().sum() + first.square().sum()).backward()


def test_options_that_would_lose_a_gradient(rng):
    q, k, v = (torch.from_numpy(x).requires_grad_() for x in rng.standard_normal((3, 1, 2, 6, 8)))
    with pytest.raises(ValueError, match="`alibi` requires a gradient"):
        regard.torch.attention(q, k, v, alibi=torch.ones(2, requires_grad=True))
    with torch.no_grad():
        regard.torch.attention(q, k, v, alibi=torch.ones(2, requires_grad=True))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda q: scaled_dot_product_attention(q.tolist(), q, q), TypeError, "query is a list; expected a torch.Tensor"),
        (lambda q: scaled_dot_product_attention(q, q.numpy(), q), TypeError, "key is a ndarray"),
        (lambda q: scaled_dot_product_attention(q, q, q, dropout_p=-0.5), ValueError, "dropout_p is -0.5"),
        (lambda q: scaled_dot_product_attention(q, q, q, dropout_p=float("nan")), ValueError, "dropout_p is nan"),
        (
            lambda q: scaled_dot_product_attention(q, q.expand(3, -1, -1, -1), q[:, :1].expand(2, -1, -1, -1)),
            ValueError,
            "batches",
        ),
        (lambda q: scaled_dot_product_attention(q, q[:, :3], q[:, :1], enable_gqa=True), ValueError, "do not divide"),
        (lambda q: regard.attention(torch.nested.nested_tensor([q[0], q[0]]), q, q), TypeError, "nested tensor"),
        (lambda q: regard.attention(q.to("meta"), q, q), TypeError, "`q` is on the device meta"),
    ],
)
def test_what_is_no_call(rng, call, error, message):
    with pytest.raises(error, match=message):
        call(torch.from_numpy(rng.standard_normal((1, 4, 5, 8))))


def test_heads_of_keys_and_of_values(rng):
    q, k, v = (torch.from_numpy(rng.standard_normal((2, heads, 5, 8))) for heads in (8, 4, 2))
    ours, expected = (call(q, k, v, enable_gqa=True) for call in (scaled_dot_product_attention, theirs))
    torch.testing.assert_close(ours, expected)


def test_results_of_nothing():
    for batch, heads, queries in ((1, 2, 0), (0, 2, 5)):
        q, k = torch.zeros(batch, heads, queries, 8), torch.zeros(batch, heads, 3, 8)
        assert regard.attention(q, k, k).shape == q.shape


def test_in_inference_mode(rng):
    q, k, v = (torch.from_numpy(x) for x in rng.standard_normal((3, 2, 4, 6, 8)))
    with torch.inference_mode():
        kept = torch.rand(6, 6) < 0.7
        kept[:, 0] = True
        for _ in range(2):
            torch.testing.assert_close(scaled_dot_product_attention(q, k, v, kept), theirs(q, k, v, kept))
        out = torch.empty_like(q)
        torch.testing.assert_close(regard.torch.attention(q, k, v, out=out), theirs(q, k, v))


def test_a_mask_that_changes_unnoticed(rng):
    q, k, v = (torch.from_numpy(x) for x in rng.standard_normal((3, 1, 2, 6, 8)))
    array = rng.random((6, 6)) < 0.6
    array[:, 0] = True
    kept = torch.from_numpy(array)
    for _ in range(3):
        torch.testing.assert_close(scaled_dot_product_attention(q, k, v, kept), theirs(q, k, v, kept))
        # The tensor's version knows nothing of it.
        array[:, 1:] = rng.random((6, 5)) < 0.6


def test_gradients_of_what_was_overwritten_are_refused(rng):
    q, k, v = (torch.from_numpy(x) for x in rng.standard_normal((3, 1, 2, 6, 8)))
    out, weight = torch.zeros_like(q), torch.ones_like(q, requires_grad=True)
    product = weight * out
    assert regard.torch.attention(q, k, v, out=out) is out
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()
    for write in (regard.attention, regard.plan(q, k, v)):
        product = weight * out
        write(q, k, v, out=out)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            product.sum().backward()
    with pytest.raises(ValueError, match="`out` is for calls without gradients"):
        regard.torch.attention(q.requires_grad_(), k, v, out=out)


def test_gradients_where_nothing_is_copied(rng):
    q, k, v = (torch.from_numpy(x).requires_grad_() for x in rng.standard_normal((3, 1, 2, 6, 8)))
    ours, expected = regard.torch.attention(q, k, v, copy=False), theirs(q, k, v)
    for a, b in zip(*(torch.autograd.grad(x.sum(), (q, k, v)) for x in (ours, expected)), strict=True):
        torch.testing.assert_close(a, b)


def test_autocast_of_mixed_types(rng):
    q, k, v = (torch.from_numpy(x).float().requires_grad_() for x in rng.standard_normal((3, 1, 2, 30, 16)))
    with torch.autocast("cpu", torch.bfloat16):
        ours = regard.torch.attention(q, k, v.bfloat16(), bias=torch.zeros(30, 30))
    assert ours.dtype == torch.bfloat16
    expected = theirs(*(x.bfloat16() for x in (q, k, v)))
    for a, b in zip(*([x, *torch.autograd.grad(x.sum(), (q, k, v))] for x in (ours, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-2)


def test_autocast(rng):
    q, k, v = (torch.from_numpy(x).float() for x in rng.standard_normal((3, 1, 2, 30, 16)))
    with torch.autocast("cpu", torch.bfloat16):
        ours, expected = scaled_dot_product_attention(q, k, v), theirs(q, k, v)
    assert ours.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(ours, expected, rtol=2e-2, atol=2e-2)


def test_it_is_the_formula_without_gradients(rng):
    q, k, v = rng.standard_normal((3, 1, 2, 30, 16))
    with torch.no_grad():
        tensors = [torch.from_numpy(x).requires_grad_() for x in (q, k, v)]
        out = scaled_dot_product_attention(*tensors, is_causal=True)
    assert not out.requires_grad
    expected = reference.attention(q, k, v, kept=reference.causal(30, 30, 0))[0]
    assert abs(out.numpy() - expected).max() < 1e-13


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"is_causal": True, "attn_mask": torch.ones(5, 5, dtype=torch.bool)}, ValueError, "exclude each other"),
        ({"attn_mask": torch.ones(5, 5, dtype=torch.long)}, TypeError, "attn_mask has dtype torch.int64"),
        (
            {"attn_mask": torch.ones(4, 5, dtype=torch.bool)},
            ValueError,
            r"attn_mask has shape \[4, 5\], which does not broadcast to \[1, 2, 5, 5\]",
        ),
        ({"dropout_p": 1.5}, ValueError, "dropout"),
        ({"scale": float("nan")}, ValueError, "scale"),
        ({"query": torch.ones(8)}, ValueError, "expected at least 2"),
        ({"query": torch.ones(1, 3, 5, 8), "enable_gqa": True}, ValueError, "multiple of the 2"),
        ({"query": torch.ones(1, 3, 5, 8)}, ValueError, "3, 2 and 2 heads"),
        ({"query": torch.ones(1, 2, 5, 8, dtype=torch.int32)}, TypeError, "torch.int32"),
    ],
)
def test_what_makes_no_sense(change, error, message):
    x = torch.ones(1, 2, 5, 8)
    with pytest.raises(error, match=message):
        scaled_dot_product_attention(**({"query": x, "key": x, "value": x} | change))


@pytest.mark.parametrize("rule", ["linear", "gated", "delta", "gated_delta"])
def test_linear_attention_has_gradients(rng, rule):
    drawn = lambda *shape: torch.from_numpy(rng.standard_normal(shape)).float().requires_grad_()  # noqa: E731
    q, v, state = drawn(1, 2, 30, 8), drawn(1, 2, 30, 5), drawn(1, 2, 8, 5)
    k, gate, beta = drawn(1, 2, 30, 8), drawn(1, 2, 30, 1), drawn(1, 2, 30)
    given = {"state": state}
    given |= {"decay": F.logsigmoid(gate)} if "gated" in rule else {}
    given |= {"beta": torch.sigmoid(beta)} if "delta" in rule else {}
    unit = F.normalize(k, dim=-1)

    def loss(attend, cast):
        out, after = attend(*(cast(x) for x in (q, unit, v)), **{name: cast(x) for name, x in given.items()})
        return (out**2).sum() + after.sin().sum()

    def plain(q, k, v, state, decay=None, beta=None):
        rows = []
        for t in range(q.shape[2]):
            state = state if decay is None else decay[:, :, t].exp()[..., None] * state
            written = v[:, :, t]
            if beta is not None:
                written = beta[:, :, t, None] * (written - torch.einsum("bhkv,bhk->bhv", state, k[:, :, t]))
            state = state + k[:, :, t, :, None] * written[..., None, :]
            rows.append(torch.einsum("bhkv,bhk->bhv", state, q[:, :, t]) / q.shape[-1] ** 0.5)
        return torch.stack(rows, 2), state

    inputs = [q, k, v, state] + ([gate] if "gated" in rule else []) + ([beta] if "delta" in rule else [])
    ours = lambda *x, **given: regard.torch.linear_attention(*x, rule=rule, return_state=True, **given)  # noqa: E731
    gradients = torch.autograd.grad(loss(ours, lambda x: x), inputs, retain_graph=True)
    expected = torch.autograd.grad(loss(plain, torch.Tensor.double), inputs, retain_graph=True)
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    # Of the state alone, and of nothing.
    alone = torch.autograd.grad(ours(q, unit, v, **given)[1].sum(), v)[0]
    assert torch.isfinite(alone).all() and alone.abs().sum() > 0
    with torch.no_grad():
        assert not ours(q, unit, v, **given)[0].requires_grad


def test_favor_attention_has_gradients(rng):
    q, k, v = (torch.from_numpy(0.7 * rng.standard_normal((1, 2, 40, 8))).float().requires_grad_() for _ in range(3))
    features = regard.FavorFeatures(8, 64)
    rows = torch.from_numpy(features.rows).double() * 8**-0.25
    wide = [x.detach().double().requires_grad_() for x in (q, k, v)]
    weights = (
        (wide[0] @ rows.T).exp() @ (wide[1] @ rows.T - (wide[1] ** 2).sum(-1, keepdim=True) / 2 * 8**-0.5).exp().mT
    ).tril()
    expected = torch.autograd.grad((weights @ wide[2] / weights.sum(-1, keepdim=True)).sin().sum(), wide)
    out = regard.torch.favor_attention(q, k, v, features=features)
    for one, other in zip(torch.autograd.grad(out.sin().sum(), (q, k, v)), expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-4)
    for call in (regard.torch.favor_attention, regard.torch.linear_attention):
        with pytest.raises(TypeError, match="float64"):
            call(*wide)
        # Without gradients it is computed.
        assert call(*(x.detach() for x in wide)).dtype == torch.float64


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("through", ["ours", "patched"])
def test_transforms_and_tracers(rng, through):
    """What looks into operations finds PyTorch's own, or one opaque one; never the memory that we write to unseen."""
    q, k, v = (torch.from_numpy(rng.standard_normal((2, 3, 5, 4))).float() for _ in range(3))
    ours = scaled_dot_product_attention if through == "ours" else F.scaled_dot_product_attention
    with patched():
        got = [
            torch.vmap(ours)(q, k, v),
            torch.func.grad(lambda q: ours(q, k, v, is_causal=True).sin().sum())(q),
            torch.func.jacrev(lambda q: ours(q, k[0], v[0]))(q[0]),
            torch.jit.trace(lambda *x: ours(*x), (k, k, k))(q, k, v),
        ]
    expected = [
        torch.vmap(theirs)(q, k, v),
        torch.func.grad(lambda q: theirs(q, k, v, is_causal=True).sin().sum())(q),
        torch.func.jacrev(lambda q: theirs(q, k[0], v[0]))(q[0]),
        theirs(q, k, v),
    ]
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    with patched():
        traced = [
            make_fx(lambda *x: ours(*x, is_causal=True))(k, v, q),
            make_fx(torch.func.grad(lambda q: ours(q, k, v).sum()))(q.clone()),
        ]
        with FakeTensorMode():
            assert ours(*[torch.empty(3, 5, 4)] * 3).shape == (3, 5, 4)
        with FlopCounterMode(display=False):
            torch.testing.assert_close(ours(q, k, v), theirs(q, k, v))
    torch.testing.assert_close(traced[0](q, k, v), theirs(q, k, v, is_causal=True))
    torch.testing.assert_close(traced[1](q), torch.func.grad(lambda q: theirs(q, k, v).sum())(q))
    # PyTorch's own has no such derivative; ours must not give zeros.
    with pytest.raises(NotImplementedError, match="forward AD"):
        torch.func.jvp(lambda q: ours(q, k, v), (q,), (k,))
    for call in (regard.torch.attention, regard.torch.linear_attention, regard.torch.favor_attention):
        with pytest.raises(NotImplementedError, match="nothing that torch.func"):
            torch.vmap(call)(q, k, v)
        with pytest.raises(NotImplementedError, match="nothing that torch.func"):
            make_fx(lambda *x, call=call: call(*x))(q, k, v)
        with FakeTensorMode(), pytest.raises(NotImplementedError, match="nothing that torch.func"):
            call(*[torch.empty(1, 3, 5, 4)] * 3)
        with pytest.raises(NotImplementedError, match="nothing that torch.func"):
            torch.jit.trace(lambda *x, call=call: call(*x), (q, k, v))


def test_all_weights_fall(rng):
    (q, k, v), group = tensors(rng, torch.float32)
    out = scaled_dot_product_attention(q, k, v, dropout_p=1.0, enable_gqa=group > 1)
    out.sum().backward()
    assert not out.any() and not v.grad.any()
    with pytest.raises((RuntimeError, ValueError), match=r"[pP]robability|dropout"):
        scaled_dot_product_attention(q, k, v, dropout_p=1.5)
