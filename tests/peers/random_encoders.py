"""Encoders with random weights for every family, as sentence-transformers saves them, and their vectors from PyTorch in f64.

    python random_encoders.py [--out FOLDER] [--only NAME ...]

`texts.json` in the folder holds texts, and `vectors.bin` their vectors, rows of little-endian f32. Pooling is written out
here, a line for each way.
"""
import argparse
import json
import pathlib
import shutil

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoModel, AutoModelForMaskedLM, CONFIG_MAPPING

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
WORDS = ["the", "a", "whale", "sea", "ship", "old", "man", "white", "and", "of", "to", "in", "boat", "head", "long", "deep"]
VOCAB = len(SPECIAL) + len(WORDS) + 26

COMMON = dict(
    vocab_size=VOCAB, hidden_size=48, intermediate_size=72, num_hidden_layers=2, num_attention_heads=3,
    max_position_embeddings=66, pad_token_id=1, bos_token_id=0, eos_token_id=2, type_vocab_size=2,
)
FOLDERS = {
    "bert": dict(type="bert", pooling="cls_token", normalize=False, hidden_act="gelu"),
    # A model with a head for a task: its names have a prefix.
    "roberta": dict(type="roberta", pooling="mean_tokens", normalize=False, hidden_act="gelu_new", head=True,
                    type_vocab_size=1),
    "mpnet": dict(type="mpnet", pooling="mean_tokens", normalize=True, hidden_act="gelu"),
    "last": dict(type="bert", pooling="lasttoken", normalize=True, hidden_act="gelu", limit=20),
}


def tokenizer():
    """Whole words, and letters for the others."""
    pieces = SPECIAL + WORDS + [chr(97 + i) if chr(97 + i) != "a" else "##a" for i in range(26)]
    made = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="<unk>"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    made.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    # What sentence-transformers does not go by.
    made.enable_truncation(9)
    made.enable_padding(length=9, pad_id=1, pad_token="<pad>")
    return made


def draw(model, seed):
    random = np.random.default_rng(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            shape = tuple(parameter.shape)
            if "LayerNorm.weight" in name:
                drawn = random.uniform(0.5, 1.5, shape)
            elif parameter.ndim == 1:
                drawn = random.normal(0, 0.3, shape)
            elif "embeddings" in name:
                drawn = random.normal(0, 0.5, shape)
            elif "relative" in name:
                drawn = random.normal(0, 1.5, shape)
            else:
                drawn = random.normal(0, 1.5 / shape[1] ** 0.5, shape)
            parameter.copy_(torch.from_numpy(drawn.astype(np.float32)))


def make(name, spec, seed, out):
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    own = ("type", "pooling", "normalize", "head", "limit")
    config = CONFIG_MAPPING[spec["type"]](**{**COMMON, **{k: v for k, v in spec.items() if k not in own}})
    model = (AutoModelForMaskedLM if spec.get("head") else AutoModel).from_config(config, attn_implementation="eager")
    draw(model, seed)
    model.save_pretrained(folder)
    words = tokenizer()
    words.save(str(folder / "tokenizer.json"))
    limit = spec.get("limit", 64)
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": limit}) + "\n")
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")] + ([("2_Normalize", "Normalize")] if spec["normalize"] else [])
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(modules) + "\n")
    (folder / "1_Pooling").mkdir()
    ways = {f"pooling_mode_{way}": way == spec["pooling"] for way in ("cls_token", "mean_tokens", "max_tokens", "lasttoken")}
    (folder / "1_Pooling/config.json").write_text(json.dumps({"word_embedding_dimension": 48, **ways}) + "\n")

    random = np.random.default_rng(seed + 1000)
    lengths = [0, 1, 2, 3, 3, 5, 8, 8, 13, 21, 40, 61, 62, 63, 90]
    texts = [" ".join(random.choice(WORDS, length)) for length in lengths] + ["The WHALE, sea!", "Ship <s> of"]
    model = AutoModel.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
    words.no_truncation()
    words.no_padding()
    words.encode_special_tokens = True
    vectors = []
    for text in texts:
        ids = words.encode(text).ids
        ids = ids if len(ids) <= limit else ids[: limit - 1] + ids[-1:]
        with torch.no_grad():
            rows = model(torch.tensor([ids])).last_hidden_state[0].double().numpy()
        vector = {"cls_token": rows[0], "mean_tokens": rows.mean(0), "lasttoken": rows[-1]}[spec["pooling"]]
        vectors.append(vector / np.linalg.norm(vector) if spec["normalize"] else vector)
    (folder / "texts.json").write_text(json.dumps(texts) + "\n")
    np.array(vectors).astype("<f4").tofile(folder / "vectors.bin")
    print(name, sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()), "bytes", flush=True)


if __name__ == "__main__":
    here = pathlib.Path(__file__).resolve().parents[2]
    args = argparse.ArgumentParser()
    args.add_argument("--out", type=pathlib.Path, default=here / "crates/regard-models/tests/data/encoders")
    args.add_argument("--only", nargs="*")
    args = args.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for seed, (name, spec) in enumerate(FOLDERS.items()):
        if not args.only or name in args.only:
            make(name, spec, seed, args.out)
