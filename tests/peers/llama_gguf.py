"""What GGUF does to a Llama-family model: its tensor names, and its order of the rows of the query and key weights.

Hugging Face rotates the pair (i, i + d/2) of a head, GGUF's `llama` architecture the pair (2i, 2i + 1). So the rows of
each query and key head are interleaved on the way into the file, and separated on the way out.
"""
import gguf
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM


def interleave(rows, heads):
    """The rows of `rows` [heads * d, width], from half-split to interleaved pairs within each head."""
    return rows.reshape(heads, 2, -1, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape)


def separate(rows, heads):
    """The inverse of `interleave`."""
    return rows.reshape(heads, -1, 2, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape)


def tensor_name(name, layers):
    """The GGUF name of a Hugging Face parameter."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, layers)
    found = names.get_name(name, try_suffixes=(".weight",))
    if found is None:
        raise KeyError(f"no GGUF name for {name}")
    return found


def heads_of(name, config):
    """How many heads' rows a query or key weight holds; None for every other parameter."""
    if name.endswith("q_proj.weight"):
        return config.num_attention_heads
    if name.endswith("k_proj.weight"):
        return config.num_key_value_heads
    return None


def load(path, dtype=torch.float32):
    """A LlamaForCausalLM with the weights of a GGUF file, every tensor dequantised by the `gguf` package."""
    reader = gguf.GGUFReader(path)
    field = lambda key: reader.fields[f"llama.{key}"].contents()
    tensors = {t.name: gguf.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    config = LlamaConfig(
        vocab_size=tensors["token_embd.weight"].shape[0],
        hidden_size=field("embedding_length"),
        intermediate_size=field("feed_forward_length"),
        num_hidden_layers=field("block_count"),
        num_attention_heads=field("attention.head_count"),
        num_key_value_heads=field("attention.head_count_kv"),
        max_position_embeddings=field("context_length"),
        rms_norm_eps=field("attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": field("rope.freq_base")},
        tie_word_embeddings="output.weight" not in tensors,
        attn_implementation="sdpa",
    )
    model = LlamaForCausalLM(config).to(dtype).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            rows = np.array(tensors.pop(tensor_name(name, config.num_hidden_layers)), dtype=np.float32)
            heads = heads_of(name, config)
            parameter.copy_(torch.from_numpy(rows if heads is None else separate(rows, heads)))
    if tensors:
        raise ValueError(f"{path}: tensors that a plain Llama does not have: {sorted(tensors)}")
    return model
