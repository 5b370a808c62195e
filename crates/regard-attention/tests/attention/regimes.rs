//! Which way a call takes; and that random calls take all of them.

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use regard_attention::{Options, Plan, Regime, Shape};
use regard_masks::Mask;
use regard_simd::Isa;

use crate::support::{Asked, calls};

#[test]
fn are_chosen_from_a_sequence_alone() {
    let few = Shape { batch: 1, heads: 6, kv_heads: 2, queries: 100, keys: 512, dim_k: 16, dim_v: 16 };
    let one = Shape { queries: 1, ..few };
    for (shape, regime) in [
        (few, Regime::Strips),
        (one, Regime::Strips),
        (Shape { keys: 513, ..few }, Regime::Blocks),
        (Shape { keys: 1024, ..one }, Regime::Blocks),
        (Shape { keys: 1025, ..one }, Regime::Splits),
        // Neither the batch nor its heads decide.
        (Shape { batch: 50, keys: 1025, ..one }, Regime::Splits),
        (Shape { heads: 300, kv_heads: 100, ..few }, Regime::Strips),
    ] {
        let plan = Plan::new(shape, &Mask::causal(), &Options::default()).expect("a plan");
        assert!(plan.sequences().iter().all(|sequence| sequence.regime() == regime), "{plan}");
        let text = plan.to_string();
        let said = format!("regime    {}", format!("{regime:?}").to_lowercase());
        assert!(text.contains(&said) && text.contains(&format!("{} × {}", shape.queries, shape.keys)), "{text}");
    }
}

#[test]
fn masks_that_keep_few_keys_at_a_time_are_cut_into_strips() {
    let shape = Shape { batch: 1, heads: 2, kv_heads: 2, queries: 4096, keys: 4096, dim_k: 16, dim_v: 16 };
    let window = || Mask::window(Some(64), Some(64));
    for (mask, regime) in [
        (window(), Regime::Strips),
        (window() | Mask::global_keys(0..16), Regime::Strips),
        (Mask::block_diagonal(100).expect("a mask"), Regime::Strips),
        (Mask::causal(), Regime::Blocks),
        (window() | Mask::strided(100).expect("a mask"), Regime::Blocks),
        // Of the tiles that see forty scattered keys a row a hundredth is live.
        (Mask::random(0.01, 1).expect("a mask"), Regime::Edges),
        (Mask::random(0.2, 1).expect("a mask"), Regime::Blocks),
        // A strip would be as long as the sequence.
        (Mask::window(Some(1000), Some(0)), Regime::Blocks),
        // The heads of a sequence are cut alike.
        (Mask::by_head([window(), Mask::causal()]).expect("a mask"), Regime::Blocks),
    ] {
        let plan = Plan::new(shape, &mask, &Options::default()).expect("a plan");
        assert_eq!(plan.sequences()[0].regime(), regime, "{plan}");
    }
}

/// Products take a prompt's time, and reading keys a token's; what is computed besides is said.
#[test]
fn a_plan_says_what_bounds_it_and_what_it_computes_for_nothing() {
    let prompt = Shape { batch: 1, heads: 8, kv_heads: 8, queries: 2048, keys: 2048, dim_k: 64, dim_v: 64 };
    let token = Shape { queries: 1, keys: 1 << 17, ..prompt };
    let of = |shape, mask: &Mask| Plan::new(shape, mask, &Options::default()).expect("a plan").to_string();
    let bounds = |text: &str| {
        let line = |name: &str| text.lines().find(|line| line.starts_with(name)).expect("a line").to_owned();
        ["f32 ", "bf16"].map(line).map(|line| (line.contains("by arithmetic"), line.contains("by memory")))
    };
    assert_eq!(bounds(&of(prompt, &Mask::full())), [(true, false); 2]);
    // An emulator multiplies slower than it reads.
    if cfg!(target_arch = "x86_64") {
        assert_eq!(bounds(&of(token, &Mask::full())), [(false, true); 2]);
    }
    let work = |mask: &Mask| of(prompt, mask).lines().find(|line| line.starts_with("work")).expect("a line").to_owned();
    assert!(work(&Mask::full()).ends_with("100.0% are live (100.0% in full panels, 0.0% in rims, 0.0% gathered)"));
    let scattered = work(&Mask::random(0.01, 1).expect("a mask"));
    assert!(scattered.ends_with("GFLOP; 100.0% of the live pairs one by one"), "{scattered}");
    let window = work(&Mask::window(Some(64), Some(64)));
    assert!(window.contains("in full panels") && !window.contains("100.0% are live"), "{window}");
    assert!(!work(&Mask::strided(64).expect("a mask")).contains(" 0.0% gathered"));
}

/// A property that no call reaches would hold of anything.
#[test]
fn random_calls_reach_all() {
    let mut runner = TestRunner::deterministic();
    let mut ways = [
        ("small heads", 0),
        ("strips", 0),
        ("edges", 0),
        ("blocks", 0),
        ("splits", 0),
        ("gathered keys", 0),
        ("splits of the gradient", 0),
        ("several regimes at once", 0),
        ("groups that are several tiles", 0),
    ];
    for _ in 0..200 {
        let problem = calls().new_tree(&mut runner).expect("a call").current();
        let plan = Asked::new(&problem, Isa::best()).plan();
        let (sequences, sizes) = (plan.sequences(), problem.sizes);
        let any = |regime| sequences.iter().any(|of| of.regime() == regime && !of.queries.is_empty());
        let keys = |most: usize| sequences.iter().any(|of| !of.keys.is_empty() && of.keys.len() <= most);
        let plain = problem.bias.is_none() && problem.slopes.is_none() && problem.sinks.is_none();
        let plain = plain && problem.softcap.is_none() && problem.dropout.is_none();
        let regimes = [Regime::Strips, Regime::Blocks, Regime::Splits].map(any);
        let lists = (0..sequences.len()).flat_map(|of| (0..sizes.kv_heads).map(move |head| (of, head)));
        let reached = [
            plain && regimes[0] && keys(128),
            regimes[0] && !keys(128),
            any(Regime::Edges),
            regimes[1],
            regimes[2],
            lists.into_iter().any(|(of, head)| plan.layout(of, head).lists() > 0),
            sequences.iter().any(|of| !of.queries.is_empty() && of.keys.len() > 512),
            regimes.iter().filter(|&&any| any).count() > 1,
            sizes.heads / sizes.kv_heads > 6,
        ];
        ways.iter_mut().zip(reached).for_each(|((_, count), reached)| *count += usize::from(reached));
    }
    assert!(ways.iter().all(|&(_, count)| count >= 4), "{ways:?}");
}
