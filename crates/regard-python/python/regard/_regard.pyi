"""The compiled half of the package: types of what :mod:`regard` offers."""

from collections.abc import Iterator, Sequence
from os import PathLike
from typing import Any, Literal, Protocol, SupportsIndex, TypeAlias, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

__version__: str

class _Dlpack(Protocol):
    """Anything with DLPack: tensors of PyTorch, arrays of JAX and NumPy."""

    def __dlpack__(self, **options: Any) -> Any: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...

_A = TypeVar("_A", bound=_Dlpack)
_Indices = Sequence[SupportsIndex] | NDArray[np.integer[Any]] | range
_Numbers = Sequence[float] | _Dlpack
_Mask: TypeAlias = "Mask | str | NDArray[np.bool_] | _Dlpack"
_Segments = Sequence[SupportsIndex] | Sequence[tuple[int, tuple[int, int], tuple[int, int]]]
_CacheDtype = Literal["float32", "bfloat16", "float16", "int8"]

@overload
def attention(
    q: _A,
    k: _Dlpack,
    v: _Dlpack,
    mask: _Mask | None = None,
    *,
    key_lengths: _Indices | None = None,
    query_lengths: _Indices | None = None,
    segments: _Segments | None = None,
    offset: SupportsIndex | _Indices | None = None,
    bias: _Dlpack | None = None,
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
    k: _Dlpack,
    v: _Dlpack,
    mask: _Mask | None = None,
    *,
    key_lengths: _Indices | None = None,
    query_lengths: _Indices | None = None,
    segments: _Segments | None = None,
    offset: SupportsIndex | _Indices | None = None,
    bias: _Dlpack | None = None,
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
def attention_backward(
    q: _A,
    k: _A,
    v: _A,
    out: _A,
    lse: _A,
    dout: _A,
    mask: _Mask | None = None,
    *,
    dlse: _A | None = None,
    bias_gradient: bool = True,
    key_lengths: _Indices | None = None,
    query_lengths: _Indices | None = None,
    segments: _Segments | None = None,
    offset: SupportsIndex | _Indices | None = None,
    bias: _Dlpack | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    alibi: _Numbers | None = None,
    sinks: _Numbers | None = None,
    dropout: float = 0.0,
    seed: int | None = None,
    sequence_ids: _Indices | None = None,
    copy: bool = True,
) -> Gradients: ...
def merge(a: tuple[_A, _A], b: tuple[_A, _A]) -> tuple[_A, _A]: ...
def scores(
    q: _A,
    k: _Dlpack,
    mask: _Mask | None = None,
    *,
    key_lengths: _Indices | None = None,
    query_lengths: _Indices | None = None,
    segments: _Segments | None = None,
    offset: SupportsIndex | _Indices | None = None,
    bias: _Dlpack | None = None,
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
    q: _Dlpack | Sequence[int],
    k: _Dlpack | Sequence[int],
    v: _Dlpack | Sequence[int],
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
def decode(
    q: _A,
    cache: Cache | PagedCache | Sequence[Cache] | Sequence[PagedCache],
    mask: _Mask | None = None,
    *,
    offset: SupportsIndex | _Indices | None = None,
    bias: _Dlpack | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    alibi: _Numbers | None = None,
    sinks: _Numbers | None = None,
    return_lse: bool = False,
    out: _A | None = None,
    copy: bool = True,
) -> Any: ...
def linear_attention(
    q: _A,
    k: _Dlpack,
    v: _Dlpack,
    *,
    rule: Literal["linear", "gated", "delta", "gated_delta"] = "linear",
    decay: _Dlpack | None = None,
    beta: _Dlpack | None = None,
    state: _Dlpack | None = None,
    scale: float | None = None,
    causal: bool = True,
    return_state: bool = False,
) -> Any: ...
def favor_attention(
    q: _A,
    k: _Dlpack,
    v: _Dlpack,
    *,
    features: int | FavorFeatures | None = None,
    seed: int = 0,
    scale: float | None = None,
    causal: bool = True,
    state: tuple[_Dlpack, _Dlpack] | None = None,
    return_state: bool = False,
) -> Any: ...
def set_num_threads(n: int) -> None: ...
def num_threads() -> int: ...
def machine() -> dict[str, Any]: ...

class Gradients:
    q: Any
    k: Any
    v: Any
    bias: Any | None
    sinks: Any | None
    def __iter__(self) -> Iterator[Any]: ...

class Plan:
    live_pairs: int
    density: float
    flops: float
    regimes: list[str]
    def __call__(self, q: _A, k: _Dlpack, v: _Dlpack, **options: Any) -> Any: ...

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
    def edges(pairs: Any, symmetric: bool = False) -> Mask: ...
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
    def allows(self, p: int, j: int, n_k: int) -> bool: ...
    def select(self, batch: int, head: int) -> Mask: ...
    def layout(self, n_q: int, n_k: int, offset: int | None = None) -> Layout: ...
    def to_numpy(self, n_q: int, n_k: int, offset: int | None = None, additive: bool = False) -> NDArray[Any]: ...
    def draw(self, n_q: int, n_k: int, offset: int | None = None) -> str: ...
    def svg(self, n_q: int, n_k: int, offset: int | None = None) -> str: ...
    def png(self, n_q: int, n_k: int, offset: int | None = None) -> bytes: ...

class Layout:
    density: float
    live_pairs: int
    cost: int
    shape: tuple[int, int]
    def svg(self) -> str: ...
    def png(self) -> bytes: ...

class Index:
    levels: list[int]
    mean_degree: float
    def __new__(cls, keys: _Dlpack, *, links: int = 16, ef_construction: int = 100, seed: int | None = None) -> Index: ...
    def layers(self, level: int) -> Mask: ...
    def hierarchy(self) -> Mask: ...
    def edges(self, symmetric: bool = False) -> Mask: ...
    def adaptive(self, window: int | None = None) -> Mask: ...
    def neighbours(self, level: int, node: int) -> list[int]: ...
    def __len__(self) -> int: ...

class Cache:
    capacity: int
    nbytes: int
    dtype: str
    def __new__(
        cls, kv_heads: int, dim: int, dim_v: int | None = None, *, capacity: int, dtype: _CacheDtype = "bfloat16"
    ) -> Cache: ...
    def append(self, k: _Dlpack, v: _Dlpack) -> None: ...
    def truncate(self, len: int) -> None: ...
    def fork(self) -> Cache: ...
    def __len__(self) -> int: ...

class PagePool:
    page: int
    pages: int
    used: int
    def __new__(
        cls, kv_heads: int, dim: int, dim_v: int | None = None, *, pages: int, dtype: _CacheDtype = "bfloat16"
    ) -> PagePool: ...

class PagedCache:
    pages: int
    dtype: str
    def __new__(cls, pool: PagePool) -> PagedCache: ...
    def append(self, k: _Dlpack, v: _Dlpack) -> None: ...
    def truncate(self, len: int) -> None: ...
    def fork(self) -> PagedCache: ...
    def __len__(self) -> int: ...

class FavorFeatures:
    dim: int
    count: int
    def __new__(cls, dim: int, count: int, seed: int = 0) -> FavorFeatures: ...

class Decoder:
    has_chat_template: bool
    context: int
    width: int
    architecture: str
    vocabulary: int
    threads: int
    nbytes: int
    blocks: int
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
        draft: Any | None = None,
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
        draft: Any | None = None,
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
    precision: str
    vocabulary: int
    normalized: bool
    architecture: str
    width: int
    threads: int
    context: int
    @staticmethod
    def load(
        path: str | PathLike[str], *, precision: str | None = None, threads: int | None = None, isa: str | None = None
    ) -> Encoder: ...
    def encode(self, texts: str | Sequence[str]) -> NDArray[np.float32]: ...
