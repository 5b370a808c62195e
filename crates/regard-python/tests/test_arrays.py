"""What goes in and comes out: kinds of arrays, what is copied and what is not, and what is refused."""

import ctypes
import sys

import ml_dtypes
import numpy as np
import pytest
import reference
import regard
from memory import grown, mib
from regard import Mask


def arrays(rng, dtype=np.float32, shape=(2, 4, 30, 16)):
    return rng.standard_normal((3, *shape)).astype(dtype)


def test_results_are_of_the_kind_of_the_query(rng):
    torch, jax = pytest.importorskip("torch"), pytest.importorskip("jax")
    q, k, v = arrays(rng)
    expected = regard.attention(q, k, v, "causal")
    assert type(expected) is np.ndarray
    tensors = [torch.from_numpy(x) for x in (q, k, v)]
    out, lse = regard.attention(*tensors, "causal", return_lse=True)
    assert isinstance(out, torch.Tensor) and isinstance(lse, torch.Tensor)
    assert (out.numpy() == expected).all()
    arrays_of_jax = [jax.numpy.asarray(x) for x in (q, k, v)]
    out = regard.attention(*arrays_of_jax, "causal")
    assert isinstance(out, jax.Array) and (np.asarray(out) == expected).all()
    # What is not the query may be of any kind.
    assert (regard.attention(q, tensors[1], arrays_of_jax[2], "causal") == expected).all()
    assert (regard.attention(memoryview(q), k, v, "causal") == expected).all()


class OnlyDlpack:
    """Something of another library."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


class OldDlpack(OnlyDlpack):
    def __dlpack__(self):
        return self.array.__dlpack__()


@pytest.mark.parametrize("wrap", [OnlyDlpack, OldDlpack])
def test_anything_with_dlpack(rng, wrap):
    q, k, v = arrays(rng)
    out = regard.attention(wrap(q), wrap(k[:, :, ::2]), wrap(v[:, :, ::2]))
    assert (out == regard.attention(q, k[:, :, ::2], v[:, :, ::2])).all()


@pytest.mark.parametrize("library", ["numpy", "torch", "jax"])
def test_bfloat16_of_all_libraries(rng, library):
    q, k, v = (x.astype(ml_dtypes.bfloat16) for x in arrays(rng))
    expected = reference.attention(*(x.astype(np.float64) for x in (q, k, v)))[0]
    if library == "torch":
        torch = pytest.importorskip("torch")
        q, k, v = (torch.from_numpy(x.view(np.uint16)).view(torch.bfloat16) for x in (q, k, v))
        out = regard.attention(q, k, v)
        assert out.dtype == torch.bfloat16
        out = out.double().numpy()
    else:
        if library == "jax":
            q, k, v = (pytest.importorskip("jax").numpy.asarray(x) for x in (q, k, v))
        out = regard.attention(q, k, v)
        assert out.dtype == ml_dtypes.bfloat16
        out = np.asarray(out).astype(np.float64)
    # A result has 8 significant bits.
    assert abs(out - expected).max() < 2**-8 * abs(expected).max() + 2**-9


def views(x):
    """The same numbers, laid out otherwise: what can be read where it lies, and what cannot."""
    apart = np.empty((*x.shape[:3], 3 * x.shape[3]), dtype=x.dtype)[..., : x.shape[3]]
    apart[...] = x
    bytes_apart = np.zeros(x.shape, dtype=[("a", np.uint8), ("x", x.dtype)])["x"]
    bytes_apart[...] = x
    readable = [x, x.swapaxes(1, 2).copy().swapaxes(1, 2), apart, x.transpose(2, 0, 1, 3).copy().transpose(1, 2, 0, 3)]
    other = [x[:, :, ::-1].copy()[:, :, ::-1], np.asfortranarray(x), np.repeat(x, 2, axis=3)[..., ::2], bytes_apart]
    return readable, other


def test_any_strides(rng):
    q, k, v = arrays(rng)
    expected = regard.attention(q, k, v, "causal")
    readable, other = zip(*(views(x) for x in (q, k, v)), strict=True)
    for view in zip(*readable, strict=True):
        assert (regard.attention(*view, "causal", copy=False) == expected).all()
    for view in zip(*other, strict=True):
        assert (regard.attention(*view, "causal") == expected).all()
        with pytest.raises(ValueError, match=r"`q` has shape \[2, 4, 30, 16\] with strides .*ascontiguousarray|not aligned"):
            regard.attention(*view, "causal", copy=False)
    one = np.broadcast_to(k[:1], k.shape)
    assert (regard.attention(q, one, one, copy=False) == regard.attention(q, one.copy(), one.copy())).all()


def test_results_are_written_where_they_are_asked_for(rng):
    torch = pytest.importorskip("torch")
    q, k, v = arrays(rng)
    expected = regard.attention(q, k, v)
    out = np.full((2, 30, 4, 16), 7, dtype=np.float32).swapaxes(1, 2)
    assert regard.attention(q, k, v, out=out) is out and (out == expected).all()
    out = torch.empty(2, 4, 30, 16)
    address = out.data_ptr()
    assert regard.attention(*map(torch.from_numpy, (q, k, v)), out=out) is out and out.data_ptr() == address
    assert (out.numpy() == expected).all()
    wide = np.empty((2, 4, 30, 32), dtype=np.float32)
    _, lse = regard.attention(q, k, v, out=wide[..., 16:], return_lse=True)
    assert (wide[..., 16:] == expected).all() and lse.shape == (2, 4, 30)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda q: q.copy()[:, :, :5], r"`out` has shape \[2, 4, 5, 16\], expected \[2, 4, 30, 16\]"),
        (lambda q: q.astype(np.float64), "`out` has dtype float64, expected float32"),
        (lambda q: q, "`out` shares memory with `q`"),
        (lambda q: np.broadcast_to(np.zeros((1, 1, 1, 16), np.float32), q.shape), "read-only|overlaps itself"),
        (lambda q: np.lib.stride_tricks.as_strided(q.copy(), q.shape, (0, 0, 0, 4), writeable=True), "overlaps itself"),
        (lambda q: np.asfortranarray(q), "strides"),
        (lambda q: bytes(8), "`out` has"),
        (lambda q: [1.0], "`out` is a list; expected an array"),
    ],
)
def test_results_that_cannot_be_written(rng, make, message):
    q, k, v = arrays(rng)
    with pytest.raises((ValueError, TypeError), match=message):
        regard.attention(q, k, v, out=make(q))
    locked = np.empty_like(q)
    locked.flags.writeable = False
    with pytest.raises(ValueError, match="`out` is read-only"):
        regard.attention(q, k, v, out=locked)


@pytest.mark.parametrize("library", ["numpy", "torch", "dlpack"])
def test_nothing_is_copied(rng, library):
    """Keys and values of 128 MiB that are strided views are read where they lie; what has to be copied shows that it would be
    seen."""
    torch = pytest.importorskip("torch")
    wrap = {"numpy": lambda x: x, "torch": torch.from_numpy, "dlpack": OnlyDlpack}[library]
    x = rng.standard_normal((1 << 18, 2, 64), dtype=np.float32)
    q, strided = wrap(np.ones((1, 2, 1, 64), dtype=np.float32)), x.swapaxes(0, 1)[None]

    def call(keys):
        return grown(lambda: regard.attention(q, keys, keys, "causal"))

    call(wrap(strided[:, :, :1000]))
    assert call(wrap(strided)) < 16 and call(wrap(strided[:, :, ::2])) < 16
    assert call(strided[..., ::-1]) > 100


def test_results_have_the_memory_that_they_say(rng):
    q, k, v = arrays(rng)
    out = np.zeros_like(q)
    regard.attention(q, k, v, out=out)
    raw = (ctypes.c_float * out.size).from_address(out.ctypes.data)
    assert (np.ctypeslib.as_array(raw).reshape(out.shape) == regard.attention(q, k, v)).all()


def test_nothing_leaks(rng):
    q, k, v = arrays(rng, shape=(1, 2, 200, 64))
    jax = pytest.importorskip("jax")
    calls = [
        lambda: regard.attention(q, k, v, "causal", return_lse=True),
        lambda: regard.attention(*(OnlyDlpack(x) for x in (q, k, v))),
        lambda: regard.attention(*(jax.numpy.asarray(x) for x in (q, k, v))),
        lambda: regard.attention(q[..., ::-1], k[..., ::-1], v),
        lambda: Mask.keys(np.ones(1000, bool)) | Mask.causal(),
    ]
    references = [sys.getrefcount(x) for x in (q, k, v)]
    for call in calls:
        for _ in range(20):
            call()
        before = mib("VmRSS")
        for _ in range(300):
            call()
        # 300 results that were kept would be 60 MB.
        assert mib("VmRSS") - before < 20
    assert [sys.getrefcount(x) for x in (q, k, v)] == references


REFUSED = [
    (lambda q, k, v: (q.tolist(), k, v), TypeError, "`q` is a list; expected an array"),
    (lambda q, k, v: (q, None, v), TypeError, "`k` is a NoneType; expected an array"),
    (lambda q, k, v: (q.astype(int), k, v), TypeError, "`q` has dtype int64; expected float32, bfloat16, float16 or float64"),
    (lambda q, k, v: (q, k, v > 0), TypeError, "`v` has dtype bool"),
    (lambda q, k, v: (q.astype(complex), k, v), TypeError, "`q` has dtype complex128"),
    (lambda q, k, v: (q, k.astype(np.float64), v), TypeError, "`k` has dtype float64, `q` float32"),
    (lambda q, k, v: (q.astype(">f4"), k, v), TypeError, "its bytes are in the other order"),
    (lambda q, k, v: (q[0], k, v), ValueError, r"must all be \[batch, heads, seq, dim\].*q has shape \[4, 30, 16\]"),
    (lambda q, k, v: (q[0, 0, 0], k[0, 0, 0], v[0, 0, 0]), ValueError, "must all be"),
    (lambda q, k, v: (q[None], k[None], v[None]), ValueError, "`q` has 5 axes; expected at most 4"),
    (lambda q, k, v: (q[:1], k, v), ValueError, "the same batch size"),
    (lambda q, k, v: (q, k[:, :3], v[:, :3]), ValueError, "the 4 heads of q must be a multiple of the 3 of k and v"),
    (lambda q, k, v: (q, k[:, :0], v[:, :0]), ValueError, "multiple of the 0 of k and v"),
    (lambda q, k, v: (q, k[:, :2], v), ValueError, "k and v must have the same heads"),
    (lambda q, k, v: (q, k, v[:, :, :5]), ValueError, "the same length"),
    (lambda q, k, v: (q[..., :8], k, v), ValueError, "the same last axis"),
    (lambda q, k, v: (q[..., :0], k[..., :0], v), ValueError, "must not be empty"),
]


@pytest.mark.parametrize(("change", "error", "message"), REFUSED)
def test_arrays_that_do_not_fit(rng, change, error, message):
    with pytest.raises(error, match=message):
        regard.attention(*change(*arrays(rng)))


OPTIONS = [
    ({"mask": "cuasal"}, ValueError, "cuasal"),
    ({"mask": 7}, TypeError, "`mask` has dtype int64; expected booleans"),
    ({"mask": np.ones((30, 30))}, TypeError, "`mask` has dtype float64; expected booleans"),
    ({"mask": np.ones((30, 29), bool)}, ValueError, r"`mask` has shape \[30, 29\]; expected \[2, 4, 30, 30\]"),
    ({"mask": Mask.by_batch([Mask.causal()] * 2 + [Mask.full()])}, ValueError, "3"),
    ({"scale": float("nan")}, ValueError, "`scale` is NaN; expected a finite number"),
    ({"scale": "1"}, TypeError, "`scale` is a str; expected a number"),
    ({"softcap": -1.0}, ValueError, "softcap"),
    ({"softcap": float("inf")}, ValueError, "`softcap` is inf"),
    ({"softcap": 1e-300}, ValueError, "softcap is 1e-300, it must be positive, and it and 1 over it finite in f32"),
    ({"scale": True}, TypeError, "`scale` is a bool"),
    ({"scale": 10**400}, ValueError, "`scale` is beyond float64"),
    ({"copy": "no"}, TypeError, "`copy` is a str; expected True or False"),
    ({"alibi": [0.0, 1.0, float("nan"), 1.0]}, ValueError, "`alibi` holds NaN; expected slopes that are finite in float32"),
    ({"alibi": [1e300] * 4}, ValueError, "`alibi` holds 1e300"),
    ({"mask": np.ones((2, 1, 1, 29), bool)}, ValueError, r"`mask` has shape \[2, 1, 1, 29\]; expected .*, or 1 for any"),
    ({"alibi": [1.0]}, ValueError, "`alibi` has 1 numbers, expected 4"),
    ({"sinks": np.zeros((4, 1))}, ValueError, r"`sinks` has shape \[4, 1\]; expected \[heads\]"),
    ({"sinks": ["a"] * 4}, TypeError, "`sinks` holds a str; expected a sequence of numbers"),
    ({"bias": np.zeros((30, 29), np.float32)}, ValueError, r"`bias` has shape \[30, 29\]; expected \[2, 4, 30, 30\]"),
    ({"bias": np.zeros((3, 1, 1, 1), np.float32)}, ValueError, r"`bias` has shape \[3, 1, 1, 1\]"),
    ({"key_lengths": [3]}, ValueError, "`key_lengths` has batch 1, expected 2"),
    ({"key_lengths": [3, 31]}, ValueError, "31"),
    ({"key_lengths": [3, -1]}, ValueError, "`key_lengths` is -1; expected a whole number, not below 0"),
    ({"key_lengths": [3, 1.5]}, TypeError, "`key_lengths` is a float; expected a whole number"),
    ({"key_lengths": 3}, TypeError, "`key_lengths` is an int; expected a sequence"),
    ({"segments": [20, 10]}, ValueError, "`segments` are lengths in a batch of 2"),
    ({"segments": [(0, (0, 40), (0, 30))]}, ValueError, "segment of queries` has seq 40, expected at most 30"),
    ({"segments": [3], "key_lengths": [1, 1]}, ValueError, "`segments` have lengths of their own"),
    ({"segments": [(0, 1)]}, TypeError, "`segments` is a tuple; expected lengths, or tuples"),
    ({"segments": [5], "mask": np.ones((30, 30), bool)}, ValueError, "no meaning for segments"),
    ({"offset": 1.5}, TypeError, "`offset` is a float; expected a whole number"),
    ({"offset": [1, 2, 3]}, ValueError, "`offsets` has sequences 3, expected 2"),
    ({"dropout": 1.0, "seed": 1}, ValueError, "`dropout` is 1; expected a probability"),
    ({"dropout": 0.5, "seed": -1}, ValueError, "`seed` is -1"),
    ({"return_lse": 1}, TypeError, "`return_lse` is an int; expected True or False"),
    ({"sclae": 1.0}, TypeError, r"attention\(\) got an unexpected keyword argument 'sclae'"),
]


@pytest.mark.parametrize(("options", "error", "message"), OPTIONS)
def test_options_that_make_no_sense(rng, options, error, message):
    with pytest.raises(error, match=message):
        regard.attention(*arrays(rng), **options)


def test_tensors_that_cannot_be_read(rng):
    torch = pytest.importorskip("torch")
    q = torch.randn(1, 2, 5, 8)
    with pytest.raises(TypeError, match="`q` is on the device meta; expected the CPU"):
        regard.attention(q.to("meta"), q, q)
    with pytest.raises(TypeError, match="`k` has dtype torch.int64"):
        regard.attention(q, q.long(), q)
    with pytest.raises(TypeError, match="`v` has the layout torch.sparse_coo"):
        regard.attention(q, q, q.to_sparse())
    with pytest.raises(ValueError, match="`v` requires a gradient.*regard.torch"):
        regard.attention(q, q, q.clone().requires_grad_())
    with torch.no_grad():
        assert regard.attention(q, q, q.clone().requires_grad_()).shape == q.shape


def test_tensors_of_odd_memory(rng):
    torch = pytest.importorskip("torch")
    q, k, v = arrays(rng)
    expected = regard.attention(q, k, v)
    raw = b"x" + q.tobytes()
    odd = torch.from_numpy(np.frombuffer(bytearray(raw), np.float32, count=q.size, offset=1)).view(q.shape)
    assert odd.data_ptr() % 4 != 0
    k, v = torch.from_numpy(k), torch.from_numpy(v)
    assert (regard.attention(odd, k, v).numpy() == expected).all()
    with pytest.raises(ValueError, match="`q` is not aligned"):
        regard.attention(odd, k, v, copy=False)
    negated = torch._neg_view(-torch.from_numpy(q))
    assert (regard.attention(negated, k, v).numpy() == expected).all()
    gone = torch.from_numpy(q.copy()).clone()
    gone.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match="`q` has shape .*, but no memory behind it"):
        regard.attention(gone, k, v)


def test_options_that_would_lose_a_gradient(rng):
    torch = pytest.importorskip("torch")
    for name in ("sinks", "alibi"):
        with pytest.raises(ValueError, match=f"`{name}` requires a gradient"):
            regard.attention(*arrays(rng), **{name: torch.ones(4, requires_grad=True)})
        with pytest.raises(TypeError, match="is on the device meta"):
            regard.attention(*arrays(rng), **{name: torch.ones(4, device="meta")})


@pytest.mark.parametrize(
    "call",
    [
        lambda huge, q: regard.Mask.dense(huge),
        lambda huge, q: regard.Mask.keys(huge),
        lambda huge, q: regard.Mask.full().to_numpy(1 << 20, 1 << 20),
        lambda huge, q: regard.Mask.edges(np.broadcast_to(0, (1 << 40, 2))),
    ],
)
def test_what_does_not_fit_into_memory(rng, call):
    with pytest.raises(MemoryError):
        call(np.broadcast_to(np.True_, (1 << 20, 1 << 20)), arrays(rng)[0])


def test_what_is_huge_and_fits_nothing(rng):
    q, k, v = arrays(rng)
    with pytest.raises(ValueError, match="`mask` has shape"):
        regard.attention(q, k, v, np.broadcast_to(np.True_, (1 << 20, 1 << 20)))
    with pytest.raises(ValueError, match="`bias` has shape"):
        regard.attention(q, k, v, bias=np.broadcast_to(np.float64(0), (1 << 20, 1 << 20, 1, 1)))


def test_results_are_not_written_to_copies(rng):
    q, k, v = arrays(rng)

    class OnlyArray:
        def __array__(self, dtype=None, copy=None):
            return np.empty_like(q)

    with pytest.raises(TypeError, match="`out` is an OnlyArray"):
        regard.attention(q, k, v, out=OnlyArray())
    jax = pytest.importorskip("jax")
    with pytest.raises(ValueError, match="`out`"):
        regard.attention(q, k, v, out=jax.numpy.zeros(q.shape))


@pytest.mark.parametrize(
    ("function", "option"),
    [
        (regard.plan, {"bias": np.zeros((30, 30), np.float32)}),
        (regard.plan, {"sinks": [0.0] * 4}),
        (regard.plan, {"copy": False}),
        (regard.scores, {"dropout": 0.5}),
        (regard.scores, {"seed": 1}),
        (regard.scores, {"sequence_ids": [1, 2]}),
        (regard.attention, {"stage": "raw"}),
    ],
)
def test_options_of_other_functions(rng, function, option):
    q, k, v = arrays(rng)
    (name,) = option
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
        function(*((q, k) if function is regard.scores else (q, k, v)), **option)


class LyingDlpack(OnlyDlpack):
    def __dlpack__(self, **options):
        return 7


class OnGpu(OnlyDlpack):
    def __dlpack_device__(self):
        return (2, 0)


def test_exporters_that_lie(rng):
    q, k, v = arrays(rng)
    with pytest.raises(ValueError, match="`q`.__dlpack__.. gave an int, no capsule"):
        regard.attention(LyingDlpack(q), k, v)
    with pytest.raises(TypeError, match="`q` is on another device"):
        regard.attention(OnGpu(q), k, v)
    with pytest.raises(TypeError, match="DLPack's type code"):
        regard.attention(OnlyDlpack(q.astype(np.int32)), k, v)


def test_masked_nan_reaches_nothing(rng):
    q, k, v = arrays(rng)
    clean = regard.attention(q, k, v, "causal & window(5, inf)")
    k[:, :, 3], v[:, :, 3] = np.nan, np.inf
    out = regard.attention(q, k, v, "causal & window(5, inf)")
    sees = (np.arange(30) >= 3) & (np.arange(30) <= 8)
    assert np.isnan(out[:, :, sees]).all() and (out[:, :, ~sees] == clean[:, :, ~sees]).all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: regard.attention(np.ma.masked_array(x), x, x), TypeError, "`q` is a MaskedArray; .*`mask`"),
        (lambda x: regard.attention(x, x, x, "causal", offset=2**70), ValueError, "`offset` is 1180591620717411303424"),
        (lambda x: regard.attention(x, x, x, scale=1e300), ValueError, "scale is 1e300"),
        (lambda x: regard.attention(x, x, x, key_lengths=[True]), TypeError, "`key_lengths` is a bool"),
        (lambda x: regard.scores(x, x, rows=np.ones(5, bool)), TypeError, "`rows` is a bool"),
        (lambda x: regard.merge(1, 2), TypeError, "`a` is an int; expected a pair .out, lse."),
        (lambda x: regard.merge((x,), (x, x)), ValueError, "`a` has 1 parts; expected two"),
        (lambda x: regard.favor_attention(x, x, x, state=3), TypeError, "`state` is an int; expected a pair .sums"),
        (lambda x: regard.favor_attention(x, x, x, features=regard.FavorFeatures(9, 4)), ValueError, "of 9 numbers"),
        (lambda x: regard.Cache(-1, 8, capacity=4), ValueError, "`kv_heads` is -1"),
        (lambda x: regard.Cache(1, 8, capacity=2**70), ValueError, "`capacity` is 1180591620717411303424"),
        (lambda x: regard.Index(x[0, 0], links=1), ValueError, "links"),
        (lambda x: regard.Index(x[0, 0], seed=-1), ValueError, "`seed` is -1"),
        (lambda x: regard.set_num_threads(-1), ValueError, "`n` is -1"),
        (lambda x: regard.decode(x.astype(float), regard.Cache(2, 8, capacity=4)), TypeError, "`q` has dtype float64"),
    ],
)
def test_other_things_that_make_no_sense(rng, call, error, message):
    with pytest.raises(error, match=message):
        call(rng.standard_normal((1, 2, 5, 8), dtype=np.float32))
