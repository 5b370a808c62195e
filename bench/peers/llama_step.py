"""llama.cpp on a GGUF file, one timed piece of work at a time, so that another program can alternate with it.

    python llama_step.py

The protocol is in ../README.md: a model, then `prompt N`, `generate N`, `memory`, `quit`.
"""
import ctypes
import pathlib
import random
import sys
import time
from importlib.metadata import version

import llama_cpp as L

from step import REST_S, serve

CACHES = {"f32": 0, "f16": 1, "q8_0": 8, "bf16": 30}  # ggml's numbers of the types
BATCH, MICRO_BATCH = 2048, 512  # llama.cpp's own defaults
ERROR = 4  # ggml's level of a log line


@L.llama_log_callback
def log(level, text, _data):
    """Errors alone, to stderr."""
    if level == ERROR:
        sys.stderr.write(text.decode(errors="replace"))


L.llama_log_set(log, ctypes.c_void_p(0))
L.llama_backend_init()


class Model:
    """A model with one sequence."""

    def __init__(self, request):
        self.model = L.llama_model_load_from_file(request["model"].encode(), L.llama_model_default_params())
        if not self.model:
            raise ValueError(f"{request['model']}: llama.cpp does not load it")
        self.vocab = L.llama_vocab_n_tokens(L.llama_model_get_vocab(self.model))
        params = L.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = request.get("context", 4352), BATCH, MICRO_BATCH
        params.n_threads = params.n_threads_batch = request.get("threads", 2)
        params.type_k = params.type_v = CACHES[request.get("cache", "f16")]
        params.flash_attn_type = 1
        self.ctx = L.llama_init_from_model(self.model, params)
        if not self.ctx:
            raise ValueError("llama.cpp makes no context of this kind")
        self.context = L.llama_n_ctx(self.ctx)
        self.memory = L.llama_get_memory(self.ctx)
        self.random = random.Random(request.get("seed", 0))
        self.depth = 0

    def __del__(self):
        for free, thing in ((L.llama_free, "ctx"), (L.llama_model_free, "model")):
            if getattr(self, thing, None):
                free(getattr(self, thing))

    def tokens(self, count, depth=0):
        """Random ids to stand after `depth` others, the lowest and highest left out since they are often special."""
        if count < 1 or depth + count > self.context:
            raise ValueError(f"{count} tokens at depth {depth} in a context of {self.context}")
        return [self.random.randrange(100, self.vocab - 100) for _ in range(count)]

    def decode(self, tokens):
        batch = (L.llama_token * len(tokens))(*tokens)
        status = L.llama_decode(self.ctx, L.llama_batch_get_one(batch, len(tokens)))
        if status != 0:
            raise RuntimeError(f"llama_decode: {status}")
        L.llama_synchronize(self.ctx)

    def timed(self, batches):
        """Decodes the batches; the rate, after a rest."""
        start = time.perf_counter()
        for batch in batches:
            self.decode(batch)
        seconds = time.perf_counter() - start
        time.sleep(REST_S)
        count = sum(map(len, batches))
        return {"ms": seconds * 1e3, "tokens": count, "tokens_per_s": count / seconds, "depth": self.depth}


def prepare(request):
    model = Model(request)
    model.decode(model.tokens(16))
    L.llama_memory_clear(model.memory, True)
    return model, {"peer": f"llama-cpp-python {version('llama_cpp_python')}", "vocab": model.vocab}


def prompt(model, count):
    """Forgets all, then takes in `count` random tokens."""
    tokens = model.tokens(int(count))
    L.llama_memory_clear(model.memory, True)
    model.depth = 0
    answer = model.timed([tokens[i:i + BATCH] for i in range(0, len(tokens), BATCH)])
    model.depth = len(tokens)
    return answer


def generate(model, count):
    """`count` tokens one by one at the present depth; they are forgotten again, so the next call starts there too."""
    answer = model.timed([[token] for token in model.tokens(int(count), model.depth)])
    L.llama_memory_seq_rm(model.memory, 0, model.depth, -1)
    return answer


def memory(_model):
    """The most memory this process has held so far, Python and the mapped file's touched pages included."""
    status = pathlib.Path("/proc/self/status").read_text()
    kib = {line.split(":")[0]: line.split()[1] for line in status.splitlines() if line.startswith(("VmHWM", "RssAnon"))}
    return {"peak_bytes": int(kib["VmHWM"]) * 1024, "anonymous_bytes": int(kib["RssAnon"]) * 1024}


if __name__ == "__main__":
    serve(prepare, {"prompt": prompt, "generate": generate, "memory": memory})
