"""PyTorch: attention on the CPU by Regard, with gradients.

:func:`scaled_dot_product_attention` has PyTorch's own signature and meaning. :func:`attention` is :func:`regard.attention`
with gradients: its masks, sinks, softcap, lengths and log-sum-exp; :func:`linear_attention` and :func:`favor_attention` are
those of :mod:`regard` with gradients. All work under ``torch.no_grad`` and in what ``torch.compile`` compiles, the first as one
operation of its graph and the others between two graphs; the first two under ``torch.autocast`` too.

>>> import torch, regard.torch
>>> q, k, v = torch.randn(3, 2, 8, 100, 64, requires_grad=True).unbind()
>>> out = regard.torch.scaled_dot_product_attention(q, k, v, is_causal=True)
>>> out.sum().backward()
>>> model = torch.nn.TransformerEncoderLayer(64, 4, batch_first=True)
>>> with regard.torch.patched():
...     out = model(torch.randn(2, 10, 64))
"""

from __future__ import annotations

import contextlib
import functools
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.bias import CausalBias
from torch.utils.weak import WeakTensorKeyDictionary

from regard import _regard

__all__ = ["attention", "favor_attention", "linear_attention", "patched", "scaled_dot_product_attention"]

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def _beside_graphs(function: Callable[..., Any]) -> Callable[..., Any]:
    """What a compiled graph is broken for: it calls the function as it is."""
    beside = torch.compiler.disable(function)

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        return beside(*arguments, **options) if torch.compiler.is_compiling() else function(*arguments, **options)

    return call


@_beside_graphs
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Any = None,
    *,
    bias: Tensor | None = None,
    sinks: Tensor | None = None,
    return_lse: bool = False,
    out: Tensor | None = None,
    **options: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    """:func:`regard.attention` of tensors, with gradients of ``q``, ``k``, ``v``, ``bias``, ``sinks`` and the log-sum-exp.

    Args:
        q, k, v, mask, bias, sinks, options: as :func:`regard.attention` takes them.
        return_lse: also return the log-sum-exps ``[batch, heads, queries]``. The result keeps the type of the query.
        out: a tensor of the result's shape and type to write it to, where no gradient is wanted.

    >>> import torch, regard
    >>> q, k, v = torch.randn(3, 1, 4, 50, 32, requires_grad=True).unbind()
    >>> out, lse = regard.torch.attention(q, k, v, regard.Mask.causal(), sinks=torch.zeros(4), return_lse=True)
    >>> (out.sum() + lse.sum()).backward()
    """
    refuse_transforms("regard.torch.attention")
    if out is not None and _wants_gradient(q, k, v, bias, sinks):
        # Gradients are made of the result, which the caller could write to unnoticed.
        raise ValueError("`out` is for calls without gradients: leave it out, or call under torch.no_grad()")
    for name, option in options.items():
        if _wants_gradient(option):
            raise ValueError(f"`{name}` requires a gradient, which this function has not: .detach() it")
    return attend(*autocast(q, k, v, bias), sinks, mask, return_lse, out, options)


def _is_transformed() -> bool:
    """Whether ``torch.func`` or forward-mode differentiation looks into what is called: they know operations of PyTorch's."""
    return torch._C._functorch.maybe_current_level() is not None or torch.autograd.forward_ad._current_level >= 0


def is_traced() -> bool:
    """Whether something writes down which operations are called, or calls them with tensors that have no numbers."""
    compiled = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return compiled or (torch._C._len_torch_dispatch_stack() > 0 and not _is_transformed())


#: Modes under which operations are not what they seem; under others, that count or print them, calls may pass unseen.
_TRACERS = (torch._C._TorchDispatchModeKey.FAKE, torch._C._TorchDispatchModeKey.PROXY)


def refuse_transforms(name: str) -> None:
    modes = torch._C._len_torch_dispatch_stack() > 0
    traced = modes and any(torch._C._get_dispatch_mode(key) is not None for key in _TRACERS)
    if traced or torch.jit.is_tracing() or _is_transformed():
        raise NotImplementedError(
            f"{name} is nothing that torch.func, forward-mode differentiation, make_fx and torch.jit.trace can look "
            "into; scaled_dot_product_attention is"
        )


def _wants_gradient(*inputs: Any) -> bool:
    if torch.is_grad_enabled():
        for x in inputs:
            if isinstance(x, Tensor) and x.requires_grad:
                return True
    return False


def _once(backward: Callable[..., tuple]) -> Callable[..., tuple]:
    """Gradients that refuse to be differentiated, also where it is the saved inputs alone that they depend on."""

    @functools.wraps(backward)
    def once(ctx, *gradients):
        with torch.no_grad():
            results = backward(ctx, *gradients)
        if not torch.is_grad_enabled():
            return results
        given = [at for at, result in enumerate(results) if isinstance(result, Tensor)]
        refuse = torch._C._functions.DelayedError(b"second derivatives of Regard's attention are not implemented", len(given))
        refused = refuse(*(results[at].detach().requires_grad_() for at in given))
        results = list(results)
        for at, result in zip(given, refused if len(given) > 1 else [refused], strict=True):
            results[at] = result
        return tuple(results)

    return once


def attend(q, k, v, bias, sinks, mask, return_lse, out, options) -> Any:
    """:func:`attention` as it is without autocast; whoever hands it an ``out`` and wants gradients writes to that no more."""
    if _wants_gradient(q, k, v, bias, sinks):
        out, lse = _Attention.apply(q, k, v, bias, sinks, mask, options, out)
        return (out, lse) if return_lse else out
    if bias is not None:
        options = options | {"bias": bias}
    if sinks is not None:
        options = options | {"sinks": sinks}
    if return_lse and out is None:
        out = torch.empty(*q.shape[:-1], v.shape[-1], dtype=q.dtype)
    return _regard.attention(q, k, v, mask, return_lse=return_lse, out=out, **options)


def autocast(*inputs: Tensor | None) -> tuple[Tensor | None, ...]:
    """Under ``torch.autocast``, these as PyTorch has them in its list of what is computed in less."""
    if not torch.is_autocast_enabled("cpu"):
        return inputs
    dtype = torch.get_autocast_dtype("cpu")
    less = lambda x: isinstance(x, Tensor) and x.is_floating_point() and x.dtype != torch.float64  # noqa: E731
    return tuple(x.to(dtype) if less(x) else x for x in inputs)


class _Attention(torch.autograd.Function):
    """The call as a node of the graph of gradients."""

    @staticmethod
    def forward(ctx, q, k, v, bias, sinks, mask, options, out):
        out = torch.empty(*q.shape[:-1], v.shape[-1], dtype=q.dtype) if out is None else out
        terms = {"bias": bias, "sinks": sinks}
        out, lse = _regard.attention(q, k, v, mask, return_lse=True, out=out, **terms, **options)
        ctx.save_for_backward(q, k, v, bias, sinks, out, lse)
        # What flows back is PyTorch's, in whatever layout.
        ctx.mask, ctx.options = mask, {name: option for name, option in options.items() if name != "copy"}
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    @_once
    def backward(ctx, dout, dlse):
        q, k, v, bias, sinks, out, lse = ctx.saved_tensors
        if dout is None:
            dout = torch.zeros((), dtype=out.dtype).expand(out.shape)
        gradients = _regard.attention_backward(
            *(q, k, v, out, lse, dout, ctx.mask),
            dlse=dlse,
            bias=bias,
            sinks=sinks,
            bias_gradient=ctx.needs_input_grad[3],
            **ctx.options,
        )
        # Those of bias and sinks are in float32, whatever these are in.
        dbias = gradients.bias.to(bias.dtype) if ctx.needs_input_grad[3] else None
        dsinks = gradients.sinks.to(sinks.dtype) if ctx.needs_input_grad[4] else None
        return *gradients, dbias, dsinks, None, None, None


@_beside_graphs
def linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    rule: str = "linear",
    decay: Tensor | None = None,
    beta: Tensor | None = None,
    state: Tensor | None = None,
    scale: float | None = None,
    causal: bool = True,
    return_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """:func:`regard.linear_attention` of tensors, with gradients of ``q``, ``k``, ``v``, ``decay``, ``beta`` and ``state``.

    Gradients are of float32, bfloat16 and float16.

    >>> import torch, regard.torch
    >>> q, k, v = torch.randn(3, 1, 4, 100, 16, requires_grad=True).unbind()
    >>> decay = torch.nn.functional.logsigmoid(torch.randn(1, 4, 100, 1, requires_grad=True))
    >>> out, state = regard.torch.linear_attention(q, k, v, rule="gated", decay=decay, return_state=True)
    >>> (out.sum() + state.sum()).backward()
    """
    refuse_transforms("regard.torch.linear_attention")
    options = {"rule": rule, "scale": scale, "causal": causal}
    if _wants_gradient(q, k, v, decay, beta, state):
        out, after = _Linear.apply(q, k, v, decay, beta, state, options)
    else:
        given = {"decay": decay, "beta": beta, "state": state}
        out, after = _regard.linear_attention(q, k, v, **given, **options, return_state=True)
    return (out, after) if return_state else out


class _Linear(torch.autograd.Function):
    """A call of linear attention as a node of the graph of gradients."""

    @staticmethod
    def forward(ctx, q, k, v, decay, beta, state, options):
        _refuse_wide(q)
        ctx.save_for_backward(q, k, v, decay, beta, state)
        ctx.options = options
        ctx.set_materialize_grads(False)
        out, after = _regard.linear_attention(q, k, v, decay=decay, beta=beta, state=state, **options, return_state=True)
        ctx.shape = out.shape
        return out, after

    @staticmethod
    @_once
    def backward(ctx, dout, dstate):
        q, k, v, decay, beta, state = ctx.saved_tensors
        dout = q.new_zeros(()).expand(ctx.shape) if dout is None else dout
        given = {"decay": decay, "beta": beta, "state": state}
        gradients = _regard.linear_attention_backward(q, k, v, dout, **given, **ctx.options, dstate=dstate)
        dq, dk, dv = (of.to(x.dtype) for of, x in zip(gradients, (q, k, v), strict=True))
        return dq, dk, dv, gradients.decay, gradients.beta, gradients.state if state is not None else None, None


def _refuse_wide(q: Tensor) -> None:
    if q.dtype == torch.float64:
        raise TypeError(
            "q has dtype torch.float64; gradients of linear attention are of float32, bfloat16 and float16: convert it"
        )


@_beside_graphs
def favor_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    features: int | _regard.FavorFeatures | None = None,
    seed: int | None = None,
    scale: float | None = None,
    causal: bool = True,
) -> Tensor:
    """:func:`regard.favor_attention` of tensors, with gradients of ``q``, ``k`` and ``v``.

    Gradients are of float32, bfloat16 and float16, and are those of the estimate with these features.

    >>> import torch, regard.torch
    >>> q, k, v = torch.randn(3, 1, 4, 100, 16, requires_grad=True).unbind()
    >>> regard.torch.favor_attention(q, k, v, features=64).sum().backward()
    """
    refuse_transforms("regard.torch.favor_attention")
    options = {"features": features, "seed": seed, "scale": scale, "causal": causal}
    if _wants_gradient(q, k, v):
        return _Favor.apply(q, k, v, options)
    return _regard.favor_attention(q, k, v, **options)


class _Favor(torch.autograd.Function):
    """A call of FAVOR+ as a node of the graph of gradients."""

    @staticmethod
    def forward(ctx, q, k, v, options):
        _refuse_wide(q)
        ctx.save_for_backward(q, k, v)
        ctx.options = options
        return _regard.favor_attention(q, k, v, **options)

    @staticmethod
    @_once
    def backward(ctx, dout):
        q, k, v = ctx.saved_tensors
        gradients = _regard.favor_attention_backward(q, k, v, dout, **ctx.options)
        return *(of.to(x.dtype) for of, x in zip(gradients, (q, k, v), strict=True)), None


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """``torch.nn.functional.scaled_dot_product_attention`` on the CPU, computed by Regard.

    Args:
        query: ``[..., heads, queries, dim]``.
        key: ``[..., kv_heads, keys, dim]``.
        value: ``[..., kv_heads, keys, dim_v]``.
        attn_mask: booleans, True where a query sees a key, or numbers that are added to the scores; broadcast to
            ``[..., heads, queries, keys]``.
        dropout_p: the share of weights that fall; drawn from PyTorch's generator.
        is_causal: query ``i`` sees keys up to ``i`` (top left).
        scale: of the scores; ``1/√dim`` unless given.
        enable_gqa: heads of the query may be a multiple of those of key and value.

    Under ``torch.func`` and in forward-mode differentiation PyTorch's own computes. A query that sees no key has the result 0.
    """
    return _compute(_pytorch, query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)


_pytorch = torch.nn.functional.scaled_dot_product_attention


def _compute(beneath, query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa) -> Tensor:
    """By Regard; by ``beneath`` where what looks into operations asks for its."""
    if not (isinstance(query, Tensor) and isinstance(key, Tensor) and isinstance(value, Tensor)):
        given = {"query": query, "key": key, "value": value}
        name = next(name for name, x in given.items() if not isinstance(x, Tensor))
        raise TypeError(f"{name} is a {type(given[name]).__name__}; expected a torch.Tensor")
    query, key, value, attn_mask = autocast(query, key, value, attn_mask)
    traced = is_traced()
    if dropout_p == 1 or (not traced and _is_transformed()):
        # Where nothing is left PyTorch's own gives zeros with their gradients.
        return beneath(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    if traced:
        return operation(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
    seed = int(torch.randint(2**62, ())) if dropout_p > 0 else None
    q, k, v, mask, bias, options = _arguments(query, key, value, attn_mask, dropout_p, seed, is_causal, scale, enable_gqa)
    out = attend(q, k, v, bias, None, mask, False, None, options)
    return out if q is query else out.reshape(*_shape(query, key, value, enable_gqa), value.shape[-1])


def _arguments(query, key, value, attn_mask, dropout_p, seed, is_causal, scale, enable_gqa):
    """PyTorch's arguments as Regard's, with at most four axes."""
    if not 0 <= dropout_p <= 1:
        raise ValueError(f"dropout_p is {dropout_p}; expected a probability, from 0 to 1")
    if query.dim() < 2 or key.dim() < 2 or value.dim() < 2:
        raise ValueError(
            f"query, key and value have {query.dim()}, {key.dim()} and {value.dim()} axes; expected at least 2, [..., seq, dim]"
        )
    if is_causal and attn_mask is not None:
        raise ValueError("attn_mask and is_causal exclude each other: put the triangle into the mask")
    if attn_mask is not None and attn_mask.dtype != torch.bool and not attn_mask.is_floating_point():
        raise TypeError(f"attn_mask has dtype {attn_mask.dtype}; expected torch.bool, or numbers that are added to the scores")
    shapes = query.shape, key.shape, value.shape
    if query.dim() == key.dim() == value.dim() == 4 and shapes[0][0] == shapes[1][0] == shapes[2][0]:
        batch = shapes[0][:1]
    else:
        query, key, value = (x.unsqueeze(0) if x.dim() == 2 else x for x in (query, key, value))
        try:
            batch = torch.broadcast_shapes(*(shape[:-3] for shape in (query.shape, key.shape, value.shape)))
        except RuntimeError:
            each = [list(shape) for shape in shapes]
            raise ValueError(
                f"query, key and value have the shapes {each[0]}, {each[1]} and {each[2]}; batches differ"
            ) from None
        query, key, value = (x.expand(*batch, -1, -1, -1) for x in (query, key, value))
        shapes = query.shape, key.shape, value.shape
    heads = shapes[0][-3]
    if not enable_gqa and not heads == shapes[1][-3] == shapes[2][-3]:
        each = [shape[-3] for shape in shapes]
        heads = max(each)
        if not all(x in (1, heads) for x in each):
            raise ValueError(
                f"query, key and value have {each[0]}, {each[1]} and {each[2]} heads; expected as many, or one, "
                "or with enable_gqa=True a number of key heads that divides that of query heads"
            )
        query, key, value = (x.expand(*batch, heads, -1, -1) for x in (query, key, value))
    elif shapes[1][-3] != shapes[2][-3]:
        # Each of them divides the query's by itself.
        both = math.lcm(shapes[1][-3], shapes[2][-3])
        if both == 0 or heads % both != 0:
            raise ValueError(f"query has {heads} heads, which key's {shapes[1][-3]} and value's {shapes[2][-3]} do not divide")
        key, value = (x.repeat_interleave(both // x.shape[-3], -3) for x in (key, value))
    q, k, v = (x.flatten(0, -4) for x in (query, key, value)) if len(batch) > 1 else (query, key, value)
    options: dict[str, Any] = {}
    if scale is not None:
        options["scale"] = scale
    if dropout_p > 0:
        options |= {"dropout": dropout_p, "seed": seed}
    if is_causal:
        return q, k, v, _CAUSAL, None, options | {"offset": 0}
    if attn_mask is None:
        return q, k, v, None, None, options
    # To as many axes as the scores; those of one batch axis.
    shape = (*batch, heads, q.shape[-2], k.shape[-2])
    given = attn_mask
    while attn_mask.dim() < len(shape):
        attn_mask = attn_mask.unsqueeze(0)
    if len(batch) > 1:
        one = all(extent == 1 for extent in attn_mask.shape[: len(batch)])
        attn_mask = attn_mask.reshape(1, *attn_mask.shape[-3:]) if one else attn_mask.expand(*batch, -1, -1, -1).flatten(0, -4)
    fits = all(has in (1, expected) for has, expected in zip(attn_mask.shape[-3:], shape[-3:], strict=True))
    if not fits or attn_mask.dim() > 4:
        raise ValueError(f"attn_mask has shape {list(given.shape)}, which does not broadcast to {list(shape)}")
    if attn_mask.dtype != torch.bool:
        return q, k, v, None, attn_mask, options
    mask = _masks.of(given, shape, lambda: _mask_of(attn_mask, q.shape[-2], k.shape[-2]))
    return q, k, v, mask, None, options


_CAUSAL = _regard.Mask.causal()


def _mask_of(kept: Tensor, n_q: int, n_k: int) -> _regard.Mask:
    """The mask of booleans whose axes may be 1."""
    if kept.shape[-3] == 1 and kept.shape[-2] == 1 and n_q != 1:
        return _regard.Mask.keys(kept.expand(*kept.shape[:-1], n_k).reshape(-1, n_k))
    return _regard.Mask.dense(kept.expand(*kept.shape[:-2], n_q, n_k))


class Made:
    """What was made of tensors, for as long as these live and hold the same numbers: a model gives all layers one mask.

    The numbers are compared: a tensor may change without its version, through an array that shares its memory.
    """

    def __init__(self) -> None:
        self._known = WeakTensorKeyDictionary()

    def of(self, tensor: Tensor, call: Any, make: Callable[[], Any]) -> Any:
        """What ``make`` gives of the tensor in such a call. It must not hold the tensor, which would never die."""
        # What is broadcast is held once.
        numbers = tensor.detach()[tuple(slice(1) if stride == 0 else slice(None) for stride in tensor.stride())]
        known = self._known.get(tensor)
        if known is not None and known[0] == call and torch.equal(known[1], numbers):
            return known[2]
        made = make()
        self._known[tensor] = (call, numbers.clone(), made)
        return made


_masks = Made()


def operation(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
    *,
    bias: Tensor | None = None,
    sinks: Tensor | None = None,
    softcap: float | None = None,
    mask: str | None = None,
) -> Tensor:
    """The call as one operation of PyTorch's, which those who look into calls do not look into.

    Args:
        bias, sinks, softcap: as :func:`regard.attention` takes them; a bias beside an ``attn_mask`` of booleans.
        mask: the expression of a :class:`regard.Mask`, instead of an ``attn_mask``.
    """
    seed = torch.randint(2**62, (), dtype=torch.int64) if dropout_p > 0 else None
    tensors = (query, key, value, attn_mask, bias, sinks, seed)
    return _op(*tensors, dropout_p, is_causal, scale, enable_gqa, softcap, mask)[0]


@torch.library.custom_op("regard::scaled_dot_product_attention", mutates_args=(), device_types="cpu")
def _op(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None,
    bias: Tensor | None,
    sinks: Tensor | None,
    seed: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
    softcap: float | None,
    expression: str | None,
) -> tuple[Tensor, Tensor]:
    """What a compiled graph holds: one node, which the compiler does not look into."""
    call = (dropout_p, is_causal, scale, enable_gqa, softcap, expression)
    q, k, v, mask, added, options = _of_operation(query, key, value, attn_mask, bias, seed, *call)
    with torch.no_grad():
        out, lse = attend(q, k, v, added, sinks, mask, True, None, options)
    shape = _shape(query, key, value, enable_gqa)
    return out.reshape(*shape, value.shape[-1]), lse.reshape(shape)


def _of_operation(query, key, value, attn_mask, bias, seed, dropout_p, is_causal, scale, enable_gqa, softcap, expression):
    """The operation's arguments as Regard's."""
    drawn = None if seed is None else int(seed)
    arguments = _arguments(query, key, value, attn_mask, dropout_p, drawn, is_causal, scale, enable_gqa)
    q, k, v, mask, added, options = arguments
    if softcap is not None:
        options["softcap"] = softcap
    return q, k, v, expression if mask is None else mask, bias if added is None else added, options


def _shape(query: Tensor, key: Tensor, value: Tensor, enable_gqa: bool) -> tuple[int, ...]:
    """``[..., heads, queries]`` of the result."""
    if enable_gqa:
        batch = torch.broadcast_shapes(query.shape[:-3], key.shape[:-3], value.shape[:-3])
        return (*batch, *query.shape[-3:-1])
    return (*torch.broadcast_shapes(query.shape[:-2], key.shape[:-2], value.shape[:-2]), query.shape[-2])


@_op.register_fake
def _(query, key, value, attn_mask, bias, sinks, seed, dropout_p, is_causal, scale, enable_gqa, softcap, expression):
    shape = _shape(query, key, value, enable_gqa)
    lse = query.new_empty(shape, dtype=torch.float64 if query.dtype == torch.float64 else torch.float32)
    return query.new_empty(*shape, value.shape[-1]), lse


@torch.library.custom_op("regard::scaled_dot_product_attention_backward", mutates_args=(), device_types="cpu")
def _op_backward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None,
    bias: Tensor | None,
    sinks: Tensor | None,
    seed: Tensor | None,
    out: Tensor,
    lse: Tensor,
    dout: Tensor,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
    softcap: float | None,
    expression: str | None,
    bias_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    call = (dropout_p, is_causal, scale, enable_gqa, softcap, expression)
    q, k, v, mask, added, options = _of_operation(query, key, value, attn_mask, bias, seed, *call)
    out, dout = (x.reshape(*q.shape[:-1], v.shape[-1]) for x in (out, dout))
    terms = {"bias": added, "sinks": sinks, "bias_gradient": bias_gradient}
    gradients = _regard.attention_backward(q, k, v, out, lse.reshape(q.shape[:-1]), dout, mask, **terms, **options)
    dq, dk, dv = gradients
    batch = torch.broadcast_shapes(query.shape[:-3], key.shape[:-3], value.shape[:-3])

    def back(gradient, x):
        """With the batch axes that were flattened, and the sum of what flowed to the copies of what was broadcast."""
        lead = batch if gradient.dim() < 4 or gradient.shape[0] == math.prod(batch) else [1] * len(batch)
        return gradient.reshape(*lead, *gradient.shape[-3:]).sum_to_size(x.shape).to(x.dtype).clone()

    dbias = back(gradients.bias, _numbers(attn_mask, bias)) if bias_gradient else query.new_empty(0)
    dsinks = query.new_empty(0) if sinks is None else gradients.sinks.to(sinks.dtype)
    return back(dq, query), back(dk, key), back(dv, value), dbias, dsinks


def _numbers(attn_mask: Tensor | None, bias: Tensor | None) -> Tensor | None:
    """What is added to the scores."""
    return attn_mask if attn_mask is not None and attn_mask.is_floating_point() else bias


@_op_backward.register_fake
def _(query, key, value, attn_mask, bias, sinks, seed, out, lse, dout, *call):
    # Contiguous, whatever the layout of the inputs.
    numbers = _numbers(attn_mask, bias)
    dbias = numbers.new_empty(numbers.shape) if call[-1] else query.new_empty(0)
    dsinks = query.new_empty(0) if sinks is None else sinks.new_empty(sinks.shape)
    return *(x.new_empty(x.shape) for x in (query, key, value)), dbias, dsinks


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:7], *output)
    ctx.call = inputs[7:]
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, dout, _):
    *inputs, out, lse = ctx.saved_tensors
    attn_mask, bias = inputs[3:5]
    numbers = _numbers(attn_mask, bias)
    at = 3 if numbers is attn_mask else 4
    bias_gradient = numbers is not None and ctx.needs_input_grad[at]
    dq, dk, dv, dbias, dsinks = _op_backward(*inputs, out, lse, dout, *ctx.call, bias_gradient)
    dnumbers = [dbias if bias_gradient and at == axis else None for axis in (3, 4)]
    return dq, dk, dv, *dnumbers, dsinks if ctx.needs_input_grad[5] else None, *[None] * (1 + len(ctx.call))


_op.register_autograd(_backward, setup_context=_setup_context)


_PLAIN = (Tensor, torch.nn.Parameter, type(None))

_lock = threading.Lock()
_patches = 0
# What is called while there are any, and what was called before.
_patch = _beneath = _pytorch


@contextlib.contextmanager
def patched() -> Iterator[None]:
    """Models that call ``torch.nn.functional.scaled_dot_product_attention`` use Regard's within ``with patched():``.

    Tensors on other devices, of types that attention is not computed in, and of classes that see to it themselves go to
    PyTorch's own as before. The patch is that of the whole process; several may be nested, and in several threads. What
    imported the function by ``from torch.nn.functional import …`` has its own name for it and is not reached, nor are
    ``MultiheadAttention`` and ``TransformerEncoderLayer`` in evaluation without gradients, which call no Python.
    """
    global _patches, _patch, _beneath
    with _lock:
        if _patches == 0:
            _beneath = torch.nn.functional.scaled_dot_product_attention
            _patch = torch.nn.functional.scaled_dot_product_attention = _patch_over(_beneath)
        _patches += 1
    try:
        yield
    finally:
        with _lock:
            _patches -= 1
            # Whoever has patched it since sees to its own end.
            if _patches == 0 and torch.nn.functional.scaled_dot_product_attention is _patch:
                torch.nn.functional.scaled_dot_product_attention = _beneath


def _patch_over(beneath: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """What models call for PyTorch's own, or for what somebody patched it by before, ``beneath``."""

    def dispatch(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
        arguments = (query, key, value, attn_mask, dropout_p, is_causal)
        if isinstance(attn_mask, CausalBias):
            # It looks for what stands under the public name.
            call, public = torch.overrides.handle_torch_function, torch.nn.functional.scaled_dot_product_attention
            return call(public, (attn_mask,), *arguments, scale=scale, enable_gqa=enable_gqa)
        plain = all(type(x) in _PLAIN for x in arguments[:4]) and query.device.type == "cpu" and not query.is_nested
        # Whoever wrapped this may call it when its patch has ended.
        if not plain or query.dtype not in _DTYPES or _patches == 0:
            return beneath(*arguments, scale=scale, enable_gqa=enable_gqa)
        if torch.overrides.has_torch_function(arguments[:3]):
            # Of plain tensors a mode has it, such as a default device: it calls this again, without itself.
            call, public = torch.overrides.handle_torch_function, torch.nn.functional.scaled_dot_product_attention
            return call(public, arguments[:3], *arguments, scale=scale, enable_gqa=enable_gqa)
        return _compute(beneath, *arguments, scale, enable_gqa)

    return dispatch
