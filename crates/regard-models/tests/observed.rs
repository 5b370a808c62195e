//! What an observer is shown: what PyTorch's attention takes, of every token once, and nothing that changes a logit.

mod support;

use regard_models::{CacheDtype, LoadOptions, Model};
use regard_simd::Isa;

use support::fixture;
use support::logits::Reference;

/// The tokens whose numbers `tests/peers/observed.py` wrote.
const POSITIONS: [usize; 6] = [0, 1, 99, 255, 256, 299];

fn model(name: &str) -> (Model, Vec<u32>) {
    let folder = fixture("folders").join(name);
    let (reference, _) = Reference::read(&folder.join("reference.json"), &folder.join("logits.bin"));
    let tokens =
        reference.prompts.into_iter().map(|prompt| prompt.tokens).max_by_key(Vec::len).expect("there are prompts");
    let options = LoadOptions { threads: Some(2), isa: Some(Isa::best()) };
    (Model::load(&folder, &options).expect("the folder is sound"), tokens)
}

/// `[block][token]`: query heads, key heads and value heads, one after the other; and the last logits.
fn observe(model: &Model, feeds: &[&[u32]], cache: CacheDtype) -> (Vec<Vec<Vec<f32>>>, Vec<f32>) {
    let tokens: usize = feeds.iter().map(|tokens| tokens.len()).sum();
    let mut session = model.session(tokens, cache).expect("there is memory");
    let mut seen = vec![Vec::new(); model.description().blocks.len()];
    let mut logits = Vec::new();
    for tokens in feeds {
        let given = session.feed_observed(tokens, &mut |observed| {
            let rows: &mut Vec<Vec<f32>> = &mut seen[observed.block];
            assert_eq!(observed.first, rows.len(), "tokens come in order");
            for row in 0..observed.queries.shape()[2] {
                let all = [observed.queries, observed.keys, observed.values].map(|tensor| {
                    let [batch, heads, ..] = tensor.shape();
                    assert_eq!(batch, 1);
                    (0..heads).flat_map(|head| tensor.rows(0, head).row(row).to_vec()).collect::<Vec<_>>()
                });
                rows.push(all.concat());
            }
        });
        logits = given.expect("the tokens fit").to_vec();
    }
    assert!(seen.iter().all(|rows| rows.len() == tokens), "every token is seen in every block");
    (seen, logits)
}

#[test]
fn attention_takes_what_pytorch_s_takes() {
    for name in ["llama", "qwen3", "phi3"] {
        let (model, tokens) = model(name);
        let (seen, _) = observe(&model, &[&tokens[..37], &tokens[37..]], CacheDtype::F32);
        let bytes = std::fs::read(fixture("folders").join(name).join("observed.bin")).expect("the file is there");
        let expected: Vec<f32> = bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        let rows = seen.iter().flat_map(|rows| POSITIONS.map(|at| rows[at].as_slice()));
        assert_eq!(expected.len(), rows.clone().map(<[f32]>::len).sum::<usize>());
        let mut rest = expected.as_slice();
        for (at, row) in rows.enumerate() {
            let (expected, others) = rest.split_at(row.len());
            rest = others;
            let largest = expected.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
            let off = row.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(off <= 1e-4 * largest, "{name}, row {at}: {off:.1e} of {largest}");
            // The comparison can fail: another token is far away.
            let other = &seen[at / POSITIONS.len()][7];
            assert!(other.iter().zip(expected).any(|(a, b)| (a - b).abs() > 0.1 * largest));
        }
    }
}

#[test]
fn an_observer_changes_no_bit() {
    let (model, tokens) = model("llama");
    for cache in [CacheDtype::F32, CacheDtype::Int8] {
        let (_, observed) = observe(&model, &[&tokens], cache);
        let mut session = model.session(tokens.len(), cache).expect("there is memory");
        assert_eq!(session.feed(&tokens).expect("the tokens fit"), observed);
    }
}

#[test]
fn what_is_refused_shows_nothing() {
    let (model, tokens) = model("llama");
    let mut session = model.session(tokens.len() - 1, CacheDtype::F32).expect("there is memory");
    let mut watch = |_: &regard_models::Observed<'_>| panic!("nothing is computed");
    let said = [&tokens[..], &[], &[1 << 30]].map(|tokens| session.feed_observed(tokens, &mut watch).is_err());
    assert_eq!((said, session.len()), ([true; 3], 0));
}
