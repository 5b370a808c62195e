"""Regard: exact attention for CPUs, and the transformers that run on it.

>>> import numpy as np, regard
>>> q, k, v = np.random.default_rng(0).standard_normal((3, 1, 8, 100, 64), dtype=np.float32)
>>> regard.attention(q, k, v, regard.Mask.causal() & regard.Mask.window(31, None)).shape
(1, 8, 100, 64)

Arrays are NumPy's, PyTorch's, JAX's or anything's with DLPack; they are read where they lie, and results are of the query's
kind. ``regard.torch`` has PyTorch's ``scaled_dot_product_attention`` with gradients, ``regard.transformers`` makes models of
Hugging Face use it, ``regard.layers`` has layers with exact gradients, and :class:`Decoder` and :class:`Encoder` run models
from files.
"""

from regard import layers
from regard._regard import (
    Cache,
    Decoder,
    Encoder,
    FavorFeatures,
    Gradients,
    Index,
    Layout,
    LinearGradients,
    Mask,
    PagedCache,
    PagePool,
    Plan,
    Retrieved,
    Stream,
    __version__,
    attention,
    attention_backward,
    decode,
    favor_attention,
    favor_attention_backward,
    linear_attention,
    linear_attention_backward,
    machine,
    merge,
    num_threads,
    plan,
    prefix_attention,
    retrieve,
    scores,
    select,
    set_num_threads,
)

__all__ = [
    "Cache",
    "Decoder",
    "Encoder",
    "FavorFeatures",
    "Gradients",
    "Index",
    "Layout",
    "LinearGradients",
    "Mask",
    "PagePool",
    "PagedCache",
    "Plan",
    "Retrieved",
    "Stream",
    "__version__",
    "attention",
    "attention_backward",
    "decode",
    "favor_attention",
    "favor_attention_backward",
    "layers",
    "linear_attention",
    "linear_attention_backward",
    "machine",
    "merge",
    "num_threads",
    "plan",
    "prefix_attention",
    "retrieve",
    "scores",
    "select",
    "set_num_threads",
]
