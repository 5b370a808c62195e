//! Cases are read as they stand, and refused by what is wrong with them.

use proptest::prelude::*;
use regard_attention::Segment;
use serde_json::json;

use super::*;

fn entry() -> Value {
    json!({"id": "a", "batch": 2, "heads": 6, "kv_heads": 3, "queries": 5, "keys": 7, "dim": 8,
        "dtype": "bf16", "mask": "causal"})
}

fn with(changes: Value) -> Value {
    let mut case = entry();
    for (field, value) in changes.as_object().unwrap() {
        case[field] = value.clone();
    }
    case
}

fn refused(case: Value) -> String {
    parse(&json!([case]).to_string()).unwrap_err()
}

#[test]
fn a_case_is_read_as_it_stands() {
    let case = with(json!({"mask": "causal-window", "window": 3, "globals": 1, "backward": true}));
    let cases = parse(&json!([entry(), with(json!({"id": "b"})), {"id": "c"}]).to_string());
    assert_eq!(
        cases.unwrap_err(),
        "case \"c\": `mask` is missing, expected \"none\" or \"causal\" or \"window\" or \"causal-window\""
    );
    let case = &parse(&json!([case]).to_string()).unwrap()[0];
    assert_eq!(case.shape, Shape { batch: 2, heads: 6, kv_heads: 3, queries: 5, keys: 7, dim_k: 8, dim_v: 8 });
    assert_eq!((case.dtype, case.keep), (Dtype::Bf16, Keep::CausalWindow { window: 3, globals: 1 }));
    assert!(case.backward && !case.is_decode() && case.versus.is_none() && case.target == Target::default());
    assert_eq!(case.lengths(), (2 * 6 * 5 * 8, 2 * 3 * 7 * 8));
    assert_eq!(case.source["window"], 3);
}

#[test]
fn a_case_is_compared_with_one_that_differs_in_some_fields() {
    let case = with(json!({"mask": "window", "window": 3, "target": {"ratio": 0.8, "scratch_mb": 2},
        "versus": {"id": "dense", "mask": "none", "window": null, "queries": 9}}));
    let case = &parse(&json!([case]).to_string()).unwrap()[0];
    assert_eq!(case.target, Target { ratio: Some(0.8), share: None, scratch_mb: Some(2.0) });
    let versus = case.versus.as_deref().unwrap();
    assert_eq!((&*versus.id, versus.keep, versus.shape), ("dense", Keep::All, Shape { queries: 9, ..case.shape }));
    assert_eq!((versus.target, versus.dtype, versus.versus.is_none()), (Target::default(), Dtype::Bf16, true));
}

#[test]
fn decoding_has_a_cache_unless_it_is_said_otherwise() {
    let read = |changes| parse(&json!([with(changes)]).to_string()).unwrap().remove(0);
    let (one, two) = (read(json!({"queries": 1})), read(json!({})));
    assert_eq!((one.is_decode(), one.cache, two.is_decode(), two.cache), (true, Some(Kept::Contiguous), false, None));
    assert_eq!(None, read(json!({"queries": 1, "cache": "none"})).cache);
    assert_eq!(Some(Kept::Paged), read(json!({"queries": 1, "cache": "paged"})).cache);
    let in_bytes = read(json!({"queries": 1, "cache_dtype": "int8", "versus": {"id": "b", "cache_dtype": "bf16"}}));
    let dtypes = [&in_bytes, in_bytes.versus.as_deref().unwrap(), &one].map(|case| case.cache_dtype);
    assert_eq!([CacheDtype::Int8, CacheDtype::Bf16, CacheDtype::Bf16], dtypes);
    assert_eq!([2 * 8 + 2 * 4, 2 * 8 * 2], [in_bytes.key_bytes(), one.key_bytes()]);
    let shared = read(json!({"queries": 1, "prefix": 6}));
    assert_eq!((shared.prefix, shared.cache), (6, None));
}

#[test]
fn packed_sequences_follow_each_other() {
    let case = with(json!({"queries": [2, 3], "keys": [4, 3], "apart": true}));
    let case = &parse(&json!([case]).to_string()).unwrap()[0];
    assert_eq!((case.shape.queries, case.shape.keys, case.apart), (5, 7, true));
    assert_eq!(case.stretches(), [(0..2, 0..4), (2..5, 4..7)]);
    let last = Segment { batch: 1, queries: 2..5, keys: 4..7 };
    assert_eq!((case.segments().len(), &case.segments()[3]), (4, &last));
    let whole = &parse(&json!([entry()]).to_string()).unwrap()[0];
    assert_eq!((whole.stretches(), whole.apart), (vec![(0..5, 0..7)], false));
}

#[test]
fn what_is_wrong_is_named() {
    for (changes, words) in [
        (json!({"heads": "six"}), ["`heads`", "\"six\""]),
        (json!({"heads": 0}), ["`heads`", "at least 1"]),
        (json!({"batch": -1}), ["`batch`", "-1"]),
        (json!({"queries": 1.5}), ["`queries`", "1.5"]),
        (json!({"keys": 18446744073709551615_u64}), ["\"a\"", "8 GiB"]),
        (json!({"dim": 1e300}), ["`dim`", "1e+300"]),
        (json!({"kv_heads": 4}), ["`heads` is 6", "`kv_heads`, 4"]),
        (json!({"dtype": "f64"}), ["`dtype`", "\"f16\""]),
        (json!({"mask": "windows"}), ["`mask`", "\"windows\""]),
        (json!({"mask": "window"}), ["`window`", "missing"]),
        (json!({"mask": "causal-window", "window": 0}), ["`window` is 0", "keys"]),
        (json!({"mask": "window", "window": 1, "globals": "x"}), ["`globals`", "\"x\""]),
        (json!({"window": 3}), ["`window`", "belongs to"]),
        (json!({"backward": 1}), ["`backward`", "true"]),
        (json!({"queries": [1, 2]}), ["`keys` is 7", "a list"]),
        (json!({"queries": [1, 2], "keys": [7]}), ["`keys` is [7]", "as long"]),
        (json!({"queries": [1, 0], "keys": [7, 7]}), ["`queries` is [1,0]", "at least 1"]),
        (json!({"queries": [], "keys": []}), ["`queries` is []", "at least 1"]),
        (json!({"queries": [u64::MAX, 2], "keys": [u64::MAX, 2]}), ["\"a\"", "8 GiB"]),
        (json!({"versus": {"mask": "none"}}), ["`versus`", "`id`"]),
        (json!({"versus": {"id": "b", "heads": 0}}), ["`versus`: case \"b\"", "`heads` is 0"]),
        (json!({"versus": {"id": "b", "versus": {}}}), ["`versus`", "of its own"]),
        (json!({"target": {"ratio": "much"}}), ["`target`", "positive"]),
        (json!({"target": {"speed": 1}}), ["`target`", "`ratio`"]),
        (json!({"prefix": 3}), ["`prefix` is 3", "behind it"]),
        (json!({"prefix": 1, "backward": true}), ["`prefix`", "forward"]),
        (json!({"cache": "none"}), ["`cache`", "one query"]),
        (json!({"queries": 1, "cache": "big"}), ["`cache` is \"big\"", "\"contiguous\""]),
        (json!({"cache_dtype": "int8"}), ["`cache_dtype`", "with a `cache`"]),
        (json!({"queries": 1, "cache_dtype": 8}), ["`cache_dtype` is 8", "\"int8\""]),
        (json!({"global": 1}), ["`global`", "no field"]),
        (json!({"id": 7}), ["case 0", "`id`"]),
        (json!({"id": "a\u{1b}[2J"}), ["case 0", "`id`"]),
    ] {
        let message = refused(with(changes));
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    }
    assert!(refused(Value::Null).contains("case 0"));
    assert!(parse("{}").is_err() && parse("[").unwrap_err().contains("JSON"));
    let twice = json!([entry(), entry()]).to_string();
    assert!(parse(&twice).unwrap_err().contains("earlier"));
    let long = refused(with(json!({"dtype": "é".repeat(10_000)})));
    assert!(long.len() < 300, "{long}");
}

proptest! {
    #[test]
    fn the_engine_is_told_the_mask_that_the_form_describes(
        causal: bool, window in 0..40_usize, globals in 0..8_usize, p in -5..60_i64, j in 0..60_usize,
    ) {
        let keep = match causal {
            true => Keep::CausalWindow { window: window + 1, globals },
            false => Keep::Window { window, globals },
        };
        prop_assert_eq!(keep.keeps(p, j as i64), keep.mask().allows(p, j, 1000));
    }

    #[test]
    fn no_file_makes_the_reader_panic(text in "\\PC*") {
        let _ = parse(&text);
    }
}
