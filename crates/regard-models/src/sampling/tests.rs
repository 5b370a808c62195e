//! The sampler against a slow one in f64 that sorts everything.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// The definition, step by step, with the draw's number given.
fn naive(logits: &[f32], options: &SamplingOptions, accepted: &[u32], uniform: f64) -> u32 {
    let mut logits = logits.to_vec();
    let recent = &accepted[accepted.len().saturating_sub(options.repeat_last_n)..];
    for &token in recent.iter().collect::<BTreeSet<_>>() {
        if let Some(logit) = logits.get_mut(token as usize) {
            *logit = if *logit > 0.0 { *logit / options.repeat_penalty } else { *logit * options.repeat_penalty };
        }
    }
    let mut tokens: Vec<(u32, f64)> = (0..).zip(logits.iter().map(|&logit| f64::from(logit))).collect();
    // Stable: equal logits stay in the order of their ids.
    tokens.sort_by(|a, b| b.1.total_cmp(&a.1));
    if options.temperature == 0.0 {
        return tokens[0].0;
    }
    if options.top_k > 0 {
        tokens.truncate(options.top_k);
    }
    let peak = tokens[0].1;
    let total: f64 = tokens.iter().map(|(_, logit)| (logit - peak).exp()).sum();
    let probability = |logit: f64| (logit - peak).exp() / total;
    if options.top_p < 1.0 {
        let mut mass = 0.0;
        let kept = tokens.iter().take_while(|(_, logit)| {
            let before = mass;
            mass += probability(*logit);
            before < f64::from(options.top_p)
        });
        tokens.truncate(kept.count());
    }
    tokens.retain(|(_, logit)| probability(*logit) >= f64::from(options.min_p) * probability(peak));
    let weights: Vec<f64> =
        tokens.iter().map(|(_, logit)| ((logit - peak) / f64::from(options.temperature)).exp()).collect();
    let target = uniform * weights.iter().sum::<f64>();
    let mut mass = 0.0;
    for ((token, _), weight) in tokens.iter().zip(&weights) {
        mass += weight;
        if target < mass {
            return *token;
        }
    }
    unreachable!("the target lies below the whole")
}

/// Logits of a model's shape: a few high ones, many low ones, some equal, some impossible.
fn logits(vocabulary: usize) -> impl Strategy<Value = Vec<f32>> {
    let logit = prop_oneof![
        8 => -12.0..0.0_f32,
        2 => -2.0..8.0_f32,
        2 => (-8..8_i8).prop_map(f32::from),
        1 => Just(f32::NEG_INFINITY),
    ];
    prop::collection::vec(logit, vocabulary)
        .prop_filter("a token must be possible", |logits| logits.iter().any(|logit| logit.is_finite()))
}

fn options() -> impl Strategy<Value = SamplingOptions> {
    let top_k = prop_oneof![Just(0), 1..100_usize, 100..3000_usize];
    let top_p = prop_oneof![Just(1.0), 0.01..1.0_f32];
    let min_p = prop_oneof![Just(0.0), Just(1.0), 0.0001..1.0_f32];
    let temperature = prop_oneof![1 => Just(0.0), 6 => 0.01..3.0_f32];
    let repeat = (prop_oneof![Just(1.0), 0.5..2.5_f32], prop_oneof![Just(0), Just(usize::MAX), 1..8_usize]);
    (temperature, top_k, top_p, min_p, repeat, any::<u64>()).prop_map(
        |(temperature, top_k, top_p, min_p, (repeat_penalty, repeat_last_n), seed)| SamplingOptions {
            temperature,
            top_k,
            top_p,
            min_p,
            repeat_penalty,
            repeat_last_n,
            seed,
        },
    )
}

proptest! {
    #[test]
    fn every_token_is_the_slow_samplers(
        steps in (1..2500_usize).prop_flat_map(|vocabulary| prop::collection::vec(logits(vocabulary), 1..6)),
        options in options(),
        given in prop::collection::vec(0..3000_u32, 0..12),
    ) {
        let mut sampler = Sampler::new(options.clone(), steps[0].len()).unwrap();
        let mut accepted = Vec::new();
        for token in given {
            sampler.accept(token);
            accepted.push(token);
        }
        // The numbers that the draws must use, from the generator's definition: stream = step, first word pair.
        let uniform = |step| {
            let mut generator = ChaCha8Rng::seed_from_u64(options.seed);
            generator.set_stream(step);
            (generator.next_u64() >> 11) as f64 / 2_f64.powi(53)
        };
        for (step, logits) in (0..).zip(steps) {
            let expected = naive(&logits, &options, &accepted, uniform(step));
            prop_assert_eq!(sampler.sample(&mut logits.clone()).unwrap(), expected);
            sampler.accept(expected);
            accepted.push(expected);
        }
    }

    #[test]
    fn bad_logits_are_an_error(
        mut logits in logits(300),
        at in 0..300_usize,
        bad in prop_oneof![Just(f32::NAN), Just(-f32::NAN), Just(f32::INFINITY)],
        options in options(),
    ) {
        logits[at] = bad;
        let mut sampler = Sampler::new(options, logits.len()).unwrap();
        sampler.accept(at as u32);
        prop_assert!(matches!(sampler.sample(&mut logits), Err(Error::Logits(_))));
        prop_assert!(matches!(sampler.sample(&mut logits[1..]), Err(Error::Logits(_))));
        logits.fill(f32::NEG_INFINITY);
        prop_assert!(matches!(sampler.sample(&mut logits), Err(Error::Logits(_))));
    }
}

/// Draws come as often as their probabilities say, to within five standard deviations.
#[test]
fn draws_follow_the_distribution() {
    let logits = [0.3_f32, 2.0, -1.0, 1.2, f32::NEG_INFINITY, 2.0, 0.9];
    let options =
        SamplingOptions { temperature: 0.7, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 7, ..SamplingOptions::default() };
    let weights: Vec<f64> = logits.iter().map(|&logit| (f64::from(logit) / 0.7).exp()).collect();
    let total: f64 = weights.iter().sum();
    let mut sampler = Sampler::new(options, logits.len()).unwrap();
    let mut counts = [0_u32; 7];
    let draws = 40_000;
    for _ in 0..draws {
        counts[sampler.sample(&mut logits.clone()).unwrap() as usize] += 1;
    }
    for (count, weight) in counts.iter().zip(&weights) {
        let (p, n) = (weight / total, f64::from(draws));
        let deviation = (n * p * (1.0 - p)).sqrt();
        assert!((f64::from(*count) - n * p).abs() <= 5.0 * deviation, "{counts:?} for {weights:?}");
    }
}

#[test]
fn options_out_of_range_are_named() {
    let wrong = |change: &dyn Fn(&mut SamplingOptions), name: &str| {
        let mut options = SamplingOptions::default();
        change(&mut options);
        match Sampler::new(options, 10) {
            Err(Error::SamplingOption { option, .. }) => assert_eq!(option, name),
            other => panic!("{name}: {other:?}"),
        }
    };
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.1] {
        wrong(&|options| options.temperature = bad, "temperature");
        wrong(&|options| options.top_p = bad, "top_p");
        wrong(&|options| options.min_p = bad, "min_p");
        wrong(&|options| options.repeat_penalty = bad, "repeat_penalty");
    }
    wrong(&|options| options.top_p = 0.0, "top_p");
    wrong(&|options| options.top_p = 1.1, "top_p");
    wrong(&|options| options.min_p = 1.1, "min_p");
    wrong(&|options| options.repeat_penalty = 0.0, "repeat_penalty");
}
