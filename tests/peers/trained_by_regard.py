"""What transformers makes of a checkpoint of `regard train`: the loss of held-out text, and whether the tokeniser is whole.

    python trained_by_regard.py FOLDER TEXT CONTEXT WINDOWS [MASK]

TEXT is what the run held out. Prints one JSON object. The windows are those of the run's own evaluation.
"""

import json
import sys

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, path, context, windows = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
text = open(path, encoding="utf-8", newline="").read()
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32).eval()
tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
windows = min(windows, (len(tokens) - 1) // context)
loss = 0.0
for window in range(windows):
    start = window * (len(tokens) - context) // windows
    piece = torch.tensor(tokens[start : start + context + 1])
    with torch.no_grad():
        logits = model(piece[None, :-1]).logits[0].double()
    loss += torch.nn.functional.cross_entropy(logits, piece[1:]).item() / windows
plain = Tokenizer.from_file(f"{folder}/tokenizer.json")
print(
    json.dumps(
        {
            "model": type(model).__name__,
            "loss": loss,
            "comes_back": tokenizer.decode(tokens, clean_up_tokenization_spaces=False) == text,
            "tokenizers_agree": plain.encode(text, add_special_tokens=False).ids == tokens,
            "vocabulary": len(tokenizer),
            "end": tokenizer.eos_token,
        }
    )
)
