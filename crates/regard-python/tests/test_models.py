"""Decoders and encoders from files, against transformers and sentence-transformers on the same folders."""

import codecs
import gc
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import regard

torch = pytest.importorskip("torch", reason="PyTorch is what models are held against")
transformers = pytest.importorskip("transformers", reason="transformers is what models are held against")
tokenizers = pytest.importorskip("tokenizers", reason="tokenizers makes the folders' tokens")

FIXTURES = pathlib.Path(__file__).parents[2] / "regard-models" / "tests" / "data"
BEGIN, END, PAD = "<s>", "</s>", "<pad>"
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 2 + 2?"}]


def drawn(model, seed, spread):
    """The model with random weights that are large enough to prefer some tokens."""
    random = np.random.default_rng(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            shape = tuple(parameter.shape)
            if parameter.ndim == 1:
                numbers = random.uniform(0.5, 1.5, shape) if "weight" in name else random.normal(0, 0.3, shape)
            else:
                numbers = random.normal(0, spread / shape[-1] ** 0.5, shape)
            parameter.copy_(torch.from_numpy(numbers.astype(np.float32)))
    return model.eval()


def make_decoder(folder, characters, seed, template=None, **config):
    """A Llama that transformers saves, whose every token is a byte: what it writes and its tokens say the same."""
    vocabulary = {token: i for i, token in enumerate([BEGIN, END, PAD, *characters])}
    words = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    words.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    words.decoder = tokenizers.decoders.ByteLevel()
    words.post_processor = tokenizers.processors.TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[(BEGIN, 0)])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token=BEGIN, eos_token=END, pad_token=PAD, clean_up_tokenization_spaces=False
    )
    tokenizer.chat_template = template
    config = {
        "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 512, "tie_word_embeddings": False, **config,
    }  # fmt: skip
    config = transformers.LlamaConfig(
        vocab_size=len(vocabulary), bos_token_id=0, eos_token_id=1, pad_token_id=2, attn_implementation="eager",
        **config,
    )  # fmt: skip
    model = drawn(transformers.LlamaForCausalLM(config), seed, spread=1.5)
    with torch.no_grad():
        # Every logit of theirs is 0, which among random ones is never the best: greedy texts do not end.
        model.lm_head.weight[:3] = 0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Peer(folder, model, tokenizer)


class Turns(torch.nn.Module):
    """Rotary positions, in the numbers of the stream."""

    def __init__(self, dim, theta):
        super().__init__()
        self.frequencies = theta ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)

    def forward(self, x, position_ids):
        angles = (position_ids[..., None] * self.frequencies).repeat(1, 1, 2)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


def exact(model):
    """A model of transformers in float64, norms and angles too, which it computes in float32 whatever the model is in."""
    model = model.double().eval()
    config = model.config
    # Where transformers 5 and 4 have it.
    theta = config.rope_parameters["rope_theta"] if hasattr(config, "rope_parameters") else config.rope_theta
    model.model.rotary_emb = Turns(config.head_dim, theta)
    for owner in model.modules():
        for name, norm in list(owner.named_children()):
            if isinstance(norm, transformers.models.llama.modeling_llama.LlamaRMSNorm):
                own = torch.nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps, dtype=torch.float64)
                own.weight = norm.weight
                setattr(owner, name, own)
    return model


class Peer:
    """What transformers makes of a folder: in float64 what ours is held against."""

    def __init__(self, folder, model, tokenizer):
        self.folder, self.plain, self.tokenizer = folder, model, tokenizer
        self.model = exact(transformers.LlamaForCausalLM.from_pretrained(folder, attn_implementation="sdpa"))

    def logits(self, ids, model=None):
        with torch.no_grad():
            return (model or self.model)(torch.tensor([list(ids)])).logits[0].numpy()

    def greedy(self, ids, tokens, **options):
        ids = torch.tensor([list(ids)])
        with torch.no_grad():
            written = self.model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False, **options
            )
        return written[0, ids.shape[1] :].tolist()

    def surprises(self, ids):
        """−ln of the probability of each token but the first."""
        logits = torch.tensor(self.logits(ids))
        return torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(list(ids[1:])), reduction="none").numpy()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Writes printable ASCII, and has no chat template."""
    characters = ["Ġ", *map(chr, range(33, 127))]
    return make_decoder(tmp_path_factory.mktemp("models") / "plain", characters, seed=1)


@pytest.fixture(scope="module")
def chatty(tmp_path_factory):
    characters = ["Ġ", *map(chr, range(33, 127))]
    return make_decoder(tmp_path_factory.mktemp("models") / "chatty", characters, seed=2, template=TEMPLATE)


@pytest.fixture(scope="module")
def any_byte(tmp_path_factory):
    """Writes all bytes, and so characters of several of them, and no characters."""
    characters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    return make_decoder(tmp_path_factory.mktemp("models") / "bytes", characters, seed=3)


@pytest.fixture(scope="module")
def decoder(plain):
    return regard.Decoder.load(plain.folder)


@pytest.fixture
def smollm2(data):
    path = data / "SmolLM2-135M-Instruct.Q4_1.gguf"
    if not path.exists():
        pytest.skip(f"{path} is not there: scripts/fetch-test-data fetches it")
    return regard.Decoder.load(path)


# Decoders: what they compute.


@pytest.mark.parametrize("length", [1, 2, 17, 300])
def test_logits_are_as_good_as_those_of_transformers(plain, decoder, rng, length):
    ids = rng.integers(0, decoder.vocabulary, length)
    expected = plain.logits(ids)
    ours = decoder.logits(ids)
    assert ours.shape == (length, decoder.vocabulary) and ours.dtype == np.float32
    error, theirs = (abs(x - expected).max() for x in (ours, plain.logits(ids, plain.plain)))
    assert error <= 2 * theirs + 1e-6, f"{error:.2e} and {theirs:.2e} of {abs(expected).max():.1f}"
    np.testing.assert_array_equal(ours, decoder.logits(ids.tolist()))
    # What follows a token does not change its logits.
    np.testing.assert_array_equal(ours[: length // 2], decoder.logits(ids[: length // 2]))


def test_a_gguf_file_gives_the_logits_of_pytorch():
    said = json.loads((FIXTURES / "llama-random-f32.json").read_text())
    expected = np.fromfile(FIXTURES / "llama-random-f32.bin", dtype="<f4").reshape(-1, said["vocab"])
    decoder = regard.Decoder.load(str(FIXTURES / "llama-random-f32.gguf"))
    rows = [decoder.logits(prompt["tokens"])[prompt["positions"]] for prompt in said["prompts"]]
    np.testing.assert_allclose(np.concatenate(rows), expected, atol=2e-5 * abs(expected).max())


@pytest.mark.parametrize("prompt", ["The whale", "a", "0123456789" * 20])
def test_the_greedy_text_is_that_of_transformers(plain, decoder, prompt):
    ids = plain.tokenizer(prompt).input_ids
    assert decoder.tokenize(prompt) == ids
    expected = plain.greedy(ids, 80)
    text = decoder.generate(prompt, temperature=0, max_tokens=80, cache_dtype="float32")
    assert text == plain.tokenizer.decode(expected, skip_special_tokens=True)
    assert decoder.tokenize(text, sequence=False) == expected


def test_a_repeat_penalty_is_that_of_transformers(plain, decoder):
    ids = plain.tokenizer("Again and again").input_ids
    expected = plain.tokenizer.decode(plain.greedy(ids, 60, repetition_penalty=1.3), skip_special_tokens=True)
    options = {"temperature": 0, "max_tokens": 60, "repeat_last_n": 1000, "cache_dtype": "float32"}
    assert expected == decoder.generate("Again and again", repeat_penalty=1.3, **options)
    assert expected != decoder.generate("Again and again", **options)


def test_tokens_are_drawn_as_often_as_they_are_likely(plain, decoder):
    """Of so many draws, against the softmax of transformers' logits: χ² with its mean and deviation."""
    draws = 4000
    options = {"max_tokens": 1, "temperature": 2, "top_k": 0, "top_p": 1, "min_p": 0, "cache_dtype": "float32"}
    texts = [decoder.generate("Draw", seed=seed, **options) for seed in range(draws)]
    logits = plain.logits(plain.tokenizer("Draw").input_ids)[-1]
    likely = np.exp(logits / 2 - (logits / 2).max())
    likely /= likely.sum()
    # Control tokens have no text.
    names = np.array([plain.tokenizer.decode([token], skip_special_tokens=True) for token in range(len(likely))])
    each = sorted(set(names))
    expected = np.array([draws * likely[names == name].sum() for name in each])
    assert expected.min() >= 5, "all are common enough for χ²"
    observed = np.array([texts.count(name) for name in each])
    assert observed.sum() == draws
    freedom = len(each) - 1
    assert ((observed - expected) ** 2 / expected).sum() < freedom + 5 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("prompt", [CHAT, "What is 2 + 2?"])
def test_chats_go_through_the_template(chatty, prompt):
    decoder = regard.Decoder.load(chatty.folder)
    assert decoder.has_chat_template
    messages = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
    ids = chatty.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    options = {"temperature": 0, "max_tokens": 40, "cache_dtype": "float32"}
    expected = chatty.tokenizer.decode(chatty.greedy(ids, 40), skip_special_tokens=True)
    assert decoder.generate(prompt, **options) == expected
    if isinstance(prompt, str):
        ids = chatty.tokenizer(prompt).input_ids
        raw = chatty.tokenizer.decode(chatty.greedy(ids, 40), skip_special_tokens=True)
        assert decoder.generate(prompt, raw=True, **options) == raw != expected
    else:
        with pytest.raises(ValueError, match="`raw` leaves it out"):
            decoder.generate(prompt, raw=True)


def test_messages_need_a_template(decoder):
    assert not decoder.has_chat_template
    with pytest.raises(ValueError, match="no|none"):
        decoder.generate(CHAT)


@pytest.mark.parametrize("context", [7, 64, 100])
def test_perplexity_is_that_of_transformers(plain, decoder, rng, context):
    text = "".join(rng.choice(list("the old whale and the sea, "), 450))
    ids = plain.tokenizer(text, add_special_tokens=False).input_ids
    windows = [ids[at : at + context] for at in range(0, len(ids) - context + 1, context)]
    surprises = [plain.surprises([plain.tokenizer.bos_token_id, *window[1:]]) for window in windows]
    expected = np.exp(np.mean(surprises))
    assert decoder.perplexity(text, context=context, cache_dtype="float32") == pytest.approx(expected, rel=2e-6)
    assert decoder.perplexity(text, context=context) == pytest.approx(expected, rel=2e-3)
    first = np.exp(np.mean(surprises[:2]))
    assert decoder.perplexity(text, context=context, windows=2, cache_dtype="float32") == pytest.approx(first, rel=2e-6)


def test_the_perplexity_of_a_book_is_that_of_the_same_weights_in_pytorch(smollm2, data):
    said = json.loads((FIXTURES / "perplexity.json").read_text())
    book = data / "moby-dick.txt"
    if not book.exists():
        pytest.skip(f"{book} is not there: scripts/fetch-test-data fetches it")
    text = book.read_text(errors="replace")
    nll = said["f32"]["128"]["nll"]
    expected = np.exp(sum(nll) / (127 * len(nll)))
    ours = smollm2.perplexity(text, context=128, windows=len(nll), cache_dtype="float32")
    assert ours == pytest.approx(expected, rel=5e-3)


# Decoders: texts.


@pytest.mark.parametrize("seed", range(8))
def test_a_stream_is_the_text_in_pieces(any_byte, seed):
    decoder = regard.Decoder.load(any_byte.folder)
    options = {"max_tokens": 200, "temperature": 1.5, "seed": seed, "raw": True}
    pieces = list(decoder.stream("Bytes: ", **options))
    assert len(pieces) > 20 and all(pieces)
    assert "".join(pieces) == decoder.generate("Bytes: ", **options)


def test_pieces_are_whole_characters(any_byte):
    """The greedy tokens are those of transformers, and their bytes what Python's own decoder makes of them."""
    ids = any_byte.tokenizer("é").input_ids
    names = {name: byte for byte, name in byte_names().items()}
    tokens = any_byte.greedy(ids, 150)
    written = bytes(names[any_byte.tokenizer.convert_ids_to_tokens(token)] for token in tokens)
    assert any(byte > 127 for byte in written)
    incremental = codecs.getincrementaldecoder("utf-8")(errors="replace")
    expected = [incremental.decode(bytes([byte])) for byte in written] + [incremental.decode(b"", final=True)]
    decoder = regard.Decoder.load(any_byte.folder)
    pieces = list(decoder.stream("é", temperature=0, max_tokens=150, cache_dtype="float32"))
    assert pieces == [piece for piece in expected if piece]
    assert decoder.detokenize(tokens) == written.decode(errors="replace")


def byte_names():
    """GPT-2's printable name of each byte."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {byte: chr(byte) for byte in shown} | {byte: chr(256 + i) for i, byte in enumerate(hidden)}


def test_stop_strings_end_a_text(plain, decoder):
    options = {"temperature": 0, "max_tokens": 100, "cache_dtype": "float32"}
    tokens = plain.greedy(plain.tokenizer("Stop").input_ids, 100)
    whole = plain.tokenizer.decode(tokens, skip_special_tokens=True)
    for stop in (whole[30:33], whole[:1], whole[99:], "~never~"):
        expected = whole.split(stop)[0]
        assert decoder.generate("Stop", stop=stop, **options) == expected
        assert "".join(decoder.stream("Stop", stop=[stop, "~~~~~"], **options)) == expected
    # What begins one and turns out to be none is shown.
    assert decoder.generate("Stop", stop=whole[98:] + "~", **options) == whole


def test_a_seed_makes_the_text(decoder):
    texts = [decoder.generate("Once", seed=seed, max_tokens=30) for seed in (7, 7, 8)]
    assert texts[0] == texts[1] != texts[2]
    assert len({decoder.generate("Once", max_tokens=30) for _ in range(3)}) == 3


def test_a_draft_changes_nothing(plain, chatty, decoder, any_byte):
    options = {"max_tokens": 60, "seed": 3}
    expected = decoder.generate("Guess", **options)
    for folder in (plain.folder, chatty.folder):
        assert decoder.generate("Guess", draft=regard.Decoder.load(folder), **options) == expected
    with pytest.raises(ValueError, match="vocabulary is another one"):
        decoder.generate("Guess", draft=regard.Decoder.load(any_byte.folder))


def test_json_follows_its_schema(decoder):
    schema = {"enum": ["red", "green", {"blue": [1, 2]}]}
    for seed in range(5):
        for form in (schema, json.dumps(schema)):
            assert json.loads(decoder.generate("A colour: ", json_schema=form, seed=seed)) in schema["enum"]
    for write in (decoder.generate, lambda *args, **options: list(decoder.stream(*args, **options))):
        with pytest.raises(ValueError, match="cut before its end"):
            write("A colour: ", json_schema=schema, max_tokens=2)
    with pytest.raises(ValueError, match="schema"):
        decoder.generate("A colour: ", json_schema="no JSON")


def test_sampling_is_as_the_folder_prefers(plain, tmp_path):
    folder = shutil.copytree(plain.folder, tmp_path / "preferring")
    (folder / "generation_config.json").write_text('{"do_sample": false, "eos_token_id": 1}')
    decoder = regard.Decoder.load(folder)
    greedy = plain.tokenizer.decode(plain.greedy(plain.tokenizer("Hm").input_ids, 40), skip_special_tokens=True)
    assert decoder.generate("Hm", max_tokens=40, cache_dtype="float32") == greedy
    assert decoder.generate("Hm", max_tokens=40, cache_dtype="float32", temperature=2, seed=1) != greedy


def test_a_real_model_answers(smollm2):
    assert "Paris" in smollm2.generate("What is the capital of France?", temperature=0, max_tokens=40)
    messages = [{"role": "user", "content": "Repeat: naïve 😀 日本語"}]
    pieces = list(smollm2.stream(messages, temperature=0, max_tokens=40))
    assert "".join(pieces) == smollm2.generate(messages, temperature=0, max_tokens=40)
    assert smollm2.tokenize("<|im_end|>") != smollm2.tokenize("<|im_end|>", special=True) == [2]
    assert smollm2.detokenize(smollm2.tokenize("naïve 😀 日本語")) == "naïve 😀 日本語"
    assert repr(smollm2) == "<Decoder llama: 30 blocks of width 576, vocabulary 49152, context 8192>"


# Encoders.


def make_encoder(folder, pooling, normalize, limit=40):
    """A BERT of random weights that sentence-transformers saves, and what it makes of texts in float32."""
    sentences = pytest.importorskip("sentence_transformers", reason="sentence-transformers pools the vectors")
    from sentence_transformers import models

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    letters = [*map(chr, range(98, 123)), *(f"##{chr(c)}" for c in range(97, 115))]
    pieces = [*special, "the", "a", "whale", "sea", "ship", "##s", *letters]
    words = tokenizers.Tokenizer(tokenizers.models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="[UNK]"))
    words.normalizer = tokenizers.normalizers.BertNormalizer()
    words.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    words.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=limit,
    )  # fmt: skip
    config = transformers.BertConfig(
        vocab_size=len(pieces), hidden_size=48, intermediate_size=72, num_hidden_layers=2, num_attention_heads=3,
        max_position_embeddings=64,
    )  # fmt: skip
    inner = folder.parent / f"{folder.name}-inner"
    drawn(transformers.BertModel(config), seed=4, spread=1.5).save_pretrained(inner)
    tokenizer.save_pretrained(inner)
    modules = [
        models.Transformer(str(inner), max_seq_length=limit),
        models.Pooling(48, pooling_mode=pooling),
    ]
    if normalize:
        modules.append(models.Normalize())
    made = sentences.SentenceTransformer(modules=modules, device="cpu")
    made.save(str(folder))
    return made


TEXTS = ["The whale", "the sea, a ship! ships", "", "xylophone", "whale " * 70, "a", "The ship: whales? 日本 sea-whale."]


@pytest.mark.parametrize("pooling, normalize", [("mean", True), ("mean", False), ("cls", True)])
def test_vectors_are_those_of_sentence_transformers(tmp_path, pooling, normalize):
    made = make_encoder(tmp_path / "bert", pooling, normalize)
    encoder = regard.Encoder.load(tmp_path / "bert", precision="float32")
    assert (encoder.width, encoder.context, encoder.normalized, encoder.precision) == (48, 40, normalize, "float32")
    expected = made.encode(TEXTS)
    ours = encoder.encode(TEXTS)
    assert ours.shape == (len(TEXTS), 48) and ours.dtype == np.float32
    np.testing.assert_allclose(ours, expected, atol=2e-5 * abs(expected).max())
    one = encoder.encode(TEXTS[1])
    assert one.shape == (48,)
    np.testing.assert_array_equal(one, ours[1])
    assert encoder.encode([]).shape == (0, 48)
    np.testing.assert_array_equal(encoder.encode(text for text in TEXTS), ours)
    np.testing.assert_array_equal(encoder.encode(np.array(TEXTS)), ours)
    for precision, least in [("bfloat16", 0.9995), ("int8", 0.998), (None, 0.9995)]:
        rounded = regard.Encoder.load(tmp_path / "bert", precision=precision).encode(TEXTS)
        lengths = np.linalg.norm(rounded, axis=1) * np.linalg.norm(expected, axis=1)
        assert ((rounded * expected).sum(1) / lengths).min() > least
        # It does round.
        assert abs(rounded - expected).max() > 1e-4 * abs(expected).max()


def test_minilm_gives_the_vectors_of_sentence_transformers(data):
    path = data / "all-MiniLM-L6-v2"
    if not path.exists():
        pytest.skip(f"{path} is not there: scripts/fetch-test-data fetches it")
    sentences = pytest.importorskip("sentence_transformers", reason="sentence-transformers is the other side")
    texts = [*TEXTS, *(text for text in regard.Decoder.generate.__doc__.splitlines() if text.strip())]
    expected = sentences.SentenceTransformer(str(path), device="cpu").encode(texts)
    np.testing.assert_allclose(regard.Encoder.load(path, precision="float32").encode(texts), expected, atol=2e-6)
    encoder = regard.Encoder.load(path)
    assert encoder.precision == "bfloat16"
    assert (encoder.encode(texts) * expected).sum(1).min() > 0.9995


# What is wrong.


def test_what_is_not_there_is_an_os_error(tmp_path):
    for load in (regard.Decoder.load, regard.Encoder.load):
        with pytest.raises(FileNotFoundError, match="nothing-here"):
            load(tmp_path / "nothing-here")
        with pytest.raises(ValueError, match=f"{tmp_path.name}.*config.json"):
            load(tmp_path)
        for path in (5, None, ["a"]):
            with pytest.raises(TypeError):
                load(path)


def test_the_other_kind_of_model_is_named(plain, tmp_path):
    make_encoder(tmp_path / "bert", "mean", normalize=True)
    with pytest.raises(ValueError, match="bert is an encoder.*regard.Encoder"):
        regard.Decoder.load(tmp_path / "bert")
    for path in (plain.folder, FIXTURES / "llama-random-f32.gguf"):
        with pytest.raises(ValueError, match="writes text.*regard.Decoder"):
            regard.Encoder.load(path)


@pytest.mark.parametrize("kind", ["gguf", "folder", "encoder"])
def test_hostile_files_are_value_errors_that_name_them(plain, tmp_path, rng, kind):
    """Files that are cut, and whose bytes are others."""
    load = regard.Encoder.load if kind == "encoder" else regard.Decoder.load
    whole = tmp_path / "whole"
    if kind == "gguf":
        whole.mkdir()
        shutil.copy(FIXTURES / "tiny.gguf", whole / "tiny.gguf")
        place = lambda folder: folder / "tiny.gguf"  # noqa: E731
    else:
        shutil.copytree(plain.folder, whole) if kind == "folder" else make_encoder(whole, "mean", normalize=True)
        place = lambda folder: folder  # noqa: E731
    refused = 0
    files = [path for path in whole.rglob("*") if path.suffix in {".gguf", ".json", ".safetensors"}]
    for name in sorted(path.relative_to(whole) for path in files):
        for attempt in range(25):
            folder = shutil.copytree(whole, tmp_path / "hostile")
            file = folder / name
            content = bytearray(file.read_bytes())
            if attempt % 5 == 0:
                content = content[: rng.integers(len(content))]
            else:
                # Where the headers are.
                for at in rng.integers(0, min(len(content), 4000), 1 + attempt):
                    content[at] = rng.integers(256)
            file.write_bytes(content)
            try:
                model = load(place(folder))
                model.encode("a whale") if kind == "encoder" else model.generate("a", max_tokens=3, raw=True)
            except (ValueError, MemoryError, OSError) as error:
                refused += 1
                assert str(error)
                if attempt % 5 == 0 and name.suffix != ".json":
                    assert str(folder) in str(error)
            shutil.rmtree(folder)
    assert refused > 20


@pytest.mark.parametrize(
    "options, error, says",
    [
        ({"max_token": 5}, TypeError, "unexpected keyword argument 'max_token'"),
        ({"max_tokens": 0}, ValueError, "at least 1"),
        ({"max_tokens": -1}, ValueError, "not below 0"),
        ({"max_tokens": 2.5}, TypeError, "whole number"),
        ({"temperature": -1}, ValueError, "temperature"),
        ({"temperature": float("nan")}, ValueError, "finite"),
        ({"temperature": "hot"}, TypeError, "`temperature`"),
        ({"top_p": 0}, ValueError, "top_p"),
        ({"min_p": 2}, ValueError, "min_p"),
        ({"top_k": -1}, ValueError, "top_k"),
        ({"repeat_penalty": 0}, ValueError, "repeat_penalty"),
        ({"seed": -1}, ValueError, "seed"),
        ({"seed": 2**200}, ValueError, "`seed` is 16069"),
        ({"stop": ""}, ValueError, "empty"),
        ({"stop": ["a", 5]}, TypeError, "stop"),
        ({"stop": 5}, TypeError, "stop"),
        ({"stop": "a", "json_schema": {}}, ValueError, "stop"),
        ({"raw": 1}, TypeError, "True or False"),
        ({"cache_dtype": "float8"}, ValueError, "cache_dtype"),
        ({"draft": "model"}, TypeError, "a Decoder"),
        ({"context": 3}, ValueError, "context of 3"),
        ({"context": 10**12}, MemoryError, "memory"),
    ],
)
def test_wrong_options_are_named(decoder, options, error, says):
    for write in (decoder.generate, decoder.stream):
        with pytest.raises(error, match=says):
            write("A prompt", **options)


@pytest.mark.parametrize(
    "prompt, error",
    [(5, TypeError), (None, TypeError), (b"bytes", TypeError), ([5], TypeError), (["a"], TypeError),
     ([{"role": "user"}], ValueError), ([{"role": "user", "content": 5}], TypeError), ("a" * 600, ValueError),
     ("\ud800", UnicodeEncodeError)],
)  # fmt: skip
def test_wrong_prompts_are_refused(chatty, prompt, error):
    decoder = regard.Decoder.load(chatty.folder)
    for write in (decoder.generate, decoder.stream):
        with pytest.raises(error):
            write(prompt)


def test_wrong_tokens_and_texts_are_refused(decoder):
    for ids in ([decoder.vocabulary], [2**40]):
        for use in (decoder.logits, decoder.detokenize):
            with pytest.raises(ValueError, match="not in the vocabulary"):
                use(ids)
    for ids in ("abc", [1.5], [[1]], 7, [None]):
        with pytest.raises(TypeError):
            decoder.logits(ids)
    assert decoder.logits([]).shape == (0, decoder.vocabulary)
    assert decoder.detokenize([]) == ""
    with pytest.raises(ValueError, match="5 tokens.*lower `context`"):
        decoder.perplexity("short")
    for options in ({"context": 1}, {"context": 0}, {"windows": 0}):
        with pytest.raises(ValueError):
            decoder.perplexity("long enough", **options)
    with pytest.raises(TypeError):
        decoder.perplexity(b"bytes")


def test_texts_of_an_encoder_are_strings(tmp_path):
    make_encoder(tmp_path / "bert", "mean", normalize=True)
    encoder = regard.Encoder.load(tmp_path / "bert")
    for texts in (5, None, [5], ["a", b"b"], ["a", ["b"]]):
        with pytest.raises(TypeError):
            encoder.encode(texts)
    with pytest.raises(ValueError, match="precision"):
        regard.Encoder.load(tmp_path / "bert", precision="float16")


def test_models_run_on_the_threads_that_are_asked_for(plain, decoder):
    before = regard.num_threads()
    try:
        regard.set_num_threads(1)
        one = regard.Decoder.load(plain.folder)
    finally:
        regard.set_num_threads(before)
    assert (one.threads, decoder.threads, regard.Decoder.load(plain.folder, threads=3).threads) == (1, before, 3)
    np.testing.assert_array_equal(one.logits(range(50)), decoder.logits(range(50)))
    with pytest.raises(ValueError):
        regard.Decoder.load(plain.folder, threads=0)
    with pytest.raises(ValueError, match="isa"):
        regard.Decoder.load(plain.folder, isa="mmx")


# Company: signals, other threads, texts that nobody wants to the end.

LONG = {
    "generate": "decoder.generate('Go', max_tokens=10**6, context=200_000, temperature=0)",
    "stream": "''.join(decoder.stream('Go', max_tokens=10**6, context=200_000, temperature=0))",
    "logits": "decoder.logits([5] * 100_000)",
    "perplexity": "decoder.perplexity('whale ' * 30_000, context=90_000)",
    "encode": "encoder.encode(['the whale ' * 30] * 60_000)",
}


@pytest.mark.skipif(os.name != "posix", reason="signals are sent as POSIX has them")
@pytest.mark.parametrize("work", LONG)
def test_ctrl_c_ends_what_runs(plain, tmp_path, work):
    if work == "encode":
        make_encoder(tmp_path / "bert", "mean", normalize=True)
    script = f"""if True:
        import signal
        import regard
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background ignores
        decoder = regard.Decoder.load({str(plain.folder)!r})
        encoder = regard.Encoder.load({str(tmp_path / "bert")!r}) if {work == "encode"} else None
        print("begins", flush=True)
        try:
            {LONG[work]}
            print("ended by itself", flush=True)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        # It still works.
        print(decoder.generate("Stop", temperature=0, max_tokens=20, cache_dtype="float32"), flush=True)
    """
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    # What does not end fails, and hangs nothing.
    watch = threading.Timer(120, child.kill)
    watch.start()
    try:
        assert child.stdout.readline() == "begins\n"
        time.sleep(1)
        sent = time.monotonic()
        child.send_signal(signal.SIGINT)
        assert child.stdout.readline() == "interrupted\n"
        assert time.monotonic() - sent < 5
        expected = plain.greedy(plain.tokenizer("Stop").input_ids, 20)
        assert child.stdout.readline() == plain.tokenizer.decode(expected, skip_special_tokens=True) + "\n"
        assert child.wait(20) == 0
    finally:
        watch.cancel()
        child.kill()


def test_threads_write_at_once(plain, decoder):
    prompts = ["One", "Two", "Three", "Four"]
    written = {}

    def write(prompt):
        options = {"temperature": 0, "max_tokens": 60, "cache_dtype": "float32"}
        written[prompt] = [decoder.generate(prompt, **options), "".join(decoder.stream(prompt, **options))]

    threads = [threading.Thread(target=write, args=(prompt,)) for prompt in prompts]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    for prompt in prompts:
        expected = plain.greedy(plain.tokenizer(prompt).input_ids, 60)
        assert written[prompt] == 2 * [plain.tokenizer.decode(expected, skip_special_tokens=True)]


def test_others_run_meanwhile(decoder):
    """The interpreter's lock is free while a model computes."""
    ended = threading.Event()

    def compute():
        decoder.logits([5] * 6000)
        ended.set()

    thread = threading.Thread(target=compute)
    thread.start()
    ticks = 0
    while not ended.is_set():
        time.sleep(0.001)
        ticks += 1
    thread.join()
    assert ticks > 20


def writers(expected):
    """Threads that write streams, once there are as many as expected or it has taken too long."""
    deadline = time.monotonic() + 10
    while (count := count_writers()) != expected and time.monotonic() < deadline:
        time.sleep(0.01)
    return count


def count_writers():
    names = [(task / "comm").read_text().strip() for task in pathlib.Path("/proc/self/task").iterdir()]
    return names.count("regard-stream")


@pytest.mark.skipif(not pathlib.Path("/proc/self/task").exists(), reason="threads are counted as Linux shows them")
@pytest.mark.parametrize("leave", ["break", "close", "drop", "never begun"])
def test_a_stream_ends_with_its_iterator(decoder, leave):
    stream = decoder.stream("Go", max_tokens=10**6, context=200_000, temperature=0)
    if leave != "never begun":
        for _ in range(5):
            assert next(stream)
    assert writers(1) == 1
    if leave == "close":
        stream.close()
        assert list(stream) == []
    elif leave == "break":
        for _ in stream:
            break
    del stream
    gc.collect()
    assert writers(0) == 0
    # The model goes on.
    assert decoder.generate("Go", max_tokens=5)


def test_a_stream_of_the_process_that_was_forked(any_byte):
    stream = regard.Decoder.load(any_byte.folder).stream("Bytes: ", max_tokens=200, temperature=1.5, seed=0, raw=True)
    next(stream)
    child = os.fork()
    if child == 0:
        try:
            next(stream)
        except RuntimeError as error:
            os._exit(0 if "process that was forked" in str(error) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    stream.close()


def test_a_stream_in_two_threads(any_byte):
    """One of them waits for a piece; the other is told so, and no piece is lost."""
    options = {"max_tokens": 300, "temperature": 1.5, "seed": 0, "raw": True}
    decoder = regard.Decoder.load(any_byte.folder)
    stream, taken, refused = decoder.stream("Bytes: ", **options), [], []

    def take():
        while True:
            try:
                piece = next(stream, None)
            except RuntimeError as error:
                refused.append(str(error))
                continue
            if piece is None:
                return
            taken.append(piece)

    threads = [threading.Thread(target=take) for _ in range(2)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert sorted(taken) == sorted(decoder.stream("Bytes: ", **options))
    assert all("borrowed" in message for message in refused)
