//! Random models of the Llama family against PyTorch: `tests/peers/random_llama.py` made the files and the logits.

mod support;

use regard_models::{CacheDtype, LoadOptions, Model};
use regard_simd::Isa;

use support::fixture;
use support::logits::{Distances, Feeding, Reference, distance, logits};

/// The reference of a model, and its logits: rows in the order of prompts and positions.
fn reference(name: &str) -> (Reference, Vec<Vec<f32>>) {
    let file = |ending: &str| fixture(&format!("llama-random-{name}.{ending}"));
    Reference::read(&file("json"), &file("bin"))
}

fn load(reference: &Reference, isa: Isa, threads: usize) -> Model {
    let options = LoadOptions { threads: Some(threads), isa: Some(isa) };
    Model::load(&fixture(reference.model.as_ref().expect("a file")), &options).expect("the model is sound")
}

fn check(name: &str, cache: CacheDtype, bound: impl Fn(&Distances) -> f64) {
    let (reference, mut expected) = reference(name);
    for isa in Isa::available() {
        let model = load(&reference, isa, 2);
        let mut rest = expected.as_slice();
        let mut session = model.session(300, cache).expect("there is memory");
        for prompt in &reference.prompts {
            let (rows, others) = rest.split_at(prompt.positions.len());
            rest = others;
            for feeding in [Feeding::Whole, Feeding::Tokens, Feeding::Chunks(37)] {
                let distance = distance(&logits(&mut session, prompt, feeding), rows);
                let (bound, len) = (bound(prompt.llama_cpp.as_ref().expect("its distances")), prompt.tokens.len());
                assert!(distance <= bound, "{name} on {isa}, {len} tokens {feeding:?}: {distance:.1e} > {bound:.1e}");
            }
        }
        assert!(rest.is_empty());
    }
    // The comparison can fail: another row is far away.
    expected.rotate_left(1);
    let model = load(&reference, Isa::best(), 1);
    let mut session = model.session(300, cache).expect("there is memory");
    let prompt = &reference.prompts[0];
    let wrong = distance(&logits(&mut session, prompt, Feeding::Whole), &expected[..prompt.positions.len()]);
    assert!(wrong > 0.1, "a wrong row is only {wrong:.1e} away");
}

#[test]
fn exact_weights_give_exact_logits() {
    for name in ["f32", "rope3", "f16", "bf16"] {
        check(name, CacheDtype::F32, |_| 1e-4);
    }
}

#[test]
fn half_caches_are_as_good_as_llama_cpp_s() {
    // bf16 has 3 bits less than f16 (8 times), the weights of values are rounded to it too, and twice the plain error.
    for name in ["f32", "rope3"] {
        check(name, CacheDtype::F16, |peer| 2.0 * peer.cache_f16);
        check(name, CacheDtype::Bf16, |peer| 32.0 * peer.cache_f16);
    }
}

#[test]
fn quantized_weights_are_as_good_as_llama_cpp_s() {
    for name in ["q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q4_k", "q5_k", "q6_k"] {
        check(name, CacheDtype::F32, |peer| 2.0 * peer.cache_f32);
    }
}

#[test]
fn threads_change_no_bit() {
    for name in ["f32", "q4_1"] {
        let (reference, _) = reference(name);
        let run = |threads: usize| {
            let model = load(&reference, Isa::best(), threads);
            let mut session = model.session(300, CacheDtype::Bf16).expect("there is memory");
            let run = |feeding| reference.prompts.iter().map(|prompt| logits(&mut session, prompt, feeding)).collect();
            [Feeding::Whole, Feeding::Tokens].map(run)
        };
        let one: [Vec<Vec<Vec<f32>>>; 2] = run(1);
        assert!(one == run(2) && one == run(5));
    }
}

#[test]
fn later_tokens_change_no_earlier_bit() {
    let (reference, _) = reference("f32");
    let model = load(&reference, Isa::best(), 2);
    let mut session = model.session(300, CacheDtype::F32).expect("there is memory");
    let mut tokens = reference.prompts[3].tokens.clone();
    let mut run = |tokens: &[u32]| {
        session.truncate(0);
        let mut rows = Vec::new();
        session.feed_all(tokens, &mut |_, logits| rows.push(logits.to_vec())).expect("the prompt fits");
        rows
    };
    let before = run(&tokens);
    tokens[200] = (tokens[200] + 1) % 256;
    let after = run(&tokens);
    assert_eq!(before[..200], after[..200]);
    assert!(before[200..].iter().zip(&after[200..]).all(|(a, b)| a != b));
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let (reference, _) = reference("f32");
    let model = load(&reference, Isa::best(), 1);
    let mut session = model.session(10, CacheDtype::F32).expect("there is memory");
    session.feed(&[1, 2, 3]).expect("three tokens fit");
    let error = session.feed(&[1; 8]).unwrap_err().to_string();
    assert_eq!(error, "the context holds 3 of 10 tokens, 8 more do not fit");
    assert!(session.feed(&[4, 100_000]).unwrap_err().to_string().contains("token 100000"));
    assert!(session.feed(&[]).is_err());
    assert_eq!(session.len(), 3);
    assert!(model.session(0, CacheDtype::F32).is_err());
}
