//! A tiny Llama with random weights, as the bytes of a GGUF file.
//!
//! Its vocabulary is the 256 bytes and two control tokens, so every text can be read, and what it writes is noise.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Width of the model.
const WIDTH: u64 = 64;
/// Query heads.
const HEADS: u32 = 2;
/// Size of a head.
const HEAD: u64 = 32;
/// Width of the feed-forward part.
const HIDDEN: u64 = 96;
const LAYERS: u32 = 2;
/// Tokens that the model says it was made for.
pub(crate) const CONTEXT: u32 = 256;

/// What the model was made for.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Purpose {
    /// Conversations: there is a chat template.
    Chat,
    /// Texts.
    Text,
    /// Texts without end: no token ends one.
    EndlessText,
    /// Texts, by a file that has one more setting.
    With(&'static str, f32),
}

const CHAT_ML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + \
    '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// The file.
pub(crate) fn gguf(purpose: Purpose) -> Vec<u8> {
    let tensors = tensors();
    let mut metadata = Metadata::default();
    metadata.string("general.architecture", "llama");
    metadata.string("general.name", "tiny");
    for (key, value) in [
        ("llama.block_count", LAYERS),
        ("llama.context_length", CONTEXT),
        ("llama.embedding_length", WIDTH as u32),
        ("llama.feed_forward_length", HIDDEN as u32),
        ("llama.attention.head_count", HEADS),
        ("llama.attention.head_count_kv", 1),
        ("llama.rope.dimension_count", HEAD as u32),
        ("llama.vocab_size", 258),
    ] {
        metadata.number(key, value);
    }
    metadata.float("llama.attention.layer_norm_rms_epsilon", 1e-5);
    metadata.float("llama.rope.freq_base", 10_000.0);
    metadata.string("tokenizer.ggml.model", "gpt2");
    metadata.string("tokenizer.ggml.pre", "smollm");
    let letters = (0..=255).map(|byte| letter(byte).to_string());
    let controls = if purpose == Purpose::EndlessText { ["<a>", "<b>"] } else { ["<|im_start|>", "<|im_end|>"] };
    let controls = controls.map(String::from);
    metadata.strings("tokenizer.ggml.tokens", &letters.chain(controls).collect::<Vec<_>>());
    // 1 is an ordinary token, 3 a control token.
    metadata.integers("tokenizer.ggml.token_type", &[vec![1; 256], vec![3; 2]].concat());
    metadata.strings("tokenizer.ggml.merges", &[]);
    metadata.flag("tokenizer.ggml.add_bos_token", false);
    if let Purpose::With(key, value) = purpose {
        metadata.float(key, value);
    }
    if purpose == Purpose::Chat {
        metadata.string("tokenizer.chat_template", CHAT_ML);
    }

    let mut file = b"GGUF".to_vec();
    file.extend(3_u32.to_le_bytes());
    file.extend((tensors.len() as u64).to_le_bytes());
    file.extend(metadata.count.to_le_bytes());
    file.extend(&metadata.bytes);
    let mut offset = 0_u64;
    for (name, dims, _) in &tensors {
        file.extend(text(name));
        file.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|dim| file.extend(dim.to_le_bytes()));
        // Type 0 is f32.
        file.extend(0_u32.to_le_bytes());
        file.extend(offset.to_le_bytes());
        offset = (offset + 4 * dims.iter().product::<u64>()).next_multiple_of(32);
    }
    for (_, _, values) in &tensors {
        file.resize(file.len().next_multiple_of(32), 0);
        values.iter().for_each(|value| file.extend(value.to_le_bytes()));
    }
    file
}

/// Name, dimensions (the contiguous one first) and values.
type Tensor = (String, Vec<u64>, Vec<f32>);

fn tensors() -> Vec<Tensor> {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    // A sum of uniform numbers is normal enough.
    let mut normal = |scale: f32| {
        let sum: f32 = (0..12).map(|_| (random.next_u32() >> 8) as f32 / (1 << 24) as f32).sum();
        scale * (sum - 6.0)
    };
    let mut matrix = |name: String, inputs: u64, outputs: u64, scale: f32| -> Tensor {
        (name, vec![inputs, outputs], (0..inputs * outputs).map(|_| normal(scale)).collect())
    };
    let norm = |name: String| -> Tensor { (name, vec![WIDTH], vec![1.0; WIDTH as usize]) };
    let queries = u64::from(HEADS) * HEAD;
    let narrow = |inputs: u64| 1.0 / (inputs as f32).sqrt();
    let mut tensors = vec![
        matrix("token_embd.weight".into(), WIDTH, 258, 1.0),
        matrix("output.weight".into(), WIDTH, 258, 3.0 * narrow(WIDTH)),
        norm("output_norm.weight".into()),
    ];
    for layer in 0..LAYERS {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        tensors.extend([
            norm(name("attn_norm")),
            matrix(name("attn_q"), WIDTH, queries, narrow(WIDTH)),
            matrix(name("attn_k"), WIDTH, HEAD, narrow(WIDTH)),
            matrix(name("attn_v"), WIDTH, HEAD, narrow(WIDTH)),
            matrix(name("attn_output"), queries, WIDTH, narrow(queries)),
            norm(name("ffn_norm")),
            matrix(name("ffn_gate"), WIDTH, HIDDEN, narrow(WIDTH)),
            matrix(name("ffn_up"), WIDTH, HIDDEN, narrow(WIDTH)),
            matrix(name("ffn_down"), HIDDEN, WIDTH, narrow(HIDDEN)),
        ]);
    }
    tensors
}

/// The letter that GPT-2's alphabet writes for a byte.
fn letter(byte: u8) -> char {
    let plain = |byte: u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    if plain(byte) {
        return char::from(byte);
    }
    let rank = (0..byte).filter(|&before| !plain(before)).count() as u32;
    char::from_u32(256 + rank).unwrap()
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

#[derive(Default)]
struct Metadata {
    count: u64,
    bytes: Vec<u8>,
}

impl Metadata {
    fn entry(&mut self, key: &str, kind: u32, value: &[u8]) {
        self.count += 1;
        self.bytes.extend(text(key));
        self.bytes.extend(kind.to_le_bytes());
        self.bytes.extend(value);
    }

    fn number(&mut self, key: &str, value: u32) {
        self.entry(key, 4, &value.to_le_bytes());
    }

    fn float(&mut self, key: &str, value: f32) {
        self.entry(key, 6, &value.to_le_bytes());
    }

    fn flag(&mut self, key: &str, value: bool) {
        self.entry(key, 7, &[u8::from(value)]);
    }

    fn string(&mut self, key: &str, value: &str) {
        self.entry(key, 8, &text(value));
    }

    fn strings(&mut self, key: &str, values: &[String]) {
        let items: Vec<u8> = values.iter().flat_map(|value| text(value)).collect();
        self.array(key, 8, values.len(), &items);
    }

    fn integers(&mut self, key: &str, values: &[i32]) {
        let items: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.array(key, 5, values.len(), &items);
    }

    fn array(&mut self, key: &str, kind: u32, count: usize, items: &[u8]) {
        let head = [&kind.to_le_bytes()[..], &(count as u64).to_le_bytes()].concat();
        self.entry(key, 9, &[&head[..], items].concat());
    }
}
