"""References for the tokeniser: llama.cpp's token ids.

    python tokens.py [--data FOLDER] [--out FOLDER]

FOLDER holds what scripts/fetch-test-data fetches. Writes, into the tests' data:

tokens-small.gguf: a vocabulary of 700 byte-level tokens trained on those texts, without any tensor. It lacks tokens for
a few bytes, and its special tokens overlap. Its pre-tokeniser is `smollm`; the others are references for the same file
with that string exchanged.

tokens.json: for each pre-tokeniser of the small vocabulary, and for SmolLM2's own file, texts with their ids, with
special tokens parsed and not; the ids that end a generation; and for SmolLM2 the SHA-256 of the ids (little-endian u32)
of each 64 KiB of each text, decoded as UTF-8 with replacement.
"""
import argparse
import ctypes
import hashlib
import json
import pathlib
import tempfile
from importlib.metadata import version

import gguf
import llama_cpp as L
import numpy as np
import tokenizers

import llama_cpp_peer  # noqa: F401: silences the library and starts it

TEXTS = ["moby-dick.txt", "emoji.txt", "code.js", "noise.jpg"]
CHUNK = 64 << 10
PRE = ["default", "gpt-2", "llama-bpe", "qwen2", "smollm"]
# Bytes without a token in the small vocabulary: of U+40000 and beyond, and of one common lead byte.
LOST = [0xCE, 0xF1, 0xF2, 0xF3]

CASES = [
    "",
    " ",
    "  ",
    "\n",
    "\t\n \r\n  x",
    "Hello, world!",
    "hello   world    again",
    " leading and trailing ",
    "line one\nline two\n\n\nline five\r\nline six",
    "I'm you're he'd we'll they've it's 'tis don'T I'M WE'LL",
    "'s't're've'm'll'd",
    "1 12 123 1234 12345 3.14159 1e-9 0x7f 2024-01-31 ½ ² ① ٣ Ⅷ 一",
    "x1y22z333",
    "   7   88\t999\n1000",
    "def f(x: int) -> int:\n    return x ** 2  # squared\n\n\nprint(f(3))",
    "for (let i = 0; i < n; ++i) { a[i] += b[i] << 2; }",
    "<div class=\"a\">&nbsp;</div>",
    "https://example.org/a/b?c=d&e=%20f#g",
    "!!!???...,,,;;;:::---___===+++***///\\\\\\",
    "a\u00a0b\u2003c\u3000d\u2028e\u0085f\u200bg\ufeffh",
    "naïve café Zoë Ñandú Ærø ßtraße ĳ ŉ",
    "cafe\u0301 e\u0301\u0302\u0303 \u0301alone",
    "Привет, мир! Γειά σου Κόσμε",
    "你好，世界。こんにちは世界 안녕하세요 세계",
    "مرحبا بالعالم שלום עולם नमस्ते दुनिया สวัสดีชาวโลก",
    "😀😃😄 👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇩🇪🇫🇷 1️⃣ ❤️",
    "math: ∀x∈ℝ, x²≥0 ⇒ √(x²)=|x| 𝒜𝓑 ℵ₀",
    "\U00040000 \U0010ffff a\U000e0001b",
    "\ufffd\ufffd and \x00 and \x1b[0m and \x7f",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "MixedCASEWords snake_case_words kebab-case-words dotted.words.here",
    "$100 €200 £300 ¥400 100% #hash @at ^caret ~tilde `tick`",
    "tab\tseparated\tvalues\nnext\trow",
    "trailing spaces   \n   and leading\n",
    "“quoted” ‘single’ «guillemets» — dash – en … ellipsis",
    "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|><|im_start|> <|im_end|>",
    "a <|endoftext|> b<|endoftext|>",
    "<|im_start|",
    "<|end|><|end_of|> <|end_of|>x <|en",
    "<tool><tool>name</tool> tool",
]


class Vocabulary:
    """The vocabulary of a GGUF file in llama.cpp."""

    def __init__(self, path):
        params = L.llama_model_default_params()
        params.vocab_only = True
        self.model = L.llama_model_load_from_file(str(path).encode(), params)
        if not self.model:
            raise ValueError(f"{path}: llama.cpp does not load it")
        self.vocab = L.llama_model_get_vocab(self.model)

    def ids(self, text, special, add=False):
        data = text.encode()
        room = (L.llama_token * (len(data) + 8))()
        count = L.llama_tokenize(self.vocab, data, len(data), room, len(room), add, special)
        assert count >= 0
        return list(room[:count])

    def ends(self):
        return [i for i in range(L.llama_vocab_n_tokens(self.vocab)) if L.llama_vocab_is_eog(self.vocab, i)]

    def cases(self):
        return [{"text": t, "parsed": self.ids(t, True), "as_text": self.ids(t, False)} for t in CASES]

    def chunks(self, data):
        """The number of ids of each chunk, and their SHA-256."""
        out = []
        for start in range(0, len(data), CHUNK):
            ids = self.ids(data[start:start + CHUNK].decode(errors="replace"), False)
            out.append([len(ids), hashlib.sha256(np.array(ids, "<u4").tobytes()).hexdigest()])
        return out


def train(texts, path):
    """Writes the small vocabulary."""
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=680, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(texts, trainer)
    model = json.loads(bpe.to_str())["model"]
    # These bytes print in Latin-1, so each stands for itself; everything that contains one goes.
    lost = {chr(byte) for byte in LOST}
    assert lost < set(alphabet)
    keep = lambda token: not lost & set(token)
    tokens = [t for t, _ in sorted(model["vocab"].items(), key=lambda item: item[1]) if keep(t)]
    merges = [" ".join(m) for m in model["merges"] if keep("".join(m))]
    control = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|end|>", "<|end_of|>", "<reponame>"]
    user = ["<tool>", "</tool>", "<tool><tool>"]
    tokens = control + tokens + user
    types = [gguf.TokenType.CONTROL] * len(control) + [gguf.TokenType.NORMAL] * (len(tokens) - len(control) - len(user))
    types += [gguf.TokenType.USER_DEFINED] * len(user)

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(64)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def exchange(data, pre):
    """A file with another pre-tokeniser."""
    string = lambda text: len(text).to_bytes(8, "little") + text.encode()
    head = string("tokenizer.ggml.pre") + (8).to_bytes(4, "little")
    assert data.count(head + string("smollm")) == 1
    return data.replace(head + string("smollm"), head + string(pre))


if __name__ == "__main__":
    here = pathlib.Path(__file__).resolve().parents[2]
    args = argparse.ArgumentParser()
    args.add_argument("--data", type=pathlib.Path, default=here / "target/test-data")
    args.add_argument("--out", type=pathlib.Path, default=here / "crates/regard-models/tests/data")
    args = args.parse_args()
    texts = {name: (args.data / name).read_bytes() for name in TEXTS}

    small = args.out / "tokens-small.gguf"
    train((texts[n].decode() for n in TEXTS[:3]), small)
    pres = {}
    for pre in PRE:
        with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
            file.write(exchange(small.read_bytes(), pre))
            file.flush()
            vocabulary = Vocabulary(file.name)
            pres[pre] = {
                "sequence": vocabulary.ids("Hello", False, add=True),
                "ends": vocabulary.ends(),
                "cases": vocabulary.cases(),
            }
    model = Vocabulary(args.data / "SmolLM2-135M-Instruct.Q4_1.gguf")
    body = {
        "programs": {n: version(n) for n in ("llama_cpp_python", "gguf", "tokenizers")},
        "small": pres,
        "smollm2": {
            "ends": model.ends(),
            "cases": model.cases(),
            "chunks": {name: model.chunks(data) for name, data in texts.items()},
        },
    }
    (args.out / "tokens.json").write_text(json.dumps(body, ensure_ascii=False) + "\n")
