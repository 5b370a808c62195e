"""Models of Hugging Face with random weights: their own eager attention is the oracle."""

import copy

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import regard.transformers  # noqa: E402

regard.transformers.register()

SIZES = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
}

#: Family, and what makes it what it is.
DECODERS = {
    "llama": ("Llama", {}),
    "mistral": ("Mistral", {"sliding_window": 7}),
    "qwen2": ("Qwen2", {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}),
    "qwen3": ("Qwen3", {}),
    "gemma2": (
        "Gemma2",
        {"sliding_window": 6, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 10.0, "query_pre_attn_scalar": 16},
    ),
    "gemma3": (
        "Gemma3",
        {
            "sliding_window": 8,
            "query_pre_attn_scalar": 16,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "phi3": ("Phi3", {"sliding_window": 11}),
    "gpt_oss": ("GptOss", {"sliding_window": 8, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "olmo2": ("Olmo2", {}),
    "granite": ("Granite", {"attention_multiplier": 0.1}),
    "starcoder2": ("Starcoder2", {"sliding_window": 10}),
    "cohere2": ("Cohere2", {"sliding_window": 8}),
    "smollm3": ("SmolLM3", {}),
    "stablelm": ("StableLm", {}),
}


def decoder(family):
    name, more = DECODERS[family]
    config = getattr(transformers, f"{name}TextConfig" if name == "Gemma3" else f"{name}Config")(**(SIZES | more))
    torch.manual_seed(sum(map(ord, family)))
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    if family == "gpt_oss":
        # Its grouped product knows no float64.
        model.config._experts_implementation = "eager"
    with torch.no_grad():
        # As they are made their scores are all but equal; and sinks are what is in fresh memory.
        for parameter in model.parameters():
            spread = 0.25 if parameter.dim() > 1 else 0.1
            offset = parameter.mean().round() if parameter.dim() == 1 and torch.isfinite(parameter).all() else 0
            parameter.copy_(offset + spread * torch.randn_like(parameter))
    return model


def with_attention(model, name):
    model = copy.deepcopy(model)
    model.set_attn_implementation(name)
    return model


def as_good(run, model, run_truly=None):
    """What a model gives with Regard is as near to the truth, eager attention in float64, as eager attention is. (Its softmax
    is in float32 even then.)"""
    with torch.no_grad():
        truth = (run_truly or run)(with_attention(copy.deepcopy(model).double(), "eager"))
        plain, ours = run(with_attention(model, "eager")), run(with_attention(model, "regard"))
    assert torch.isfinite(truth).all() and ours.shape == truth.shape
    error, plain_error = (float(abs(x.double() - truth).max()) for x in (ours, plain))
    places = 32 * torch.finfo(ours.dtype).eps * float(abs(truth).max())
    assert error <= 2 * plain_error + places, f"{error:.2e}, eager attention {plain_error:.2e}"


def count_calls(monkeypatch):
    """Calls of Regard's attention: a test that has none holds eager attention against itself."""
    calls, attend = [], regard.transformers.attend
    monkeypatch.setattr(regard.transformers, "attend", lambda *a: calls.append(1) or attend(*a))
    return calls


def padded(tokens, lengths, left):
    """A mask ``[batch, tokens]`` of the real ones."""
    at, lengths = torch.arange(tokens), torch.tensor(lengths)[:, None]
    return (at >= tokens - lengths if left else at < lengths).long()


@pytest.fixture
def ids():
    return torch.randint(2, 97, (3, 33), generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("padding", [None, "left", "right"])
def test_logits(family, padding, ids, monkeypatch):
    calls = count_calls(monkeypatch)
    mask = None if padding is None else padded(33, [33, 20, 9], padding == "left")

    def run(model):
        logits = model(input_ids=ids, attention_mask=mask).logits
        return logits if mask is None else logits[mask.bool()]

    def each_alone(model):
        """In float64 eager attention makes NaN of rows of padding, which spreads."""
        return torch.cat([model(input_ids=row[kept][None]).logits[0] for row, kept in zip(ids, mask.bool(), strict=True)])

    as_good(run, decoder(family), None if mask is None else each_alone)
    assert len(calls) == 3


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_greedy_ids(family, cache, ids):
    model = decoder(family)
    mask = padded(33, [33, 25, 14], left=True)
    options = {"max_new_tokens": 12, "do_sample": False, "cache_implementation": cache, "disable_compile": True}
    texts = [
        with_attention(model, name).generate(input_ids=ids, attention_mask=mask, **options) for name in ("eager", "regard")
    ]
    assert texts[0].shape == (3, 45) and (texts[0] == texts[1]).all()


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gpt_oss"])
@pytest.mark.parametrize("padding", [None, "left"])
def test_compiled_whole(family, padding, ids):
    """One graph without a break; windows, softcaps and sinks reach it, and gradients flow back."""
    torch._dynamo.reset()
    model = with_attention(decoder(family), "regard")
    if family == "gpt_oss":
        # Its eager one asks how many there are for each expert.
        model.config._experts_implementation = "batched_mm"
    mask = None if padding is None else padded(33, [33, 20, 9], padding == "left")

    def run(model):
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        logits = logits if mask is None else logits[mask.bool()]
        parameters = [p for p in model.parameters() if p.requires_grad]
        return [logits, *torch.autograd.grad(logits.square().mean(), parameters, allow_unused=True)]

    compiled = torch.compile(lambda *_, model=model, **call: model(**call), fullgraph=True, backend="aot_eager")
    compiled.parameters = model.parameters
    for a, b in zip(run(compiled), run(model), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_greedy_ids_compiled(family, ids):
    """Generation makes the masks of a static cache before what is compiled."""
    torch._dynamo.reset()
    options = {"max_new_tokens": 6, "do_sample": False, "cache_implementation": "static", "disable_compile": True}
    mask, texts = padded(33, [33, 25, 14], left=True), []
    for name in ("eager", "regard"):
        model = with_attention(decoder(family), name)
        if name == "regard":
            model.forward = torch.compile(model.forward, backend="aot_eager")
        texts.append(model.generate(input_ids=ids, attention_mask=mask, **options))
    assert torch.equal(*texts)


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2"])
def test_a_prompt_in_parts(family, ids):
    model = with_attention(decoder(family), "regard")

    def run(model, parts):
        cache, logits = transformers.DynamicCache(config=model.config), []
        for part in ids.split(parts, dim=1):
            logits.append(model(input_ids=part, past_key_values=cache).logits)
        return torch.cat(logits, dim=1)

    with torch.no_grad():
        torch.testing.assert_close(run(model, 10), run(model, 33), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", DECODERS)
def test_ten_training_losses(family, ids):
    model = decoder(family)
    mask = padded(33, [33, 20, 9], left=False)
    labels = ids.masked_fill(mask == 0, -100)
    losses = {}
    for name in ("eager", "regard"):
        own = with_attention(model, name).train()
        optimiser = torch.optim.AdamW(own.parameters(), lr=1e-3)
        losses[name] = []
        for _ in range(10):
            loss = own(input_ids=ids, attention_mask=mask, labels=labels).loss
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses[name].append(loss.item())
    assert losses["eager"][-1] < losses["eager"][0]
    assert losses["regard"] == pytest.approx(losses["eager"], rel=1e-4)


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt_oss"])
def test_autocast(family, ids):
    model = decoder(family)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        ours, plain = (with_attention(model, name)(input_ids=ids).logits for name in ("regard", "eager"))
    with torch.no_grad():
        truth = with_attention(model, "eager")(input_ids=ids).logits
    assert ours.dtype == plain.dtype
    assert abs(ours - truth).max() <= 2 * abs(plain - truth).max()


def test_gradients_with_checkpoints(ids):
    model = with_attention(decoder("llama"), "regard").train()
    mask, gradients = padded(33, [33, 20, 9], left=False), []
    for use in (False, True):
        if use:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        loss = model(input_ids=ids, attention_mask=mask, labels=ids).loss
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_a_mask_is_written_out_for_who_looks_into_it():
    def carrier():
        if transformers.__version__.startswith("4."):
            pytest.skip("of transformers 5")
        call = {"batch_size": 1, "q_length": 9, "kv_length": 9}
        return regard.transformers._mask(**call)

    q = torch.randn(3, 1, 2, 9, 8).unbind()
    attend = lambda mask: regard.transformers._attend(torch.nn.Module(), *q, mask)[0]  # noqa: E731
    whole, mask = attend(carrier()), carrier()
    written = torch.ones(9, 9).tril().bool()[None, None]
    assert mask.shape == written.shape and mask.dtype == torch.bool and mask.dim() == 4
    for changed in (mask.detach(), mask.clone(), mask.to("cpu"), mask[:, :, :, :9], mask & True):
        assert torch.equal(changed, written)
        torch.testing.assert_close(attend(changed), whole)
    torch.testing.assert_close(attend(torch.where(mask, 0.0, -torch.inf)), whole)
    mask[..., 0] = False
    assert not torch.equal(mask, written)
    torch.testing.assert_close(attend(mask)[:, 1:], attend(written & (torch.arange(9) > 0))[:, 1:])
    # They are no numbers to be added, which models mean that know of no attention but their own.
    scores = torch.zeros(1, 2, 9, 9)
    weigh = (
        lambda mask: scores + mask,
        lambda mask: scores + mask[..., :9],
        lambda mask: scores.masked_fill(mask, -1.0),
        lambda mask: (1 - mask.to(scores.dtype)) * -1e9,
    )
    for one in weigh:
        with pytest.raises(ValueError, match="weighs scores by its mask itself"):
            one(carrier())


@pytest.mark.parametrize("name", ["indices", "block_indices", "head_mask"])
def test_what_a_layer_selects_is_not_ignored(name):
    q = torch.randn(1, 2, 9, 8)
    with pytest.raises(ValueError, match=f"takes no {name}"):
        regard.transformers._attend(torch.nn.Module(), q, q, q, None, **{name: torch.zeros(1, 9, 4, dtype=torch.long)})


def test_packed_sequences(ids):
    positions = torch.cat([torch.arange(n) for n in (5, 17, 11)])[None].expand(3, -1)
    as_good(lambda model: model(input_ids=ids, position_ids=positions, use_cache=False).logits, decoder("llama"))


def test_a_mask_of_four_axes(ids):
    kept = torch.rand(3, 1, 33, 33, generator=torch.Generator().manual_seed(3)) < 0.5
    kept |= torch.eye(33, dtype=torch.bool)
    added = torch.zeros(kept.shape).masked_fill(~kept, torch.finfo(torch.float32).min)
    model = decoder("llama")

    def run(model):
        return model(input_ids=ids, attention_mask=added.to(model.dtype)).logits

    as_good(run, model)
    with torch.no_grad():
        ours = with_attention(model, "regard")
        torch.testing.assert_close(ours(input_ids=ids, attention_mask=kept).logits, run(ours), rtol=1e-4, atol=1e-4)
    with torch.inference_mode():
        of_inference = kept.clone()
        torch.testing.assert_close(ours(input_ids=ids, attention_mask=of_inference).logits, run(ours), rtol=1e-4, atol=1e-4)


ENCODERS = {
    "bert": ("Bert", {}),
    "modernbert": ("ModernBert", {"local_attention": 8, "global_attn_every_n_layers": 2, "sep_token_id": 3, "cls_token_id": 2}),
    "mpnet": ("MPNet", {}),
    "roberta": ("Roberta", {}),
    "distilbert": ("DistilBert", {"dim": 64, "n_heads": 4, "n_layers": 3, "hidden_dim": 96}),
    "electra": ("Electra", {"embedding_size": 64}),
    "vit": ("ViT", {"image_size": 32, "patch_size": 8}),
}


#: What transformers lets have no attention of others.
OF_ITS_OWN = {"mpnet", "electra"}


def encoder(family):
    name, more = ENCODERS[family]
    config = getattr(transformers, f"{name}Config")(**(SIZES | more))
    torch.manual_seed(sum(map(ord, family)))
    model = getattr(transformers, f"{name}Model")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(0.3 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("family", ENCODERS)
@pytest.mark.parametrize("padding", [False, True])
def test_encoders(family, padding, ids, monkeypatch):
    mask = padded(33, [33, 20, 9], left=False) if padding else torch.ones(3, 33, dtype=torch.long)

    def run(model):
        if family == "vit":
            pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
            return model(pixel_values=pixels.to(model.dtype)).last_hidden_state
        return model(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()]

    def each_alone(model):
        return torch.cat(
            [model(input_ids=row[kept][None]).last_hidden_state[0] for row, kept in zip(ids, mask.bool(), strict=True)]
        )

    model = encoder(family)
    calls = count_calls(monkeypatch)
    as_good(run, model, each_alone if padding and family != "vit" else None)
    lets_others = family not in OF_ITS_OWN and transformers.__version__ >= "5"
    assert len(calls) == 3 or not lets_others


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_bfloat16(family, ids):
    as_good(lambda model: model(input_ids=ids).logits, decoder(family).bfloat16())


def test_weights_on_request(ids):
    model = decoder("gemma2")
    with torch.no_grad():
        ours = with_attention(model, "regard")(input_ids=ids, output_attentions=True)
        theirs = with_attention(model, "eager")(input_ids=ids, output_attentions=True)
    for a, b in zip(ours.attentions, theirs.attentions, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_mask_is_not_written_out(ids, monkeypatch):
    """Known parts stay a mask; unknown ones are written out, and right."""
    written = []
    original = transformers.masking_utils.sdpa_mask
    monkeypatch.setattr(transformers.masking_utils, "sdpa_mask", lambda *a, **b: written.append(1) or original(*a, **b))
    for family in ("llama", "mistral", "gemma2", "gemma3", "qwen2"):
        with torch.no_grad():
            with_attention(decoder(family), "regard")(input_ids=ids, attention_mask=padded(33, [33, 20, 9], left=True))
    assert not written
    own = lambda batch, head, query, key: (key <= query) & (key % 3 != 1)  # noqa: E731
    queries = {"cache_position": torch.arange(9)} if transformers.__version__ < "5" else {"q_length": 9}
    call = {"batch_size": 1, **queries, "kv_length": 9, "mask_function": own}
    mask = regard.transformers._mask(**call)
    assert written and mask.shape == (1, 1, 9, 9)


def test_sentence_transformers(data):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    folder = data / "all-MiniLM-L6-v2"
    if not (folder / "model.safetensors").exists():
        pytest.skip(f"{folder} is missing: scripts/fetch-test-data fetches it")
    texts = ["A cat sits.", "The whale, the harpooner, and the sea, " * 20, "", "Two dogs run in a park."]
    vectors = [
        sentence_transformers.SentenceTransformer(str(folder), device="cpu", model_kwargs={"attn_implementation": name}).encode(
            texts
        )
        for name in ("eager", "regard")
    ]
    assert abs(vectors[0] - vectors[1]).max() < 1e-5
