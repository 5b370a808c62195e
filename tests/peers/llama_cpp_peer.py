"""llama.cpp as a reference: token ids, and the logits of chosen positions."""
import ctypes
import pathlib

import gguf
import llama_cpp as L
import numpy as np

CACHES = {"f32": 0, "f16": 1}  # ggml's numbers of the two types

# The callback must outlive every call into the library.
_quiet = L.llama_log_callback(lambda level, text, data: None)
L.llama_log_set(_quiet, ctypes.c_void_p(0))
L.llama_backend_init()


def quantize(rows, kind):
    """Rows of f32 as the bytes of their storage type: by the `gguf` package, or where it only reads the type, by ggml."""
    try:
        return gguf.quantize(rows, kind)
    except NotImplementedError:
        folder = pathlib.Path(L.__file__).parent / "lib"
        ggml = ctypes.CDLL(str(folder / "libggml-base.so")).ggml_quantize_chunk
        ggml.restype = ctypes.c_size_t
        ggml.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p]
        per, size = gguf.GGML_QUANT_SIZES[kind]
        count, length = rows.shape
        data = np.empty((count, length // per * size), np.uint8)
        assert ggml(int(kind), rows.ctypes.data, data.ctypes.data, 0, count, length, None) == data.nbytes
        return data


class Llama:
    """A GGUF file in llama.cpp with one sequence of up to `context` tokens in a cache of type `cache`.

    Flash attention is on exactly when the cache is f16; an f32 cache gives llama.cpp's most exact path.
    """

    def __init__(self, path, context, cache="f16", threads=2):
        self.model = L.llama_model_load_from_file(str(path).encode(), L.llama_model_default_params())
        if not self.model:
            raise ValueError(f"{path}: llama.cpp does not load it")
        self.vocab = L.llama_model_get_vocab(self.model)
        self.size = L.llama_vocab_n_tokens(self.vocab)
        params = L.llama_context_default_params()
        params.n_ctx = params.n_batch = context
        params.n_threads = params.n_threads_batch = threads
        params.type_k = params.type_v = CACHES[cache]
        params.flash_attn_type = int(cache == "f16")
        self.ctx = L.llama_init_from_model(self.model, params)
        self.batch = L.llama_batch_init(context, 0, 1)
        self.depth = 0

    def close(self):
        L.llama_batch_free(self.batch)
        L.llama_free(self.ctx)
        L.llama_model_free(self.model)

    def clear(self):
        """Forgets every token."""
        L.llama_memory_clear(L.llama_get_memory(self.ctx), True)
        self.depth = 0

    def tokens(self, text, special=False):
        """The token ids of `text`, nothing added; `special`: names of special tokens in the text stand for them."""
        data = text.encode()
        room = (L.llama_token * (len(data) + 8))()
        count = L.llama_tokenize(self.vocab, data, len(data), room, len(room), False, special)
        assert count >= 0
        return list(room[:count])

    def is_end(self, token):
        """Whether generation ends with this token."""
        return bool(L.llama_vocab_is_eog(self.vocab, token))

    def logits(self, tokens, positions=None):
        """Appends `tokens` as one batch; the logits [positions, vocab] at `positions` of the batch (the last alone)."""
        positions = [len(tokens) - 1] if positions is None else list(positions)
        wanted = set(positions)
        batch = self.batch
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i] = token
            batch.pos[i] = self.depth + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = i in wanted
        status = L.llama_decode(self.ctx, batch)
        if status != 0:
            raise RuntimeError(f"llama_decode: {status}")
        self.depth += len(tokens)
        rows = [np.ctypeslib.as_array(L.llama_get_logits_ith(self.ctx, i), (self.size,)).copy() for i in positions]
        return np.stack(rows)
