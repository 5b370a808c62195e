"""Attention as the formulas say it, for clarity: in float64 what all else is held against, and in float32 the plain method
whose error is the measure of ours."""

import numpy as np


def step(n_q, n_k, offset=None):
    """``p − j`` of each query and key."""
    offset = n_k - n_q if offset is None else offset
    return np.arange(n_q)[:, None] + offset - np.arange(n_k)


def causal(n_q, n_k, offset=None):
    return step(n_q, n_k, offset) >= 0


def window(n_q, n_k, left, right, offset=None):
    p_minus_j = step(n_q, n_k, offset)
    return (p_minus_j <= (left if left is not None else np.inf)) & (-p_minus_j <= (right if right is not None else np.inf))


def scores(q, k, *, scale=None, softcap=None, bias=None, slopes=None, kept=None, offset=None, dtype=np.float64):
    """``[batch, heads, queries, keys]``, −inf where a pair is removed."""
    q, k = (np.asarray(x, dtype=dtype) for x in (q, k))
    k = np.repeat(k, q.shape[1] // k.shape[1], axis=1)
    score = q @ k.swapaxes(-1, -2) * dtype(q.shape[-1] ** -0.5 if scale is None else scale)
    if softcap is not None:
        score = dtype(softcap) * np.tanh(score / dtype(softcap))
    if bias is not None:
        score = score + np.asarray(bias, dtype=dtype)
    if slopes is not None:
        score = score - (np.asarray(slopes)[:, None, None] * abs(step(q.shape[2], k.shape[2], offset))).astype(dtype)
    return score if kept is None else np.where(kept, score, -np.inf)


def attention(q, k, v, *, sinks=None, dtype=np.float64, **options):
    """``(out, lse)``."""
    score = scores(q, k, dtype=dtype, **options)
    v = np.repeat(np.asarray(v, dtype=dtype), score.shape[1] // v.shape[1], axis=1)
    if sinks is not None:
        sink = np.broadcast_to(np.asarray(sinks, dtype=dtype)[:, None, None], (*score.shape[:3], 1))
        score = np.concatenate([score, sink], axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        most = score.max(-1, keepdims=True, initial=-np.inf)
        weight = np.where(score == -np.inf, 0, np.exp(score - np.where(most == -np.inf, 0, most)))
        total = weight.sum(-1, keepdims=True)
        lse = (np.where(most == -np.inf, 0, most) + np.log(total))[..., 0]
        weight = np.where(total > 0, weight / np.where(total > 0, total, 1), 0)
    return weight[..., : v.shape[2]] @ v, lse
