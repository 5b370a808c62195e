"""PyTorch: attention on the CPU by Regard, with gradients.

:func:`scaled_dot_product_attention` has PyTorch's own signature and meaning. :func:`attention` is :func:`regard.attention`
with gradients: its masks, sinks, softcap, lengths and log-sum-exp; :func:`linear_attention` and :func:`favor_attention` are
those of :mod:`regard` with gradients. The first two work under ``torch.no_grad``, ``torch.autocast`` and
``torch.compile``.

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
    _refuse_transforms("attention")
    if out is not None and _wants_gradient(q, k, v, bias, sinks):
        # Gradients are made of the result, which the caller could write to unnoticed.
        raise ValueError("`out` is for calls without gradients: leave it out, or call under torch.no_grad()")
    return attend(*autocast(q, k, v, bias), sinks, mask, return_lse, out, options)


def _is_transformed() -> bool:
    """Whether ``torch.func`` or forward-mode differentiation looks into what is called: they know operations of PyTorch's."""
    return torch._C._functorch.maybe_current_level() is not None or torch.autograd.forward_ad._current_level >= 0


def _refuse_transforms(name: str) -> None:
    if _is_transformed() or torch.jit.is_tracing():
        raise NotImplementedError(
            f"regard.torch.{name} is nothing that torch.func, forward-mode differentiation and torch.jit.trace can look into; "
            "scaled_dot_product_attention is"
        )


def _wants_gradient(*inputs: Any) -> bool:
    if torch.is_grad_enabled():
        for x in inputs:
            if isinstance(x, Tensor) and x.requires_grad:
                return True
    return False


def attend(q, k, v, bias, sinks, mask, return_lse, out, options) -> Any:
    """:func:`attention` as it is without autocast; whoever hands it an ``out`` and wants gradients writes to that no more."""
    if _wants_gradient(q, k, v, bias, sinks):
        out, lse = _Attention.apply(q, k, v, bias, sinks, mask, options, out)
        return (out, lse) if return_lse else out
    if bias is not None:
        options = options | {"bias": bias}
    if sinks is not None:
        options = options | {"sinks": sinks}
    written = out
    if return_lse and out is None:
        out = torch.empty(*q.shape[:-1], v.shape[-1], dtype=q.dtype)
    result = _regard.attention(q, k, v, mask, return_lse=return_lse, out=out, **options)
    if written is not None and not written.is_inference():
        # As PyTorch's own operations do, so that gradients of what was there are refused.
        torch.autograd.graph.increment_version(written)
    return result


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
    @torch.autograd.function.once_differentiable
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
    _refuse_transforms("linear_attention")
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
    @torch.autograd.function.once_differentiable
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


def favor_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    features: int | _regard.FavorFeatures | None = None,
    seed: int = 0,
    scale: float | None = None,
    causal: bool = True,
) -> Tensor:
    """:func:`regard.favor_attention` of tensors, with gradients of ``q``, ``k`` and ``v``.

    Gradients are of float32, bfloat16 and float16, and are those of the estimate with these features.

    >>> import torch, regard.torch
    >>> q, k, v = torch.randn(3, 1, 4, 100, 16, requires_grad=True).unbind()
    >>> regard.torch.favor_attention(q, k, v, features=64).sum().backward()
    """
    _refuse_transforms("favor_attention")
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
    @torch.autograd.function.once_differentiable
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
    query, key, value, attn_mask = autocast(query, key, value, attn_mask)
    compiled = torch.compiler.is_compiling() or torch.jit.is_tracing()
    if dropout_p == 1 or (not compiled and _is_transformed()):
        # Where nothing is left PyTorch's own gives zeros with their gradients.
        return _beneath(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    if compiled:
        seed = torch.randint(2**62, (), dtype=torch.int64) if dropout_p > 0 else None
        return _op(query, key, value, attn_mask, seed, dropout_p, is_causal, scale, enable_gqa)[0]
    seed = int(torch.randint(2**62, ())) if dropout_p > 0 else None
    q, k, v, mask, bias, options = _arguments(query, key, value, attn_mask, dropout_p, seed, is_causal, scale, enable_gqa)
    out = attend(q, k, v, bias, None, mask, False, None, options)
    return out if q is query else out.reshape(*_shape(query, key, value, enable_gqa), value.shape[-1])


def _arguments(query, key, value, attn_mask, dropout_p, seed, is_causal, scale, enable_gqa):
    """PyTorch's arguments as Regard's, with at most four axes."""
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
        batch = torch.broadcast_shapes(query.shape[:-3], key.shape[:-3], value.shape[:-3])
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


@torch.library.custom_op("regard::scaled_dot_product_attention", mutates_args=(), device_types="cpu")
def _op(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None,
    seed: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
) -> tuple[Tensor, Tensor]:
    """What a compiled graph holds: one node, which the compiler does not look into."""
    drawn = None if seed is None else int(seed)
    arguments = _arguments(query, key, value, attn_mask, dropout_p, drawn, is_causal, scale, enable_gqa)
    q, k, v, mask, bias, options = arguments
    with torch.no_grad():
        out, lse = attend(q, k, v, bias, None, mask, True, None, options)
    shape = _shape(query, key, value, enable_gqa)
    return out.reshape(*shape, value.shape[-1]), lse.reshape(shape)


def _shape(query: Tensor, key: Tensor, value: Tensor, enable_gqa: bool) -> tuple[int, ...]:
    """``[..., heads, queries]`` of the result."""
    if enable_gqa:
        batch = torch.broadcast_shapes(query.shape[:-3], key.shape[:-3], value.shape[:-3])
        return (*batch, *query.shape[-3:-1])
    return (*torch.broadcast_shapes(query.shape[:-2], key.shape[:-2], value.shape[:-2]), query.shape[-2])


@_op.register_fake
def _(query, key, value, attn_mask, seed, dropout_p, is_causal, scale, enable_gqa):
    shape = _shape(query, key, value, enable_gqa)
    lse = query.new_empty(shape, dtype=torch.float64 if query.dtype == torch.float64 else torch.float32)
    return query.new_empty(*shape, value.shape[-1]), lse


@torch.library.custom_op("regard::scaled_dot_product_attention_backward", mutates_args=(), device_types="cpu")
def _op_backward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None,
    seed: Tensor | None,
    out: Tensor,
    lse: Tensor,
    dout: Tensor,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
    mask_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    drawn = None if seed is None else int(seed)
    arguments = _arguments(query, key, value, attn_mask, dropout_p, drawn, is_causal, scale, enable_gqa)
    q, k, v, mask, bias, options = arguments
    out, dout = (x.reshape(*q.shape[:-1], v.shape[-1]) for x in (out, dout))
    gradients = _regard.attention_backward(
        *(q, k, v, out, lse.reshape(q.shape[:-1]), dout, mask), bias=bias, bias_gradient=mask_gradient, **options
    )
    dq, dk, dv = gradients
    batch = torch.broadcast_shapes(query.shape[:-3], key.shape[:-3], value.shape[:-3])

    def back(gradient, x):
        """With the batch axes that were flattened, and the sum of what flowed to the copies of what was broadcast."""
        lead = batch if gradient.dim() < 4 or gradient.shape[0] == math.prod(batch) else [1] * len(batch)
        return gradient.reshape(*lead, *gradient.shape[-3:]).sum_to_size(x.shape).to(x.dtype).clone()

    dmask = back(gradients.bias, attn_mask) if mask_gradient else query.new_empty(0)
    return back(dq, query), back(dk, key), back(dv, value), dmask


@_op_backward.register_fake
def _(query, key, value, attn_mask, seed, out, lse, dout, dropout_p, is_causal, scale, enable_gqa, mask_gradient):
    # Contiguous, whatever the layout of the inputs.
    dmask = attn_mask.new_empty(attn_mask.shape) if mask_gradient else query.new_empty(0)
    return *(x.new_empty(x.shape) for x in (query, key, value)), dmask


def _setup_context(ctx, inputs, output):
    query, key, value, attn_mask, seed, *ctx.rest = inputs
    ctx.save_for_backward(query, key, value, attn_mask, seed, *output)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, dout, _):
    query, key, value, attn_mask, seed, out, lse = ctx.saved_tensors
    mask_gradient = attn_mask is not None and attn_mask.is_floating_point() and ctx.needs_input_grad[3]
    dq, dk, dv, dmask = _op_backward(query, key, value, attn_mask, seed, out, lse, dout, *ctx.rest, mask_gradient)
    return dq, dk, dv, dmask if mask_gradient else None, None, None, None, None, None


_op.register_autograd(_backward, setup_context=_setup_context)


_lock = threading.Lock()
_patches = 0
# What is called where Regard does not compute: PyTorch's own, or whoever patched it before.
_beneath = torch.nn.functional.scaled_dot_product_attention


@contextlib.contextmanager
def patched() -> Iterator[None]:
    """Models that call ``torch.nn.functional.scaled_dot_product_attention`` use Regard's within ``with patched():``.

    Tensors on other devices, of types that attention is not computed in, and of classes that see to it themselves go to
    PyTorch's own as before. The patch is that of the whole process; several may be nested, and in several threads. What
    imported the function by ``from torch.nn.functional import …`` has its own name for it and is not reached, nor are
    ``MultiheadAttention`` and ``TransformerEncoderLayer`` in evaluation without gradients, which call no Python.
    """
    global _patches, _beneath
    with _lock:
        if _patches == 0:
            _beneath = torch.nn.functional.scaled_dot_product_attention
            torch.nn.functional.scaled_dot_product_attention = _dispatch
        _patches += 1
    try:
        yield
    finally:
        with _lock:
            _patches -= 1
            # Whoever has patched it since sees to its own end.
            if _patches == 0 and torch.nn.functional.scaled_dot_product_attention is _dispatch:
                torch.nn.functional.scaled_dot_product_attention = _beneath


def _dispatch(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    arguments = (query, key, value, attn_mask, dropout_p, is_causal)
    if isinstance(attn_mask, CausalBias):
        # It looks for the function under its public name.
        call = torch.overrides.handle_torch_function
        return call(_dispatch, (attn_mask,), *arguments, scale=scale, enable_gqa=enable_gqa)
    foreign = torch.overrides.has_torch_function(arguments[:4]) or query.device.type != "cpu" or query.is_nested
    if foreign or query.dtype not in _DTYPES:
        return _beneath(*arguments, scale=scale, enable_gqa=enable_gqa)
    return scaled_dot_product_attention(*arguments, scale=scale, enable_gqa=enable_gqa)
