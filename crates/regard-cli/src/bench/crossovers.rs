//! Where the regimes of a plan cross on this machine: the same call, cut into tasks in several ways.

use comfy_table::presets::{ASCII_MARKDOWN, NOTHING};
use comfy_table::{CellAlignment, Table, TableStyle};
use half::bf16;
use regard_attention::{Crossovers, Options};
use regard_masks::Gather;
use regard_simd::Isa;
use regard_threads::Pool;
use serde_json::{Value, json};

use crate::bench::case::{self, Case, Dtype, Keep, Kept};
use crate::bench::inputs::{Inputs, Stored};
use crate::bench::measure::{FEWEST_ROUNDS, calls_of_a_turn, median, timed};
use crate::bench::ours::Ours;
use crate::bench::report::significant;
use crate::error::Error;
use crate::output::print_line;
use crate::progress;

/// A question, and the calls that answer it.
struct Question {
    asks: &'static str,
    /// Cut so; the first as plans are cut unless told otherwise.
    ways: Vec<(String, Crossovers)>,
    /// What is called, in words, and what there is more and more of: keys, of the sequence or of those that a query sees.
    calls: Vec<(&'static str, usize, Case)>,
}

type Ask = fn() -> Result<Question, Error>;

/// What can be asked, by the names that `--only` knows.
const QUESTIONS: [(&str, Ask); 4] =
    [("heads", heads_or_blocks), ("strips", strips_or_blocks), ("splits", whole_or_splits), ("scattered", scattered)];

/// The names of the questions.
pub(crate) fn ids() -> Vec<String> {
    QUESTIONS.iter().map(|(id, _)| (*id).to_owned()).collect()
}

/// Times every way of every call of the chosen questions, and prints each table when it is done.
///
/// # Errors
/// The engine refuses, or nothing can be printed.
pub(crate) fn measure(chosen: &[String], isa: Isa, pool: &Pool, markdown: bool) -> Result<(), Error> {
    let style = if markdown { ASCII_MARKDOWN } else { NOTHING };
    for (id, ask) in QUESTIONS.iter().filter(|(id, _)| chosen.iter().any(|chosen| chosen == id)) {
        let question = ask()?;
        let bar = progress::steps(question.calls.len() as u64, *id);
        let answer = question.answer(isa, pool, style, || bar.inc(1))?;
        bar.finish_and_clear();
        print_line(&format!("{answer}\n"))?;
    }
    Ok(())
}

/// Keys up to which a task had better pack a head for itself.
fn heads_or_blocks() -> Result<Question, Error> {
    let never = usize::MAX;
    let way = |name: &str, keys_of_a_head| {
        let crossovers = Crossovers::default();
        (name.to_owned(), Crossovers { keys_of_a_head, keys_of_a_strip: 0, keys_of_a_split: never, ..crossovers })
    };
    let mut calls = Vec::new();
    for (words, changes) in [
        ("8 heads of 64", json!({})),
        ("1 head of 64", json!({"heads": 1, "kv_heads": 1})),
        ("32 heads of 64", json!({"heads": 32, "kv_heads": 32})),
        ("8 heads of 128", json!({"dim": 128})),
        ("8 heads of 64, bf16", json!({"dtype": "bf16"})),
    ] {
        for keys in [64, 128, 256, 384, 512, 768, 1024, 2048] {
            calls.push((words, keys, call(keys, keys, &changes)?));
        }
    }
    Ok(Question {
        asks: "A task for each head, or blocks of queries over keys that all cores packed (causal)",
        ways: vec![now(), way("heads", never), way("blocks", 0)],
        calls,
    })
}

/// Keys up to which a strip had better hold what its queries keep.
fn strips_or_blocks() -> Result<Question, Error> {
    let way = |name: &str, keys_of_a_strip| (name.to_owned(), Crossovers { keys_of_a_strip, ..Crossovers::default() });
    let mut calls = Vec::new();
    for (words, changes) in [
        ("16,384 queries, 8 heads of 64", json!({})),
        ("16,384 queries, 1 head of 64", json!({"heads": 1, "kv_heads": 1})),
        ("16,384 queries, 8 heads of 64, bf16", json!({"dtype": "bf16"})),
    ] {
        for window in [64, 128, 256, 512, 1024, 1536] {
            let mut changes = changes.clone();
            (changes["mask"], changes["window"]) = (json!("causal-window"), json!(window));
            calls.push((words, window, call(16_384, 16_384, &changes)?));
        }
    }
    Ok(Question {
        asks: "Strips that pack what their window keeps, or blocks of queries over keys that all cores packed",
        ways: vec![now(), way("strips", usize::MAX), way("blocks", 0)],
        calls,
    })
}

/// Scattered keys: pair by pair, gathered into panels, or as rims of tiles; and what a gathered key costs beside a rim.
fn scattered() -> Result<Question, Error> {
    let gather = Crossovers::default().gather;
    let tiles =
        |name: &str, gather| (name.to_owned(), Crossovers { edge: f32::INFINITY, gather, ..Crossovers::default() });
    let gathered = [0.1, 0.25, 1.0].map(|key| tiles(&format!("key {key}"), Gather { key, ..gather }));
    let rims = tiles("rims", Gather { rim: 0.0, ..gather });
    let edges = ("edges".to_owned(), Crossovers { edge: 0.0, ..Crossovers::default() });
    let mut calls = Vec::new();
    for (words, changes) in [
        ("4096 queries and keys, 4 heads of 64", json!({"heads": 4, "kv_heads": 4})),
        ("… bf16", json!({"heads": 4, "kv_heads": 4, "dtype": "bf16"})),
        ("… 16 heads on 4", json!({"heads": 16, "kv_heads": 4})),
        ("… and backward", json!({"heads": 4, "kv_heads": 4, "backward": true})),
    ] {
        for per_mille in [1_u8, 2, 5, 10, 20, 50, 100, 200] {
            let mut call = call(4096, 4096, &changes)?;
            call.keep = Keep::Random { per_mille };
            calls.push((words, usize::from(per_mille), call));
        }
    }
    Ok(Question {
        asks: "Pairs one by one, keys gathered at so much beside a rim, or rims alone, over random masks that keep so many keys in a thousand",
        ways: [now(), edges].into_iter().chain(gathered).chain([rims]).collect(),
        calls,
    })
}

/// Keys that few queries had better fold at once.
fn whole_or_splits() -> Result<Question, Error> {
    let way = |keys: usize| (keys.to_string(), Crossovers { keys_of_a_split: keys, ..Crossovers::default() });
    let whole = ("whole".to_owned(), Crossovers { keys_of_a_split: usize::MAX, ..Crossovers::default() });
    let mut calls = Vec::new();
    for (words, queries, changes) in [
        ("1 query, 32 heads on 8 of 128", 1, json!({"heads": 32})),
        ("1 query, 4 heads on 1 of 128", 1, json!({"heads": 4, "kv_heads": 1})),
        ("8 queries, 32 heads on 8 of 128", 8, json!({"heads": 32})),
        ("1 query, 32 heads on 8 of 128, bf16", 1, json!({"heads": 32, "dtype": "bf16"})),
    ] {
        for keys in [512, 1024, 2048, 4096, 8192, 32768] {
            let mut changes = changes.clone();
            changes["dim"] = json!(128);
            let mut call = call(queries, keys, &changes)?;
            call.cache = Some(Kept::Contiguous);
            calls.push((words, keys, call));
        }
    }
    let ways = [256, 512, 1024, 2048, 4096].map(way);
    Ok(Question {
        asks: "Keys of a split, where few queries read a cache",
        ways: [now()].into_iter().chain(ways).chain([whole]).collect(),
        calls,
    })
}

fn now() -> (String, Crossovers) {
    ("now".into(), Crossovers::default())
}

/// A causal call of 8 heads of 64 in f32, but for some fields.
fn call(queries: usize, keys: usize, changes: &Value) -> Result<Case, Error> {
    let mut fields = json!({"id": "call", "batch": 1, "heads": 8, "kv_heads": 8, "queries": queries, "keys": keys,
        "dim": 64, "dtype": "f32", "mask": "causal"});
    for (field, value) in changes.as_object().into_iter().flatten() {
        fields[field] = value.clone();
    }
    let cases = case::parse(&json!([fields]).to_string());
    let problem = |problem| Error::Cases { file: "the crossovers".into(), problem };
    cases.map_err(problem).map(|mut cases| cases.remove(0))
}

impl Question {
    /// The table; says after each call that it is done.
    fn answer(&self, isa: Isa, pool: &Pool, style: TableStyle, done: impl Fn()) -> Result<String, Error> {
        let mut table = Table::new();
        let ways = self.ways.iter().map(|(name, _)| name.as_str());
        table.load_style(style).set_header(["call", "keys", "best ms"].into_iter().chain(ways));
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        for (words, keys, case) in &self.calls {
            let seconds = match case.dtype {
                Dtype::Bf16 => self.seconds::<bf16>(case, isa, pool)?,
                _ => self.seconds::<f32>(case, isa, pool)?,
            };
            let best = seconds.iter().copied().fold(f64::INFINITY, f64::min);
            let mut cells = vec![(*words).to_owned(), keys.to_string(), significant(best * 1e3)];
            cells.extend(seconds.iter().map(|seconds| format!("{:.2}", seconds / best)));
            table.add_row(cells);
            done();
        }
        let lines: Vec<_> = table.lines().map(|line| line.trim_end().to_owned()).collect();
        Ok(format!("{}, as multiples of the best time:\n\n{}", self.asks, lines.join("\n")))
    }

    /// The median of each way, all in turn.
    fn seconds<T: Stored>(&self, case: &Case, isa: Isa, pool: &Pool) -> Result<Vec<f64>, Error> {
        let options = |crossovers| Options { isa: Some(isa), crossovers, ..Options::default() };
        let mut ours = Ours::<T>::new(case, Inputs::random(case), &options(Crossovers::default()), pool)?;
        let mut times = vec![Vec::new(); self.ways.len()];
        for _ in 0..FEWEST_ROUNDS {
            for (times, (_, crossovers)) in times.iter_mut().zip(&self.ways) {
                ours.plan_again(case, &options(*crossovers))?;
                // The first call of a plan finds no scratch, and cold caches.
                let first = timed(|| Ok(ours.call()?))?;
                for _ in 0..calls_of_a_turn(first) {
                    times.push(timed(|| Ok(ours.call()?))?);
                }
            }
        }
        Ok(times.into_iter().map(median).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_of_calls_that_can_be_planned() {
        for question in QUESTIONS.map(|(_, ask)| ask().unwrap()) {
            assert_eq!(question.ways[0], now());
            for (words, keys, case) in &question.calls {
                let asked = match case.keep {
                    Keep::CausalWindow { window, .. } => window,
                    Keep::Random { per_mille } => per_mille.into(),
                    _ => case.shape.keys,
                };
                assert_eq!((asked, case.shape.dim_k >= 64), (*keys, true), "{words}");
                assert_eq!(case.cache.is_some(), case.shape.queries < 64, "{words}");
            }
        }
    }

    #[test]
    fn the_best_way_of_each_call_is_once_itself() {
        let calls = vec![
            ("a prompt", 90, call(90, 90, &json!({})).unwrap()),
            ("a token", 70, call(1, 70, &json!({})).unwrap()),
        ];
        let split = Crossovers { keys_of_a_split: 64, keys_of_a_head: 0, ..Crossovers::default() };
        let question = Question { asks: "Which", ways: vec![now(), ("split".into(), split)], calls };
        let table = question.answer(Isa::best(), Pool::global(), NOTHING, || ()).unwrap();
        assert!(table.starts_with("Which, as multiples") && table.contains("now  split"), "{table}");
        for words in ["a prompt", "a token"] {
            let row = table.lines().find(|line| line.trim_start().starts_with(words)).unwrap();
            let ratios: Vec<f64> = row.split_whitespace().skip(4).map(|ratio| ratio.parse().unwrap()).collect();
            assert!(ratios.len() == 2 && ratios.contains(&1.0) && ratios.iter().all(|&ratio| ratio >= 1.0), "{row}");
        }
    }
}
