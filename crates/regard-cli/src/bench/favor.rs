//! FAVOR+ beside exact attention: how far off it is and how long it takes, over features, length and size of scores.

use comfy_table::presets::{ASCII_MARKDOWN, NOTHING};
use comfy_table::{CellAlignment, Table, TableStyle};
use regard_attention::{Favor, FavorFeatures, FavorInputs, FavorOutputs, Inputs, Options, Outputs, Plan, Shape};
use regard_masks::Mask;
use regard_memory::{Arena, Tensor, TensorMut};
use regard_oracle::{Recurrence, largest_error, numbers, widen};
use regard_simd::Isa;
use regard_threads::Pool;
use serde_json::{Value, json};

use crate::bench::Arguments;
use crate::bench::measure::{alternate, median, turn};
use crate::bench::report::{Accuracy, significant};
use crate::bench::setting::Setting;
use crate::error::Error;
use crate::output::print_line;
use crate::progress;

const HEADS: usize = 8;
const DIM: usize = 64;
const FEATURES: [usize; 3] = [64, 128, 256];
const TOKENS: [usize; 7] = [512, 768, 1024, 1536, 2048, 4096, 8192];
/// Standard deviations of the scores.
const SCORES: [f64; 3] = [0.25, 1.0, 2.0];
/// What times are taken with: they depend on no number.
const TIMED: usize = 1;

/// What `--only` knows: numbers of features.
pub(crate) fn ids() -> Vec<String> {
    FEATURES.iter().map(|&features| id(features)).collect()
}

fn id(features: usize) -> String {
    format!("features-{features}")
}

/// A number of features at a length.
struct Row {
    features: usize,
    tokens: usize,
    seconds: f64,
    exact_seconds: f64,
    /// For each of [`SCORES`], what the results are off by, beside the results of exact attention.
    errors: [f64; SCORES.len()],
    /// Against the formula in f64, by the largest difference.
    accuracy: Accuracy,
}

/// Measures all lengths with the chosen features, and prints them.
///
/// # Errors
/// The engine refuses, a result is wrong, or nothing can be printed.
pub(crate) fn measure(
    chosen: &[String],
    setting: &Setting,
    pool: &Pool,
    &Arguments { markdown, json: as_json, .. }: &Arguments,
) -> Result<(), Error> {
    let chosen: Vec<usize> = FEATURES.into_iter().filter(|&features| chosen.contains(&id(features))).collect();
    let bar = progress::steps((chosen.len() * TOKENS.len()) as u64, "");
    let mut rows = Vec::new();
    for &features in &chosen {
        let drawn = FavorFeatures::new(DIM, features, 1)?;
        for tokens in TOKENS {
            bar.set_message(format!("{features} features, {tokens} tokens"));
            let row = Row::measure(&drawn, tokens, setting.isa, pool)?;
            if as_json {
                bar.suspend(|| print_line(&row.json(setting).to_string()))?;
            }
            rows.push(row);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    if !as_json {
        let (table, lines) = (table(&rows, if markdown { ASCII_MARKDOWN } else { NOTHING }), overtakes(&chosen, &rows));
        let run = format!("{setting}. {}.\n\n```sh\n{}\n```", setting.version, setting.command);
        print_line(&format!("{table}\n\n{}", if markdown { format!("{lines}\n\n{run}") } else { lines }))?;
    }
    let wrong = rows.iter().filter(|row| !row.accuracy.is_right());
    let wrong: Vec<_> = wrong.map(|row| format!("{}, {} tokens", id(row.features), row.tokens)).collect();
    if wrong.is_empty() { Ok(()) } else { Err(Error::Wrong { cases: wrong.join("; ") }) }
}

/// Causal attention over some tokens.
struct Call<'a> {
    shape: [usize; 4],
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    out: Vec<f32>,
    scratch: Arena,
    pool: &'a Pool,
}

impl<'a> Call<'a> {
    /// Normal numbers, so large that the scores have this standard deviation.
    fn new(tokens: usize, score: f64, pool: &'a Pool) -> Self {
        let len = HEADS * tokens * DIM;
        let draw = |stream, size: f64| numbers(stream, len).iter().map(|x| x * size as f32).collect::<Vec<_>>();
        let (q, k, v) = (draw(1, score.sqrt()), draw(2, score.sqrt()), draw(3, 1.0));
        Call { shape: [1, HEADS, tokens, DIM], q, k, v, out: vec![0.0; len], scratch: Arena::new(), pool }
    }

    fn exact(&mut self, plan: &Plan) -> Result<(), Error> {
        let tensor = |numbers| Tensor::contiguous(numbers, self.shape).map_err(regard_attention::Error::from);
        let inputs = Inputs::new(tensor(&self.q)?, tensor(&self.k)?, tensor(&self.v)?);
        let out = TensorMut::contiguous(&mut self.out, self.shape).map_err(regard_attention::Error::from)?;
        Ok(plan.run(&inputs, Outputs::new(out), &mut self.scratch, self.pool)?)
    }

    fn favor(&mut self, favor: &Favor<'_>, sums: &mut [f32]) -> Result<(), Error> {
        let tensor = |numbers| Tensor::contiguous(numbers, self.shape).map_err(regard_attention::Error::from);
        let inputs = FavorInputs { q: tensor(&self.q)?, k: tensor(&self.k)?, v: tensor(&self.v)?, state: None };
        let mut largest = [0.0; HEADS];
        let into = |numbers, shape| TensorMut::contiguous(numbers, shape).map_err(regard_attention::Error::from);
        let features = sums.len() / (HEADS * (DIM + 1));
        let state = (into(sums, [1, HEADS, features, DIM + 1])?, into(&mut largest, [1, HEADS, 1, 1])?);
        let outputs = FavorOutputs { out: into(&mut self.out, self.shape)?, state };
        Ok(favor.run(&inputs, outputs, &mut self.scratch, self.pool)?)
    }

    /// What the first head's results are by the formula, as means by features, without any stabiliser: in f64, and worked out
    /// in f32.
    fn formula(&self, features: &FavorFeatures) -> [Vec<f64>; 2] {
        let of_head = |numbers: &[f32]| widen(&numbers[..self.shape[2] * DIM]);
        let [q, k, v] = [&self.q, &self.k, &self.v].map(|numbers| of_head(numbers));
        let root = (DIM as f64).powf(-0.25);
        let directions = widen(features.rows());
        let exact = |x: &[f64]| -> Vec<f64> {
            let norm = x.iter().map(|x| x * x).sum::<f64>() * root * root / 2.0;
            let dots = directions.chunks(DIM).map(|w| w.iter().zip(x).map(|(w, x)| w * root * x).sum::<f64>());
            dots.map(|dot| (dot - norm).exp()).collect()
        };
        let plain = |x: &[f64]| -> Vec<f64> {
            let x: Vec<f32> = x.iter().map(|&x| (x * root) as f32).collect();
            let norm = x.iter().map(|x| x * x).sum::<f32>() / 2.0;
            let dots = features.rows().chunks(DIM).map(|w| w.iter().zip(&x).map(|(w, x)| w * x).sum::<f32>());
            dots.map(|dot| f64::from((dot - norm).exp())).collect()
        };
        let with_ones: Vec<f64> = v.chunks(DIM).flat_map(|v| v.iter().copied().chain([1.0])).collect();
        let call = |lift: &dyn Fn(&[f64]) -> Vec<f64>| Recurrence {
            batch: 1,
            tokens: self.shape[2],
            dim_k: features.count(),
            dim_v: DIM + 1,
            heads: [1; 5],
            q: q.chunks(DIM).flat_map(lift).collect(),
            k: k.chunks(DIM).flat_map(lift).collect(),
            v: with_ones.clone(),
            scale: 1.0,
            ..Recurrence::default()
        };
        let mean = |out: Vec<f64>| -> Vec<f64> {
            out.chunks(DIM + 1).flat_map(|row| row[..DIM].iter().map(|x| x / row[DIM])).collect()
        };
        [mean(call(&exact).exact().0), mean(call(&plain).plain().0)]
    }
}

impl Row {
    fn measure(features: &FavorFeatures, tokens: usize, isa: Isa, pool: &Pool) -> Result<Row, Error> {
        let favor = Favor::new(features, Some(isa))?;
        let shape =
            Shape { batch: 1, heads: HEADS, kv_heads: HEADS, queries: tokens, keys: tokens, dim_k: DIM, dim_v: DIM };
        let plan = Plan::new(shape, &Mask::causal(), &Options { isa: Some(isa), ..Options::default() })?;
        let mut sums = vec![0.0; HEADS * features.count() * (DIM + 1)];
        let mut errors = [0.0; SCORES.len()];
        let mut accuracy = Accuracy { of: "out", error: f64::NAN, bound: 0.0 };
        for (at, score) in SCORES.into_iter().enumerate() {
            let mut call = Call::new(tokens, score, pool);
            call.exact(&plan)?;
            let exact = call.out.clone();
            call.favor(&favor, &mut sums)?;
            let square = |numbers: &mut dyn Iterator<Item = f32>| numbers.map(|x| f64::from(x).powi(2)).sum::<f64>();
            let off = square(&mut call.out.iter().zip(&exact).map(|(x, y)| x - y));
            errors[at] = (off / square(&mut exact.iter().copied())).sqrt();
            if at == TIMED {
                let [formula, plain] = call.formula(features);
                let ours = widen(&call.out[..tokens * DIM]);
                accuracy.bound = 2.0 * largest_error(&plain, &formula);
                accuracy.error =
                    if ours.iter().any(|x| !x.is_finite()) { f64::NAN } else { largest_error(&ours, &formula) };
            }
        }
        let (mut ours, mut other) = (Call::new(tokens, SCORES[TIMED], pool), Call::new(tokens, SCORES[TIMED], pool));
        let exact = |calls| turn(calls, || other.exact(&plan));
        let times = alternate(|| ours.favor(&favor, &mut sums), exact, || ())?;
        let (seconds, exact_seconds) = (median(times.ours), median(times.peer));
        Ok(Row { features: features.count(), tokens, seconds, exact_seconds, errors, accuracy })
    }

    fn ratio(&self) -> f64 {
        self.exact_seconds / self.seconds
    }

    fn json(&self, setting: &Setting) -> Value {
        let errors: Vec<Value> =
            SCORES.iter().zip(self.errors).map(|(score, error)| json!({"scores": score, "error": error})).collect();
        json!({
            "features": self.features,
            "tokens": self.tokens,
            "ms": self.seconds * 1e3,
            "exact_ms": self.exact_seconds * 1e3,
            "ratio": self.ratio(),
            "errors": errors,
            "formula_error": self.accuracy.error,
            "formula_bound": self.accuracy.bound,
            "right": self.accuracy.is_right(),
            "isa": setting.isa.name(),
            "threads": setting.threads,
        })
    }
}

fn table(rows: &[Row], style: TableStyle) -> String {
    let mut header: Vec<String> = ["features", "tokens", "ms", "exact ms", "ratio"].map(str::to_owned).into();
    header.extend(SCORES.iter().map(|score| format!("off at {score}")));
    header.push("from the formula".into());
    let mut table = Table::new();
    table.load_style(style).set_header(header);
    table.column_iter_mut().for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    for row in rows {
        let mut cells = vec![row.features.to_string(), row.tokens.to_string()];
        cells.extend([row.seconds, row.exact_seconds].map(|seconds| significant(seconds * 1e3)));
        cells.push(format!("{:.2}×", row.ratio()));
        cells.extend(row.errors.map(|error| format!("{:.1}%", error * 100.0)));
        cells.push(format!("{:.1e}{}", row.accuracy.error, if row.accuracy.is_right() { "" } else { " WRONG" }));
        table.add_row(cells);
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// Where each number of features overtakes exact attention: between two lengths, by how the ratio goes from one to the other.
fn overtakes(features: &[usize], rows: &[Row]) -> String {
    let line = |&count: &usize| {
        let ratios = rows.iter().filter(|row| row.features == count).map(|row| (row.tokens, row.ratio()));
        let ratios: Vec<(usize, f64)> = ratios.collect();
        match overtaken_from(&ratios) {
            Some(tokens) if tokens <= TOKENS[0] => {
                format!("{count} features overtake exact attention before {tokens} tokens.")
            }
            Some(tokens) => format!("{count} features overtake exact attention at {tokens} tokens."),
            None => format!("{count} features do not overtake exact attention by {} tokens.", TOKENS[TOKENS.len() - 1]),
        }
    };
    features.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// The length from which on the ratio is 1 at least.
fn overtaken_from(ratios: &[(usize, f64)]) -> Option<usize> {
    // A ratio that is no number overtakes nothing.
    let slower = ratios.iter().rposition(|&(_, ratio)| ratio < 1.0 || ratio.is_nan());
    let Some(at) = slower else { return ratios.first().map(|&(tokens, _)| tokens) };
    let ((from, low), &(to, high)) = (ratios[at], ratios.get(at + 1)?);
    let share = (1.0 - low) / (high - low);
    Some((from as f64 + share * (to - from) as f64).round() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_right_and_says_how_far_off_it_is() {
        let (features, pool) = (FavorFeatures::new(DIM, 16, 1).unwrap(), Pool::new(2).unwrap());
        let row = Row::measure(&features, 70, Isa::best(), &pool).unwrap();
        assert!(row.accuracy.is_right() && row.accuracy.error > 0.0, "{:?}", row.accuracy);
        // The larger scores are, the further off they are estimated.
        assert!(row.errors[0] > 0.05 && row.errors[1] > row.errors[0], "{:?}", row.errors);
        assert!(row.seconds > 0.0 && row.exact_seconds > 0.0);
    }

    #[test]
    fn overtaking_is_found_between_lengths() {
        assert_eq!(overtaken_from(&[(512, 0.5), (1024, 1.5), (2048, 3.0)]), Some(768));
        // Once is not for good.
        assert_eq!(overtaken_from(&[(512, 1.1), (1024, 0.9), (2048, 1.9)]), Some(1126));
        assert_eq!(overtaken_from(&[(512, 1.1), (1024, 2.0)]), Some(512));
        assert_eq!(overtaken_from(&[(512, 0.1), (1024, 0.2)]), None);
        assert_eq!(overtaken_from(&[(512, f64::NAN), (1024, f64::NAN)]), None);
    }
}
