"""The compiled half of the package: types of what :mod:`regard` offers."""

from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from typing import Any, ClassVar, Generic, Literal, Protocol, SupportsIndex, TypeAlias, TypedDict, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray
from typing_extensions import Buffer

__version__: str

class _Dlpack(Protocol):
    """Anything with DLPack: tensors of PyTorch, arrays of JAX and NumPy."""

    # Libraries differ in what these take.
    @property
    def __dlpack__(self) -> Callable[..., Any]: ...
    @property
    def __dlpack_device__(self) -> Callable[..., Any]: ...

class _Csr(Protocol):
    """A matrix of SciPy's in CSR form."""

    indptr: Any
    indices: Any

_A = TypeVar("_A", bound=_Dlpack)
_Array: TypeAlias = _Dlpack | Buffer
_Indices = Sequence[SupportsIndex] | NDArray[np.integer[Any]] | range
_Numbers = Sequence[float] | _Dlpack
_Mask: TypeAlias = "Mask | str | NDArray[np.bool_] | _Dlpack"
_Segments = Sequence[SupportsIndex] | Sequence[tuple[int, tuple[int, int], tuple[int, int]]]
_Edges: TypeAlias = "ArrayLike | tuple[ArrayLike, ArrayLike] | _Csr"
_CacheDtype = Literal["float32", "bfloat16", "float16", "int8"]

class _Machine(TypedDict):
    isa: str
    cores: int
    threads: int
    f32_gflops: float
    bf16_gflops: float | None
    read_gbs: float

@overload
def attention(
    q: _A,
    k: _Array,
    v: _Array,
    mask: _Mask | None = None,
    *,
    key_lengths: _Indices | None = None,
    query_lengths: _Indices | None = None,
    segments: _Segments | None = None,
    offset: SupportsIndex | _Indices | None = None,
    bias: _Array | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    alibi: _Numbers | None = None,
    sinks: _Numbers | None = None,
    dropout: float = 0.0,
    seed: int | None = None,
    sequence_ids: _Indices | None = None,
    return_lse: Literal[False] = False,
    out: _A | None = None,
    copy: bool = True,
) -> _A: ...
@overload
def attention(
    q: _A,
    k: _Array,
    v: _Array,
    mask: _Mask | None = None,
    *,
    key_lengths: _Indices | None = None,
    query_lengths: _Indices | None = None,
    segments: _Segments | None = None,
    offset: SupportsIndex | _Indices | None = None,
    bias: _Array | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    alibi: _Numbers | None = None,
    sinks: _Numbers | None = None,
    dropout: float = 0.0,
    seed: int | None = None,
    sequence_ids: _Indices | None = None,
    return_lse: Literal[True],
    out: _A | None = None,
    copy: bool = True,
) -> tuple[_A, _A]: ...
@overload
def attention(
    q: _A,
    k: _Array,
    v: _Array,
    mask: _Mask | None = None,
    *,
    key_lengths: _Indices | None = None,
    query_lengths: _Indices | None = None,
    segments: _Segments | None = None,
    offset: SupportsIndex | _Indices | None = None,
    bias: _Array | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    alibi: _Numbers | None = None,
    sinks: _Numbers | None = None,
    dropout: float = 0.0,
    seed: int | None = None,
    sequence_ids: _Indices | None = None,
    return_lse: bool,
    out: _A | None = None,
    copy: bool = True,
) -> _A | tuple[_A, _A]: ...
def attention_backward(
    q: _A,
    k: _Array,
    v: _Array,
    out: _Array,
    lse: _Array,
    dout: _Array,
    mask: _Mask | None = None,
    *,
    dlse: _Array | None = None,
    bias_gradient: bool = True,
    key_lengths: _Indices | None = None,
    query_lengths: _Indices | None = None,
    segments: _Segments | None = None,
    offset: SupportsIndex | _Indices | None = None,
    bias: _Array | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    alibi: _Numbers | None = None,
    sinks: _Numbers | None = None,
    dropout: float = 0.0,
    seed: int | None = None,
    sequence_ids: _Indices | None = None,
    copy: bool = True,
) -> Gradients[_A]: ...
def merge(a: tuple[_A, _A], b: tuple[_A, _A]) -> tuple[_A, _A]: ...
def scores(
    q: _A,
    k: _Array,
    mask: _Mask | None = None,
    *,
    key_lengths: _Indices | None = None,
    query_lengths: _Indices | None = None,
    segments: _Segments | None = None,
    offset: SupportsIndex | _Indices | None = None,
    bias: _Array | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    alibi: _Numbers | None = None,
    sinks: _Numbers | None = None,
    stage: Literal["raw", "softcap", "biased", "weights"] = "weights",
    batch: SupportsIndex | _Indices | None = None,
    heads: SupportsIndex | _Indices | None = None,
    rows: SupportsIndex | _Indices | None = None,
    copy: bool = True,
) -> _A: ...
def plan(
    q: _Array | Sequence[int],
    k: _Array | Sequence[int],
    v: _Array | Sequence[int],
    mask: _Mask | None = None,
    *,
    key_lengths: _Indices | None = None,
    query_lengths: _Indices | None = None,
    segments: _Segments | None = None,
    offset: SupportsIndex | _Indices | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    dropout: float = 0.0,
    seed: int | None = None,
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = "float32",
) -> Plan: ...
@overload
def decode(
    q: _A,
    cache: Cache | PagedCache | Sequence[Cache] | Sequence[PagedCache],
    mask: _Mask | None = None,
    *,
    offset: SupportsIndex | _Indices | None = None,
    bias: _Array | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    alibi: _Numbers | None = None,
    sinks: _Numbers | None = None,
    return_lse: Literal[False] = False,
    out: _A | None = None,
    copy: bool = True,
) -> _A: ...
@overload
def decode(
    q: _A,
    cache: Cache | PagedCache | Sequence[Cache] | Sequence[PagedCache],
    mask: _Mask | None = None,
    *,
    offset: SupportsIndex | _Indices | None = None,
    bias: _Array | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    alibi: _Numbers | None = None,
    sinks: _Numbers | None = None,
    return_lse: Literal[True],
    out: _A | None = None,
    copy: bool = True,
) -> tuple[_A, _A]: ...
@overload
def decode(
    q: _A,
    cache: Cache | PagedCache | Sequence[Cache] | Sequence[PagedCache],
    mask: _Mask | None = None,
    *,
    offset: SupportsIndex | _Indices | None = None,
    bias: _Array | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    alibi: _Numbers | None = None,
    sinks: _Numbers | None = None,
    return_lse: bool,
    out: _A | None = None,
    copy: bool = True,
) -> _A | tuple[_A, _A]: ...
@overload
def prefix_attention(
    q: _A,
    k: _Array,
    v: _Array,
    prefix_k: _Array,
    prefix_v: _Array,
    mask: _Mask | None = None,
    *,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: _Numbers | None = None,
    return_lse: Literal[False] = False,
    out: _A | None = None,
    copy: bool = True,
) -> _A: ...
@overload
def prefix_attention(
    q: _A,
    k: _Array,
    v: _Array,
    prefix_k: _Array,
    prefix_v: _Array,
    mask: _Mask | None = None,
    *,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: _Numbers | None = None,
    return_lse: Literal[True],
    out: _A | None = None,
    copy: bool = True,
) -> tuple[_A, _A]: ...
@overload
def prefix_attention(
    q: _A,
    k: _Array,
    v: _Array,
    prefix_k: _Array,
    prefix_v: _Array,
    mask: _Mask | None = None,
    *,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: _Numbers | None = None,
    return_lse: bool,
    out: _A | None = None,
    copy: bool = True,
) -> _A | tuple[_A, _A]: ...
@overload
def linear_attention(
    q: _A,
    k: _Array,
    v: _Array,
    *,
    rule: Literal["linear", "gated", "delta", "gated_delta"] = "linear",
    decay: _Array | None = None,
    beta: _Array | None = None,
    state: _Array | None = None,
    scale: float | None = None,
    causal: bool = True,
    return_state: Literal[False] = False,
) -> _A: ...
@overload
def linear_attention(
    q: _A,
    k: _Array,
    v: _Array,
    *,
    rule: Literal["linear", "gated", "delta", "gated_delta"] = "linear",
    decay: _Array | None = None,
    beta: _Array | None = None,
    state: _Array | None = None,
    scale: float | None = None,
    causal: bool = True,
    return_state: Literal[True],
) -> tuple[_A, _A]: ...
@overload
def linear_attention(
    q: _A,
    k: _Array,
    v: _Array,
    *,
    rule: Literal["linear", "gated", "delta", "gated_delta"] = "linear",
    decay: _Array | None = None,
    beta: _Array | None = None,
    state: _Array | None = None,
    scale: float | None = None,
    causal: bool = True,
    return_state: bool,
) -> _A | tuple[_A, _A]: ...
def linear_attention_backward(
    q: _A,
    k: _Array,
    v: _Array,
    dout: _Array,
    *,
    rule: Literal["linear", "gated", "delta", "gated_delta"] = "linear",
    decay: _Array | None = None,
    beta: _Array | None = None,
    state: _Array | None = None,
    scale: float | None = None,
    causal: bool = True,
    dstate: _Array | None = None,
) -> LinearGradients[_A]: ...
@overload
def favor_attention(
    q: _A,
    k: _Array,
    v: _Array,
    *,
    features: SupportsIndex | FavorFeatures | None = None,
    seed: int | None = None,
    scale: float | None = None,
    causal: bool = True,
    state: tuple[_Array, _Array] | None = None,
    return_state: Literal[False] = False,
) -> _A: ...
@overload
def favor_attention(
    q: _A,
    k: _Array,
    v: _Array,
    *,
    features: SupportsIndex | FavorFeatures | None = None,
    seed: int | None = None,
    scale: float | None = None,
    causal: bool = True,
    state: tuple[_Array, _Array] | None = None,
    return_state: Literal[True],
) -> tuple[_A, tuple[_A, _A]]: ...
@overload
def favor_attention(
    q: _A,
    k: _Array,
    v: _Array,
    *,
    features: SupportsIndex | FavorFeatures | None = None,
    seed: int | None = None,
    scale: float | None = None,
    causal: bool = True,
    state: tuple[_Array, _Array] | None = None,
    return_state: bool,
) -> _A | tuple[_A, tuple[_A, _A]]: ...
def favor_attention_backward(
    q: _A,
    k: _Array,
    v: _Array,
    dout: _Array,
    *,
    features: SupportsIndex | FavorFeatures | None = None,
    seed: int | None = None,
    scale: float | None = None,
    causal: bool = True,
    state: tuple[_Array, _Array] | None = None,
    dstate: _Array | None = None,
) -> LinearGradients[_A]: ...
def retrieve(
    q: _A,
    k: _Array,
    v: _Array,
    count: SupportsIndex,
    *,
    width: SupportsIndex | None = None,
    sight: Literal["all", "filtered", "grown"] = "all",
    window: tuple[SupportsIndex | None, SupportsIndex | None] | None = None,
    first: SupportsIndex = 0,
    scale: float | None = None,
    indexes: Sequence[Index] | None = None,
    links: SupportsIndex = 16,
    ef_construction: SupportsIndex = 100,
    seed: int | None = None,
) -> Retrieved[_A]: ...
def select(
    q: _Array,
    k: _Array,
    *,
    by: Literal["pooled", "estimated", "exact"] = "pooled",
    blocks: SupportsIndex | None = None,
    share: float | None = None,
    mass: float | None = None,
    window: float | None = None,
    size: SupportsIndex = 64,
    causal: bool = True,
    scale: float | None = None,
) -> Mask: ...
def set_num_threads(n: int) -> None: ...
def num_threads() -> int: ...
def machine() -> _Machine: ...

class Gradients(Generic[_A]):
    @property
    def q(self) -> _A: ...
    @property
    def k(self) -> _A: ...
    @property
    def v(self) -> _A: ...
    @property
    def bias(self) -> _A | None: ...
    @property
    def sinks(self) -> _A | None: ...
    def __iter__(self) -> Iterator[_A]: ...

class LinearGradients(Generic[_A]):
    @property
    def q(self) -> _A: ...
    @property
    def k(self) -> _A: ...
    @property
    def v(self) -> _A: ...
    @property
    def decay(self) -> _A | None: ...
    @property
    def beta(self) -> _A | None: ...
    @property
    def state(self) -> _A: ...
    def __iter__(self) -> Iterator[_A]: ...

class Retrieved(Generic[_A]):
    @property
    def out(self) -> _A: ...
    @property
    def lse(self) -> _A: ...
    @property
    def scans(self) -> int: ...
    def keys(self, batch: SupportsIndex, head: SupportsIndex, query: SupportsIndex) -> list[int]: ...

class Plan:
    @property
    def live_pairs(self) -> int: ...
    @property
    def density(self) -> float: ...
    @property
    def flops(self) -> float: ...
    @property
    def regimes(self) -> list[str]: ...
    @overload
    def __call__(
        self,
        q: _A,
        k: _Array,
        v: _Array,
        *,
        bias: _Array | None = None,
        alibi: _Numbers | None = None,
        sinks: _Numbers | None = None,
        sequence_ids: _Indices | None = None,
        return_lse: Literal[False] = False,
        out: _A | None = None,
        copy: bool = True,
    ) -> _A: ...
    @overload
    def __call__(
        self,
        q: _A,
        k: _Array,
        v: _Array,
        *,
        bias: _Array | None = None,
        alibi: _Numbers | None = None,
        sinks: _Numbers | None = None,
        sequence_ids: _Indices | None = None,
        return_lse: Literal[True],
        out: _A | None = None,
        copy: bool = True,
    ) -> tuple[_A, _A]: ...
    @overload
    def __call__(
        self,
        q: _A,
        k: _Array,
        v: _Array,
        *,
        bias: _Array | None = None,
        alibi: _Numbers | None = None,
        sinks: _Numbers | None = None,
        sequence_ids: _Indices | None = None,
        return_lse: bool,
        out: _A | None = None,
        copy: bool = True,
    ) -> _A | tuple[_A, _A]: ...

class Mask:
    def __new__(cls, expression: str) -> Mask: ...
    @staticmethod
    def full() -> Mask: ...
    @staticmethod
    def causal() -> Mask: ...
    @staticmethod
    def window(left: int | None, right: int | None) -> Mask: ...
    @staticmethod
    def global_keys(indices: _Indices) -> Mask: ...
    @staticmethod
    def global_queries(indices: _Indices) -> Mask: ...
    @staticmethod
    def keys(kept: ArrayLike) -> Mask: ...
    @staticmethod
    def block_diagonal(size: int) -> Mask: ...
    @staticmethod
    def strided(step: int) -> Mask: ...
    @staticmethod
    def random(density: float, seed: int) -> Mask: ...
    @staticmethod
    def prefix(n: int) -> Mask: ...
    @staticmethod
    def edges(pairs: _Edges, symmetric: bool = False) -> Mask: ...
    @staticmethod
    def blocks(block_mask: ArrayLike, size: int) -> Mask: ...
    @staticmethod
    def dense(array: ArrayLike) -> Mask: ...
    @staticmethod
    def by_batch(masks: Sequence[Mask]) -> Mask: ...
    @staticmethod
    def by_head(masks: Sequence[Mask]) -> Mask: ...
    def __or__(self, other: Mask) -> Mask: ...
    def __and__(self, other: Mask) -> Mask: ...
    def __invert__(self) -> Mask: ...
    def __hash__(self) -> int: ...
    def allows(self, p: int, j: int, n_k: int) -> bool: ...
    def select(self, batch: int, head: int) -> Mask: ...
    def layout(self, n_q: int, n_k: int, offset: int | None = None) -> Layout: ...
    def to_numpy(self, n_q: int, n_k: int, offset: int | None = None, additive: bool = False) -> NDArray[Any]: ...
    def draw(self, n_q: int, n_k: int, offset: int | None = None) -> str: ...
    def svg(self, n_q: int, n_k: int, offset: int | None = None) -> str: ...
    def png(self, n_q: int, n_k: int, offset: int | None = None) -> bytes: ...

class Layout:
    @property
    def density(self) -> float: ...
    @property
    def live_pairs(self) -> int: ...
    @property
    def cost(self) -> int: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    def svg(self) -> str: ...
    def png(self) -> bytes: ...

class Index:
    @property
    def levels(self) -> list[int]: ...
    @property
    def mean_degree(self) -> float: ...
    @property
    def dim(self) -> int: ...
    def __new__(
        cls, keys: _Array, *, links: SupportsIndex = 16, ef_construction: SupportsIndex = 100, seed: int | None = None
    ) -> Index: ...
    def nearest(self, queries: _Array, count: SupportsIndex, width: SupportsIndex | None = None) -> NDArray[np.int64]: ...
    def layers(self, level: int) -> Mask: ...
    def hierarchy(self) -> Mask: ...
    def edges(self, symmetric: bool = False) -> Mask: ...
    def adaptive(self, window: int | None = None) -> Mask: ...
    def neighbours(self, level: int, node: int) -> list[int]: ...
    def __len__(self) -> int: ...

class Cache:
    @property
    def capacity(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def dtype(self) -> str: ...
    def __new__(
        cls, kv_heads: int, dim: int, dim_v: int | None = None, *, capacity: int, dtype: _CacheDtype = "bfloat16"
    ) -> Cache: ...
    def append(self, k: _Array, v: _Array) -> None: ...
    def truncate(self, len: int) -> None: ...
    def fork(self) -> Cache: ...
    def __len__(self) -> int: ...

class PagePool:
    page: ClassVar[int]
    @property
    def pages(self) -> int: ...
    @property
    def used(self) -> int: ...
    def __new__(
        cls, kv_heads: int, dim: int, dim_v: int | None = None, *, pages: int, dtype: _CacheDtype = "bfloat16"
    ) -> PagePool: ...

class PagedCache:
    @property
    def pages(self) -> int: ...
    @property
    def dtype(self) -> str: ...
    def __new__(cls, pool: PagePool) -> PagedCache: ...
    def append(self, k: _Array, v: _Array) -> None: ...
    def truncate(self, len: int) -> None: ...
    def fork(self) -> PagedCache: ...
    def __len__(self) -> int: ...

class FavorFeatures:
    @property
    def dim(self) -> int: ...
    @property
    def count(self) -> int: ...
    @property
    def rows(self) -> NDArray[np.float32]: ...
    def __new__(cls, dim: int, count: int, seed: int = 0) -> FavorFeatures: ...

class Decoder:
    @property
    def has_chat_template(self) -> bool: ...
    @property
    def context(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def architecture(self) -> str: ...
    @property
    def vocabulary(self) -> int: ...
    @property
    def threads(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def blocks(self) -> int: ...
    @staticmethod
    def load(path: str | PathLike[str], *, threads: int | None = None, isa: str | None = None) -> Decoder: ...
    def generate(
        self,
        prompt: str | Sequence[dict[str, str]],
        *,
        max_tokens: int = 512,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repeat_penalty: float | None = None,
        repeat_last_n: int = 64,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        raw: bool = False,
        json_schema: Any | None = None,
        draft: Decoder | None = None,
        context: int | None = None,
        cache_dtype: _CacheDtype = "float16",
    ) -> str: ...
    def stream(
        self,
        prompt: str | Sequence[dict[str, str]],
        *,
        max_tokens: int = 512,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repeat_penalty: float | None = None,
        repeat_last_n: int = 64,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        raw: bool = False,
        json_schema: Any | None = None,
        draft: Decoder | None = None,
        context: int | None = None,
        cache_dtype: _CacheDtype = "float16",
    ) -> Stream: ...
    def logits(self, ids: _Indices, *, cache_dtype: _CacheDtype = "float32") -> NDArray[np.float32]: ...
    def perplexity(
        self, text: str, *, context: int = 512, windows: int | None = None, cache_dtype: _CacheDtype = "float16"
    ) -> float: ...
    def tokenize(self, text: str, *, sequence: bool = True, special: bool = False) -> list[int]: ...
    def detokenize(self, ids: _Indices) -> str: ...

class Stream:
    def __iter__(self) -> Stream: ...
    def __next__(self) -> str: ...
    def close(self) -> None: ...

class Encoder:
    @property
    def precision(self) -> str: ...
    @property
    def vocabulary(self) -> int: ...
    @property
    def normalized(self) -> bool: ...
    @property
    def architecture(self) -> str: ...
    @property
    def width(self) -> int: ...
    @property
    def threads(self) -> int: ...
    @property
    def context(self) -> int: ...
    @staticmethod
    def load(
        path: str | PathLike[str], *, precision: str | None = None, threads: int | None = None, isa: str | None = None
    ) -> Encoder: ...
    def encode(self, texts: str | Sequence[str]) -> NDArray[np.float32]: ...
