"""Speed up a model that exists: the same weights, with PyTorch's attention and with Regard's.

A small Mistral with a window of 1024 tokens reads a prompt of 8192. Its weights are random: the time does not depend on them.

    python speed_up_model.py            # 8192 tokens
    python speed_up_model.py --quick    # 1024, a window of 128
"""

import argparse
import copy
import statistics
import time

import regard.transformers
import torch
from transformers import AutoModelForCausalLM, MistralConfig


def median_seconds(models, ids, runs):
    """The median of each model, taken in turns, after one run that does not count."""
    seconds = {name: [] for name in models}
    with torch.no_grad():
        for turn in range(runs + 1):
            for name, model in models.items():
                start = time.perf_counter()
                model(input_ids=ids, logits_to_keep=1)
                if turn > 0:
                    seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in seconds.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a prompt of 1024 tokens and a window of 128")
    tokens, window, runs = (1024, 128, 3) if parser.parse_args().quick else (8192, 1024, 7)

    torch.set_num_threads(regard.num_threads())
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=4096,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=tokens,
        sliding_window=window,
    )
    models = {"sdpa": AutoModelForCausalLM.from_config(copy.deepcopy(config), attn_implementation="sdpa").eval()}

    # These two lines are all.
    regard.transformers.register()
    models["regard"] = AutoModelForCausalLM.from_config(copy.deepcopy(config), attn_implementation="regard").eval()

    models["regard"].load_state_dict(models["sdpa"].state_dict())
    ids = torch.randint(0, 4096, (1, tokens))
    with torch.no_grad():
        logits = [model(input_ids=ids, logits_to_keep=64).logits for model in models.values()]
    difference, size = (logits[0] - logits[1]).abs().max(), logits[0].abs().max()
    print(f"largest difference of the last 64 tokens' logits: {difference:.1e} of {size:.1f}")
    assert difference < 1e-4 * size
    seconds = median_seconds(models, ids, runs)
    print(f"a prompt of {tokens} tokens, window {window}, f32, {regard.num_threads()} threads, medians of {runs}:")
    for name, each in seconds.items():
        print(f"  {name:7}{each:7.3f} s  {tokens / each:7.0f} tokens/s")
    print(f"  regard is {seconds['sdpa'] / seconds['regard']:.2f} times as fast")


if __name__ == "__main__":
    main()
