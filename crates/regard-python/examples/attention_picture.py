"""The attention of a real model as a picture: who looks at whom in a sentence, by all-MiniLM-L6-v2.

python attention_picture.py ["A sentence."] [--model FOLDER] [--layer 2] [--picture attention.png]
"""

import argparse
import os
from pathlib import Path

import matplotlib
import regard.transformers
import torch
from transformers import AutoModel, AutoTokenizer

matplotlib.use("Agg")
import matplotlib.pyplot as plt

DATA = Path(os.environ.get("REGARD_TEST_DATA", Path(__file__).parents[3] / "target" / "test-data"))
SENTENCE = "The old whale dived because it had seen the ship."


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sentence", nargs="?", default=SENTENCE)
    parser.add_argument("--model", type=Path, default=DATA / "all-MiniLM-L6-v2", help="a folder of a BERT model")
    parser.add_argument("--layer", type=int, default=2, help="the layer, from 0 on")
    parser.add_argument("--picture", type=Path, default=Path("attention.png"), help="where it is drawn to")
    arguments = parser.parse_args()
    if not (arguments.model / "config.json").exists():
        parser.error(f"there is no model in {arguments.model}: scripts/fetch-test-data fetches it")

    regard.transformers.register()
    model = AutoModel.from_pretrained(arguments.model, attn_implementation="regard").eval()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    inputs = tokenizer(arguments.sentence, return_tensors="pt")
    with torch.no_grad():
        weights = model(**inputs, output_attentions=True).attentions[arguments.layer][0]
    assert torch.allclose(weights.sum(-1), torch.ones(()), atol=1e-5)

    words = tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])
    heads = weights.shape[0]
    figure, axes = plt.subplots(3, (heads + 2) // 3, figsize=(14, 10), layout="constrained")
    for head, axis in enumerate(axes.flat[:heads]):
        axis.imshow(weights[head], cmap="magma", vmin=0, vmax=1)
        axis.set_title(f"head {head}", fontsize=9)
        axis.set_xticks(range(len(words)), words, rotation=90, fontsize=6)
        axis.set_yticks(range(len(words)), words, fontsize=6)
    for axis in axes.flat[heads:]:
        axis.axis("off")
    figure.suptitle(f"{arguments.model.name}, layer {arguments.layer}: rows look at columns")
    figure.savefig(arguments.picture, dpi=110)
    print(f"drawn to {arguments.picture.resolve()}: {heads} heads, {len(words)} tokens")


if __name__ == "__main__":
    main()
