from os import PathLike
from typing import Any, Literal, TypeAlias, TypedDict, TypeVar

import numpy as np
from numpy.typing import NDArray

from regard._regard import Mask, _Dlpack, _Indices

__all__ = [
    "AdamW",
    "Embedding",
    "FeedForward",
    "FlashAttention",
    "LanguageModel",
    "LanguageState",
    "Layer",
    "Linear",
    "LinearAttention",
    "LocalGlobalAttention",
    "Module",
    "MultiHeadAttention",
    "MultiHeadCache",
    "Norm",
    "SharedAttentionContext",
    "State",
    "StateSpace",
    "Streaming",
    "Trainer",
    "TransformerBlock",
]

_A = TypeVar("_A", bound=_Dlpack)
_Path: TypeAlias = str | PathLike[str]
_Rule = Literal["linear", "gated", "gated_by_channel", "delta", "gated_delta"]
_Mixer = Literal["softmax", "linear", "gated", "gated_by_channel", "delta", "gated_delta", "state_space"]
_Objective = Literal["causal", "denoising"]
_Precision = Literal["float32", "bfloat16"]

class Module:
    parameters: dict[str, NDArray[np.float32]]
    @property
    def gradients(self) -> dict[str, NDArray[np.float32]]: ...
    @property
    def num_parameters(self) -> int: ...
    def zero_gradients(self) -> None: ...
    def load_state_dict(self, state: Any, *, strict: bool = True) -> None: ...
    def reset(self) -> None: ...
    def save(self, path: _Path) -> None: ...
    def load(self, path: _Path) -> None: ...

class Layer(Module):
    def __call__(self, x: _A) -> _A: ...
    def forward(self, x: _A) -> _A: ...
    def backward(self, dy: _Dlpack) -> Any: ...

class State:
    def clear(self) -> None: ...
    def __len__(self) -> int: ...

class Streaming(Layer):
    def state(self, batch: int = 1, *, capacity: int = 1024) -> State: ...
    def stream(self, x: _A, state: State) -> _A: ...

class Linear(Layer):
    def __new__(cls, inputs: int, outputs: int, *, bias: bool = True, seed: int = 0) -> Linear: ...

class Norm(Layer):
    def __new__(cls, dim: int, *, kind: Literal["rms", "layer"] = "rms", eps: float = 1e-05) -> Norm: ...

class FeedForward(Layer):
    def __new__(
        cls,
        dim: int,
        hidden: int,
        *,
        activation: Literal["silu", "gelu", "gelu_tanh"] = "silu",
        gated: bool = True,
        bias: bool = False,
        seed: int = 0,
    ) -> FeedForward: ...

class Embedding(Layer):
    def __new__(cls, count: int, dim: int, *, std: float = 1.0, seed: int = 0) -> Embedding: ...

class FlashAttention(Streaming):
    def __new__(
        cls,
        dim: int,
        heads: int,
        *,
        kv_heads: int | None = None,
        dim_k: int | None = None,
        dim_v: int | None = None,
        mask: Mask | str | None = None,
        scale: float | None = None,
        softcap: float | None = None,
        rotary: float | None = None,
        sinks: bool = False,
        bias: bool = False,
        out_bias: bool | None = None,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> FlashAttention: ...

class LinearAttention(Streaming):
    def __new__(
        cls,
        dim: int,
        heads: int,
        *,
        kv_heads: int | None = None,
        dim_k: int | None = None,
        dim_v: int | None = None,
        rule: _Rule = "linear",
        causal: bool = True,
        rotary: float | None = None,
        seed: int = 0,
    ) -> LinearAttention: ...

class StateSpace(Streaming):
    def __new__(
        cls,
        dim: int,
        heads: int,
        *,
        head_dim: int | None = None,
        groups: int = 1,
        state: int = 64,
        taps: int = 4,
        eps: float = 1e-05,
        seed: int = 0,
    ) -> StateSpace: ...

class LocalGlobalAttention(Layer):
    @property
    def indices(self) -> list[int]: ...
    def __new__(
        cls,
        dim: int,
        heads: int,
        *,
        kv_heads: int | None = None,
        dim_k: int | None = None,
        dim_v: int | None = None,
        window: int = 64,
        causal: bool = False,
        joint: bool = False,
        indices: _Indices = (),
        seed: int = 0,
    ) -> LocalGlobalAttention: ...
    def set_indices(self, indices: _Indices) -> None: ...

class MultiHeadCache:
    def clear(self) -> None: ...
    def __len__(self) -> int: ...

class MultiHeadAttention(Layer):
    def __new__(
        cls,
        dim: int,
        heads: int,
        *,
        dim_out: int | None = None,
        share_kv_across_n_heads: int = 1,
        dim_k: int | None = None,
        dim_v: int | None = None,
        mask: Mask | str | None = None,
        scale: float | None = None,
        bias: bool = False,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> MultiHeadAttention: ...
    def __call__(
        self,
        x: _A,
        *,
        kv: _Dlpack | None = None,
        keys: _Dlpack | None = None,
        values: _Dlpack | None = None,
        cache: MultiHeadCache | None = None,
        reuse_first_head_kv: bool = False,
        add_input: bool = False,
        batch_chunk: int | None = None,
    ) -> _A: ...
    def forward(
        self,
        x: _A,
        *,
        kv: _Dlpack | None = None,
        keys: _Dlpack | None = None,
        values: _Dlpack | None = None,
        reuse_first_head_kv: bool = False,
        add_input: bool = False,
    ) -> _A: ...
    def cache(self, batch: int = 1, *, capacity: int = 1024, first_head: bool = False) -> MultiHeadCache: ...
    def write(self, kv: _Dlpack, cache: MultiHeadCache) -> None: ...
    def stream(self, x: _A, cache: MultiHeadCache) -> _A: ...

class SharedAttentionContext(Layer):
    matrix: Any
    def __new__(cls, dim: int, *, inlets: int = 1) -> SharedAttentionContext: ...
    def __call__(self, x: _A, *, inlet: int = 0) -> _A: ...
    def forward(self, x: _A, *, inlet: int = 0) -> _A: ...
    def observe(self, x: _Dlpack, y: _Dlpack) -> None: ...
    def update(self) -> None: ...
    def forget(self) -> None: ...

class TransformerBlock(Streaming):
    def __new__(
        cls,
        dim: int,
        heads: int,
        *,
        hidden: int | None = None,
        mixer: _Mixer | Literal["local_global"] = "softmax",
        norm: Literal["rms", "layer"] = "rms",
        norm_eps: float = 1e-05,
        activation: Literal["silu", "gelu", "gelu_tanh"] = "silu",
        gated: bool = True,
        hidden_bias: bool = False,
        seed: int = 0,
        **settings: Any,
    ) -> TransformerBlock: ...
    def set_indices(self, indices: _Indices) -> None: ...

class LanguageState:
    def clear(self) -> None: ...
    def __len__(self) -> int: ...

class LanguageModel(Module):
    def __new__(
        cls,
        vocabulary: int,
        dim: int,
        *,
        layers: int = 4,
        heads: int = 4,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        hidden: int | None = None,
        mixer: _Mixer = "softmax",
        objective: _Objective = "causal",
        eps: float = 1e-05,
        rotary: float = 10000.0,
        tied: bool = True,
        shared_context: bool = False,
        dropout: float = 0.0,
        precision: _Precision = "float32",
        seed: int = 0,
    ) -> LanguageModel: ...
    def __call__(self, tokens: Any) -> Any: ...
    def loss(self, tokens: Any, targets: Any = None, *, weights: Any = None) -> float: ...
    def learn(self, tokens: Any, targets: Any = None, *, weights: Any = None, recompute: bool = False) -> float: ...
    def update_context(self) -> None: ...
    def state(self, batch: int = 1, *, capacity: int = 1024) -> LanguageState: ...
    def stream(self, tokens: Any, state: LanguageState) -> Any: ...
    def generate(
        self,
        tokens: _Indices,
        *,
        max_tokens: int = 64,
        temperature: float = 0.8,
        top_k: int = 40,
        top_p: float = 0.95,
        min_p: float = 0.05,
        seed: int = 0,
    ) -> list[int]: ...
    def save(self, path: _Path) -> None: ...
    def load(self, path: _Path) -> None: ...

class AdamW:
    rate: float
    @property
    def steps(self) -> int: ...
    def __new__(
        cls,
        *modules: Module,
        rate: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-08,
        decay: float = 0.1,
        clip: float | None = 1.0,
    ) -> AdamW: ...
    def step(self) -> float: ...
    def save(self, path: _Path) -> None: ...
    def load(self, path: _Path) -> None: ...

class _Step(TypedDict):
    step: int
    loss: float
    gradient_norm: float
    rate: float
    skipped: str | None

class Trainer:
    @property
    def model(self) -> LanguageModel: ...
    @property
    def steps(self) -> int: ...
    @property
    def tokens_of_step(self) -> int: ...
    def __new__(
        cls,
        vocabulary: int,
        dim: int,
        *,
        batch: int = 8,
        tokens: int = 128,
        accumulation: int = 1,
        rate: float = 0.002,
        warmup: int = 100,
        steps: int = 1000,
        last: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.95),
        adam_eps: float = 1e-08,
        decay: float = 0.1,
        clip: float | None = 1.0,
        recompute: bool = False,
        not_finite: Literal["stop", "skip"] = "stop",
        precision: _Precision = "float32",
        seed: int = 0,
        **settings: Any,
    ) -> Trainer: ...
    def step(self, text: _Indices) -> _Step: ...
    def evaluate(self, text: _Indices, *, windows: int = 16) -> float: ...
    def save_model(self, path: _Path) -> None: ...
    def save_state(self, path: _Path) -> None: ...
    def restore(self, model: _Path, state: _Path) -> None: ...
