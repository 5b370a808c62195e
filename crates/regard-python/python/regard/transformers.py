"""Hugging Face: models that attend by Regard.

>>> import regard.transformers
>>> regard.transformers.register()
>>> from transformers import AutoModelForCausalLM
>>> model = AutoModelForCausalLM.from_pretrained("…", attn_implementation="regard")  # doctest: +SKIP

Causal, padded, windowed, chunked and packed sequences, grouped heads, softcaps and sinks; static and dynamic caches; in
generation and in training. A mask costs what it keeps: it is not written out, as long as it is made of the parts that
transformers itself makes masks of. Sentence-transformers takes ``model_kwargs={"attn_implementation": "regard"}``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor
from transformers import masking_utils

from regard._regard import Mask, scores
from regard.torch import Made, attend, autocast, is_traced, operation, refuse_transforms

__all__ = ["NAME", "register"]

#: What ``attn_implementation`` is to be.
NAME = "regard"

#: Segments of a packed batch entry, at most, that are a union of squares; more of them are written out.
_MOST_SEGMENTS = 256


def register() -> None:
    """Makes ``attn_implementation="regard"`` known to transformers. More than once is as good as once."""
    transformers.AttentionInterface.register(NAME, _attend)
    transformers.AttentionMaskInterface.register(NAME, _mask)


def _mask(**call: Any) -> Tensor | None:
    """The mask of a pass through the model: once for all layers of a kind. It is called as transformers' ``sdpa_mask`` is.

    What attention is to see is said by a :class:`regard.Mask` that hangs on a tensor, since models hand on tensors. A mask that
    is made of unknown parts is written out as for PyTorch.
    """
    write = functools.partial(
        masking_utils.sdpa_mask, **(call | {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False})
    )
    batch, kv_length, kv_offset = call["batch_size"], call["kv_length"], call.get("kv_offset", 0)
    # What hangs on a tensor is not seen by who traces.
    first = None if is_traced() else _first_position(call)
    seen = None
    if first is not None:
        seen = _translate(call.get("mask_function", masking_utils.causal_mask_function), batch, kv_offset)
    if first is None or seen is None:
        return write()
    if call.get("attention_mask") is not None:
        kept = call["attention_mask"][:, kv_offset : kv_offset + kv_length].bool()
        if kept.shape[1] < kv_length:
            kept = torch.nn.functional.pad(kept, (0, kv_length - kept.shape[1]))
        seen = seen if bool(kept.all()) else seen & Mask.keys(kept)
    # Transformers 4 says no more than each query's position, and hands the mask as it is to what may be compiled.
    positions = call.get("cache_position")
    shape = (batch, 1, call["q_length"] if positions is None else len(positions), kv_length)
    carrier = _Carrier.of(_Seen(seen, None, {"offset": first - kv_offset}), shape, write)
    return carrier if positions is None else carrier._as_tensor()


def _first_position(call: dict[str, Any]) -> int | None:
    """Where the first query stands; None where the others do not follow it. Transformers 4 says each query's position."""
    if "cache_position" not in call:
        return int(call.get("q_offset", 0))
    positions = call["cache_position"]
    follow = len(positions) > 0 and int(positions[-1] - positions[0]) == len(positions) - 1
    return int(positions[0]) if follow else None


class _Seen(NamedTuple):
    """What a layer's attention is to see."""

    mask: Mask | None
    bias: Tensor | None
    options: dict[str, Any]


class _Kept(Tensor):
    """Booleans of a mask, as long as they are such: who adds them to scores, as numbers, has not asked for them."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        name = func.__name__
        result = None if name in _WEIGHING else super().__torch_function__(func, types, args, kwargs or {})
        converted = isinstance(result, Tensor) and result.dtype != torch.bool
        if name in _WEIGHING or (converted and result.is_floating_point() and name in _CONVERTING):
            raise ValueError(
                "this model weighs scores by its mask itself instead of calling the attention that it was loaded with: "
                'load it with attn_implementation="eager"'
            )
        return result.as_subclass(Tensor) if converted else result


_WEIGHING = {"add", "__add__", "__radd__", "add_", "__iadd__", "baddbmm", "sub", "__sub__", "rsub", "__rsub__"}
_WEIGHING |= {"mul", "__mul__", "__rmul__", "masked_fill", "masked_fill_"}
_CONVERTING = {"to", "type", "type_as", "float", "double", "half", "bfloat16"}

#: What is asked of a tensor without looking at its numbers.
_OUTSIDE = {
    *(getter.__get__ for getter in (Tensor.shape, Tensor.dtype, Tensor.device, Tensor.ndim, Tensor.requires_grad)),
    *(Tensor.dim, Tensor.size, Tensor.stride, Tensor.is_floating_point, torch.is_floating_point),
}


class _Carrier(Tensor):
    """A mask of booleans ``[batch, 1, queries, keys]`` that is written out for who looks into it, and only then."""

    _regard: _Seen | None
    _write: Callable[[], Tensor]

    @classmethod
    def of(cls, seen: _Seen, shape: tuple[int, ...], write: Callable[[], Tensor]) -> _Carrier:
        carrier = torch.empty((), dtype=torch.bool).expand(shape).as_subclass(cls)
        carrier._regard, carrier._write = seen, functools.cache(write)
        return carrier

    def _as_tensor(self) -> Tensor:
        """A plain tensor that carries the same, without rows: it cannot be taken for a mask that is written out."""
        with torch._C.DisableTorchFunctionSubclass():
            carrier = torch.empty(*self.shape[:2], 0, self.shape[3], dtype=torch.bool)
        carrier._regard, carrier._write = self._regard, self._write
        return carrier

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in _OUTSIDE:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        if func is Tensor.contiguous:
            # Generation asks for that before it hands a mask to what may be compiled, where classes of tensors are in the way.
            return args[0]._as_tensor()
        written = lambda x: x._write().as_subclass(_Kept) if isinstance(x, cls) else x  # noqa: E731
        carriers = [x for x in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(x, cls)]
        before = [x._write()._version for x in carriers]
        args, kwargs = torch.utils._pytree.tree_map(written, (args, kwargs))
        result = func(*args, **kwargs)
        for carrier, version in zip(carriers, before, strict=True):
            if carrier._write()._version != version:
                # It was written to: what was seen is no more.
                carrier._regard = None
        return result


@torch.compiler.disable
def _write_beside(carrier: Any) -> Tensor:
    """The mask written out, where it was made before what is compiled, as generation with a static cache does."""
    return carrier._write()


def _kept_keys(kept: Tensor) -> Mask:
    """The keys ``[batch, keys]`` that are no padding."""
    return Mask.full() if bool(kept.all()) else Mask.keys(kept)


def _translate(function: Callable, batch: int, kv_offset: int) -> Mask | None:
    """The mask of a function of transformers', over keys from ``kv_offset`` on; None where it is not known."""
    if function is masking_utils.causal_mask_function:
        return Mask.causal()
    if function is getattr(masking_utils, "bidirectional_mask_function", None):
        return Mask.full()
    name = getattr(function, "__qualname__", "").partition(".")[0]
    module = getattr(function, "__module__", "")
    if module != masking_utils.__name__ or not getattr(function, "__closure__", None):
        return None
    inside = dict(zip(function.__code__.co_freevars, (cell.cell_contents for cell in function.__closure__), strict=True))
    translate = functools.partial(_translate, batch=batch, kv_offset=kv_offset)
    if name in ("and_masks", "or_masks"):
        parts = [translate(part) for part in inside["mask_functions"]]
        if any(part is None for part in parts):
            return None
        join = (lambda a, b: a & b) if name == "and_masks" else (lambda a, b: a | b)
        return functools.reduce(join, parts)
    if name == "sliding_window_overlay":
        return Mask.window(inside["sliding_window"] - 1, None)
    if name == "sliding_window_bidirectional_overlay":
        return Mask.window(inside["sliding_window"], inside["sliding_window"])
    # The others are of places in the text, and not of distances.
    if kv_offset != 0:
        return None
    if name == "chunked_overlay" and not bool(inside["left_padding"].any()):
        return Mask.block_diagonal(inside["chunk_size"])
    if name == "packed_sequence_mask_function":
        return _segments(inside["packed_sequence_mask"])
    if name == "remap_positions_for_packed_sequence" and _is_of_distances(inside["mask_function"]):
        # Beside the mask above: within a sequence distances are those in the text.
        return translate(inside["mask_function"])
    return None


def _is_of_distances(function: Callable) -> bool:
    """Whether a function of transformers' knows nothing of places but how far they are apart."""
    if function is masking_utils.causal_mask_function:
        return True
    name = getattr(function, "__qualname__", "").partition(".")[0]
    if name in ("and_masks", "or_masks"):
        (parts,) = (cell.cell_contents for cell in function.__closure__)
        return all(map(_is_of_distances, parts))
    return name in ("sliding_window_overlay", "sliding_window_bidirectional_overlay")


def _segments(numbers: Tensor) -> Mask | None:
    """Tokens ``[batch, seq]`` that see those of their own number, of which the numbers ascend."""
    if bool((numbers == numbers[:, :1]).all()):
        return Mask.full()
    entries = []
    for entry in numbers:
        _, lengths = torch.unique_consecutive(entry, return_counts=True)
        ends = lengths.cumsum(0).tolist()
        if len(ends) > _MOST_SEGMENTS:
            return None
        squares = []
        for start, end in zip([0, *ends], ends, strict=False):
            rows = range(start, end)
            squares.append(Mask.global_queries(rows) & Mask.global_keys(rows))
        entries.append(functools.reduce(lambda a, b: a | b, squares))
    return Mask.by_batch(entries)


def _seen_by(mask: Tensor, query: Tensor, key: Tensor) -> _Seen:
    """What a mask that is a tensor ``[batch, heads, queries, keys]`` says, as a mask or as numbers to be added."""
    cut = mask[..., : key.shape[-2]]
    expected = [*query.shape[:-1], key.shape[-2]]
    if cut.dim() != 4 or any(has not in (1, extent) for has, extent in zip(cut.shape, expected, strict=True)):
        raise ValueError(f"the attention mask has shape {list(cut.shape)}; expected {expected}, or 1 on some axis")
    kept = None if mask.requires_grad else _written_out.of(mask, expected, lambda: _of_written_out(cut, expected))
    return _Seen(None, cut, {}) if kept is None else _Seen(kept, None, {})


def _of_written_out(mask: Tensor, expected: list[int]) -> Mask | None:
    """A mask that is written out; None if it is numbers to be added."""
    if mask.dtype == torch.bool:
        if mask.shape[1] == 1 and (mask.shape[2] == 1 or mask.stride(2) == 0):
            return _kept_keys(mask[:, 0, 0].expand(expected[0], -1))
        return Mask.dense(mask.expand(-1, -1, *expected[2:]))
    rows = mask[:, :, :1]
    lowest = torch.finfo(mask.dtype).min
    # Padding alone, written out for each query: the same row, of zeros and what is as good as −∞, never all of a row.
    if mask.shape[1] == 1 and bool(((rows == 0) | (rows <= lowest)).all()):
        kept = rows[:, 0, 0] == 0
        if bool(kept.any(-1).all()) and bool((mask == rows).all()):
            return _kept_keys(kept.expand(expected[0], -1))
    return None


_written_out = Made()

#: What changes what a layer attends to, and Regard does not know: the layer expects its attention to heed it.
_UNKNOWN = ("head_mask", "cache", "indices", "block_indices", "sinks")


def _attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention of a layer: ``[batch, heads, seq, dim]`` gives ``[batch, seq, heads, dim]``."""
    for name in _UNKNOWN:
        if kwargs.get(name) is not None:
            raise ValueError(f'attn_implementation="regard" takes no {name}: load the model with "eager" or "sdpa"')
    options: dict[str, Any] = {}
    bias, mask = None, None
    traced = is_traced()
    if attention_mask is None:
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        if causal:
            mask = "causal" if sliding_window is None else f"causal & window({sliding_window - 1}, inf)"
    elif not traced:
        mask, bias, options = getattr(attention_mask, "_regard", None) or _seen_by(attention_mask, query, key)
    options = dict(options)
    if position_bias is not None:
        bias = position_bias if bias is None else bias + position_bias
    sinks = None if s_aux is None else s_aux.to(query.dtype).flatten()
    if traced:
        if kwargs.get("output_attentions"):
            raise ValueError(
                'attn_implementation="regard" gives no attentions where it is compiled: load the model with "eager"'
            )
        if attention_mask is not None:
            if getattr(attention_mask, "_write", None) is not None:
                attention_mask = _write_beside(attention_mask)
            attention_mask = attention_mask[..., : key.shape[-2]]
            if bias is not None and attention_mask.is_floating_point():
                attention_mask, bias = attention_mask + bias, None
        tensors = autocast(query, key, value, attention_mask)
        terms = {"bias": bias, "sinks": sinks, "softcap": softcap, "mask": mask}
        return operation(*tensors, dropout, False, scaling, True, **terms).transpose(1, 2), None
    refuse_transforms('attn_implementation="regard"')
    query, key, value, bias = autocast(query, key, value, bias)
    if scaling is not None:
        options["scale"] = float(scaling)
    if softcap is not None:
        options["softcap"] = float(softcap)
    if dropout > 0:
        options |= {"dropout": dropout, "seed": int(torch.randint(2**62, ()))}
    batch, heads, queries, _ = query.shape
    out = torch.empty(batch, queries, heads, value.shape[-1], dtype=query.dtype)
    result = attend(query, key, value, bias, sinks, mask, False, out.transpose(1, 2), options)
    weights = None
    if kwargs.get("output_attentions"):
        with torch.no_grad():
            options.pop("dropout", None), options.pop("seed", None)
            weights = scores(query, key, mask, bias=bias, sinks=sinks, **options).to(query.dtype)
    return result.transpose(1, 2), weights
