//! Blocks chosen by content: what they keep of a model's own attention over text that no selector was trained on, and what they
//! cost.

mod layers;
mod method;
mod row;
mod timing;

use std::num::NonZeroUsize;
use std::path::Path;

use comfy_table::presets::{ASCII_MARKDOWN, NOTHING};
use regard_models::{CacheDtype, LoadOptions, Model};
use regard_select::{Budget, Lesson, Selector, Trained, Training};
use regard_threads::Pool;

use self::layers::{Layer, layers, read, windows};
use self::method::{Known, METHODS, Method};
use self::row::{Row, table};
use self::timing::Timing;
use crate::bench::Arguments;
use crate::bench::measure::{FEWEST_ROUNDS, median, timed};
use crate::bench::setting::Setting;
use crate::error::Error;
use crate::output::print_line;
use crate::{options, progress};

/// Windows that selectors learn from, and windows that are measured.
const TRAINING: usize = 8;
const HELD_OUT: usize = 2;
/// Tokens of a window unless given, where the model's context holds them.
const TOKENS: usize = 4096;
/// The engine's panels are as wide.
const BLOCK: usize = 64;
const BUDGETS: [f64; 2] = [0.1, 0.25];

/// What `--only` knows.
pub(crate) fn ids() -> Vec<String> {
    METHODS.iter().map(|method| method.id().to_owned()).collect()
}

/// Measures the chosen methods with a model over a text, and prints them.
///
/// # Errors
/// The model, the text or the engine refuses, a result is wrong, or nothing can be printed.
pub(crate) fn measure(
    chosen: &[String],
    text: &Path,
    model: &Path,
    setting: &Setting,
    pool: &Pool,
    arguments: &Arguments,
) -> Result<(), Error> {
    let methods: Vec<Method> = METHODS.into_iter().filter(|method| chosen.iter().any(|id| id == method.id())).collect();
    let options = LoadOptions { threads: Some(setting.threads), isa: Some(setting.isa) };
    let loaded = options::load(model, |path| Model::load(path, &options))?;
    let tokens = arguments.context.map_or(TOKENS.min(loaded.description().context), NonZeroUsize::get);
    let [training, held_out] = windows(text, &loaded, tokens)?;
    let mut layers = layers(&loaded, model, tokens)?;
    let mut session = loaded.session(tokens, CacheDtype::F32)?;

    let steps = (TRAINING + 1 + HELD_OUT) * layers.len() + BUDGETS.len() * methods.len();
    let bar = progress::steps(steps as u64, "learning from a text");
    let mut lessons: Vec<Vec<Lesson>> = layers.iter().map(|_| Vec::new()).collect();
    for window in &training {
        read(&mut session, window, &mut layers)?;
        for (layer, lessons) in layers.iter().zip(&mut lessons) {
            lessons.push(layer.select().lesson()?);
            bar.inc(1);
        }
    }
    let (mut untrained, mut trained) = (Vec::new(), Vec::new());
    for lessons in lessons {
        untrained.push(Selector::train(&lessons, &Training { steps: 0, ..Training::default() })?.selector);
        trained.push(Selector::train(&lessons, &Training::default())?);
        bar.inc(1);
    }

    bar.set_message("reading another part of it");
    let (mut known, mut held_out_losses) = (Vec::new(), [0.0; 2]);
    for window in &held_out {
        read(&mut session, window, &mut layers)?;
        for (at, (layer, Trained { selector, .. })) in layers.iter().zip(&trained).enumerate() {
            let (select, lesson) = (layer.select(), layer.select().lesson()?);
            known.push(Known::new(at, &select, &lesson, selector)?);
            for (loss, selector) in held_out_losses.iter_mut().zip([&untrained[at], selector]) {
                *loss += selector.loss(std::slice::from_ref(&lesson))? / (HELD_OUT * layers.len()) as f64;
            }
            bar.inc(1);
        }
    }

    let mut rows = Vec::new();
    for budget in BUDGETS {
        for &method in &methods {
            bar.set_message(method.id());
            let row = Row::measure(method, budget, &known, &layers, &trained, setting, pool)?;
            if arguments.json {
                bar.suspend(|| print_line(&row.json(setting).to_string()))?;
            }
            rows.push(row);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    if !arguments.json {
        let loss = |at: fn(&[f64]) -> f64| {
            trained.iter().map(|trained| at(&trained.losses)).sum::<f64>() / trained.len() as f64
        };
        let told = format!(
            "{} layers of {}, {} heads; {TRAINING} windows of {tokens} tokens to learn from, {HELD_OUT} held out, blocks of {BLOCK}.\n\
             Learned: {} numbers a head, cross-entropy {:.3} before and {:.3} after training, held out {:.3} and {:.3}.\n\
             * as many blocks in all, but not in each row.",
            layers.len(),
            model.file_name().unwrap_or_default().to_string_lossy(),
            layers.iter().map(|layer| layer.attention.heads).sum::<usize>(),
            trained[0].selector.parameters() / trained[0].selector.heads(),
            loss(|losses| losses[0]),
            loss(|losses| losses[losses.len() - 1]),
            held_out_losses[0],
            held_out_losses[1],
        );
        let (style, end) = match arguments.markdown {
            true => {
                let run = format!("{setting}. {}.\n\n```sh\n{}\n```", setting.version, setting.command);
                (ASCII_MARKDOWN, format!("\n\n{run}"))
            }
            false => (NOTHING, String::new()),
        };
        print_line(&format!("{}\n\n{told}{end}", table(&rows, style)))?;
    }
    let wrong = rows.iter().filter(|row| !row.is_right());
    let wrong: Vec<_> = wrong.map(|row| format!("{} at {}", row.method.id(), row.budget)).collect();
    if wrong.is_empty() { Ok(()) } else { Err(Error::Wrong { cases: wrong.join("; ") }) }
}

impl Row {
    /// Masses over all that is known; times in the layer in the middle, over the window that was read last.
    fn measure(
        method: Method,
        share: f64,
        known: &[Known],
        layers: &[Layer],
        trained: &[Trained],
        setting: &Setting,
        pool: &Pool,
    ) -> Result<Row, Error> {
        let budget = Budget::Share(share);
        let goal = method.goal(known, budget)?;
        let (mut kept, mut all, mut heads) = (0, 0, 0);
        let (mut mass, mut least) = (0.0, 0.0);
        let mut of_layers = vec![0.0; layers.len()];
        for known in known {
            let choice = method.choose(known, budget, goal)?;
            let of_layer = layers[known.layer].attention.heads;
            let has = known.exact.kept(&choice)?;
            mass += has * of_layer as f64;
            least += known.exact.kept(&Method::Least.choose(known, budget, goal)?)? * of_layer as f64;
            of_layers[known.layer] += has / HELD_OUT as f64;
            (kept, all, heads) = (kept + choice.count(), all + of_layer * choice.blocks().count(), heads + of_layer);
        }
        let (mass, least) = (mass / heads as f64, least / heads as f64);

        let middle = layers.len() / 2;
        let last = known.iter().rfind(|known| known.layer == middle).expect("every layer was read");
        let choice = method.choose(last, budget, goal)?;
        let mask = choice.mask()?;
        let mut timing = Timing::new(&layers[middle], setting.isa, pool);
        let error = (timing.kept(&mask)? - last.exact.kept(&choice)?).abs();
        let times = timing.time(&mask)?;
        let (select, selector) = (layers[middle].select(), &trained[middle].selector);
        let choose = || -> Result<(), Error> {
            let choice = method.choose_anew(&select, selector, budget, goal)?;
            choice.map_or(Ok(()), |choice| Ok(choice.mask().map(drop)?))
        };
        let choose = match method.knows_all() {
            true => None,
            false => Some(median((0..FEWEST_ROUNDS).map(|_| timed(choose)).collect::<Result<_, _>>()?)),
        };
        Ok(Row {
            method,
            budget: share,
            blocks: kept as f64 / all as f64,
            mass,
            rest: (mass - least) / (1.0 - least),
            lowest: of_layers.into_iter().fold(f64::INFINITY, f64::min),
            choose,
            attend: times.chosen,
            dense: times.all,
            error,
        })
    }
}
