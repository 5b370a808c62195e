"""Times llama.cpp on a GGUF file: prompt tokens a second, then generated tokens a second at that depth.

    python llama_speed.py MODEL.gguf [--threads 2] [--prompts 512,4096]

Needs `pip install llama-cpp-python` (builds from source in about five minutes; it tunes itself to this CPU).
"""
import argparse, random, time

import llama_cpp as L

args = argparse.ArgumentParser()
args.add_argument("model"); args.add_argument("--threads", type=int, default=2); args.add_argument("--prompts", default="512,4096")
args = args.parse_args()
L.llama_backend_init()
model = L.llama_model_load_from_file(args.model.encode(), L.llama_model_default_params())
vocab = L.llama_vocab_n_tokens(L.llama_model_get_vocab(model))
random.seed(0)


def decode(ctx, tokens):
    batch = (L.llama_token * len(tokens))(*tokens)
    assert L.llama_decode(ctx, L.llama_batch_get_one(batch, len(tokens))) == 0
    L.llama_synchronize(ctx)


for prompt in map(int, args.prompts.split(",")):
    params = L.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = max(2048, prompt + 80), 2048, 512
    params.n_threads = params.n_threads_batch = args.threads
    params.flash_attn_type = 1
    ctx = L.llama_init_from_model(model, params)
    tokens = [random.randrange(100, vocab - 100) for _ in range(prompt)]
    best = (0.0, 0.0)
    for _ in range(2):
        L.llama_memory_clear(L.llama_get_memory(ctx), True)
        t = time.perf_counter()
        for i in range(0, prompt, 2048):
            decode(ctx, tokens[i:i + 2048])
        t1 = time.perf_counter()
        for i in range(64):
            decode(ctx, [tokens[i]])
        t2 = time.perf_counter()
        best = (max(best[0], prompt / (t1 - t)), max(best[1], 64 / (t2 - t1)))
    print(f"prompt {prompt}: {best[0]:.1f} tokens/s; 64 more: {best[1]:.1f} tokens/s", flush=True)
    L.llama_free(ctx)
