"""Layers with exact gradients, language models made of them, and what trains these.

>>> import numpy as np
>>> from regard import layers
>>> block = layers.TransformerBlock(32, 4, hidden=80, mask="causal", rotary=10_000, seed=7)
>>> x, dy = np.random.default_rng(0).standard_normal((2, 2, 9, 32), dtype=np.float32)
>>> y = block.forward(x)
>>> dx = block.backward(dy)
>>> y.shape, dx.shape
((2, 9, 32), (2, 9, 32))
>>> block.gradients["mixer.q_proj.weight"].shape
(32, 32)

A layer that is called, ``layer(x)``, gives results. ``layer.forward(x)`` gives them for training, and keeps a copy of ``x`` so
that ``layer.backward(dy)`` can compute the rest again: it returns the gradient of ``x`` and adds those of the parameters to
``layer.gradients``. Results are of the kind of what goes in: NumPy arrays, PyTorch tensors, arrays of JAX, all of float32.
:class:`AdamW` takes steps, ``layer.save`` and ``layer.load`` write and read safetensors.
"""

from regard._regard import _layers

AdamW = _layers.AdamW
Embedding = _layers.Embedding
FeedForward = _layers.FeedForward
FlashAttention = _layers.FlashAttention
LanguageModel = _layers.LanguageModel
LanguageState = _layers.LanguageState
Layer = _layers.Layer
Linear = _layers.Linear
LinearAttention = _layers.LinearAttention
LocalGlobalAttention = _layers.LocalGlobalAttention
Module = _layers.Module
MultiHeadAttention = _layers.MultiHeadAttention
MultiHeadCache = _layers.MultiHeadCache
Norm = _layers.Norm
SharedAttentionContext = _layers.SharedAttentionContext
State = _layers.State
StateSpace = _layers.StateSpace
Streaming = _layers.Streaming
Trainer = _layers.Trainer
TransformerBlock = _layers.TransformerBlock

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
