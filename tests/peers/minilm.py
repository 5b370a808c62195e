"""Vectors of a thousand lines of a real book from sentence-transformers, for the tests of encoders.

    python minilm.py MODEL_FOLDER BOOK.txt [--out FILE]

Needs `pip install sentence-transformers`. The lines are the first thousand of at least 40 letters, and every tenth of them
is joined with the twenty lines after it, longer than the model sees. FILE holds their vectors as rows of 384 little-endian
f16, which moves a cosine by less than 1e-7.
"""
import argparse
import pathlib

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

here = pathlib.Path(__file__).resolve().parents[2]
args = argparse.ArgumentParser()
args.add_argument("model")
args.add_argument("book", type=pathlib.Path)
args.add_argument("--out", type=pathlib.Path, default=here / "crates/regard-models/tests/data/minilm.bin")
args = args.parse_args()

lines = [line.strip() for line in args.book.read_text(encoding="utf-8").splitlines()]
lines = [line for line in lines if len(line) >= 40]
texts = [" ".join(lines[i : i + 21]) if i % 10 == 0 else lines[i] for i in range(1000)]
torch.set_num_threads(2)
model = SentenceTransformer(args.model, device="cpu", model_kwargs={"torch_dtype": torch.float32})
vectors = model.encode(texts, batch_size=32)
vectors.astype("<f2").tofile(args.out)
print(vectors.shape, args.out)
