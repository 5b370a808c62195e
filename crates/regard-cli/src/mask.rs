//! `regard mask`: draws a mask and tells what it costs.

mod facts;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Instant;

use regard_attention::Crossovers;
use regard_draw::{Grid, Style, draw_layout, draw_mask};
use regard_kernels::ROWS;
use regard_masks::{BlockLayout, Mask, TileShape};
use terminal_size::{Width, terminal_size};

use self::facts::Facts;
use crate::error::Error;
use crate::npy;
use crate::output::print_line;
use crate::save::save;

/// Arguments of `regard mask`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A mask is a set of pairs (p, j): the query at position p sees key j. Query i stands at position i + offset.

  full                      every pair
  causal                    the keys up to the query's own position
  window(L, R)              from L keys before the position to R after it; inf for no limit
  prefix(N)                 the first N keys
  global_keys(A, B..C, …)   these keys, for every query
  global_queries(A, …)      every key, for the queries at these positions
  keys(A..B, …)             the keys that are not padding
  block_diagonal(N)         the keys of the query's own block of N
  strided(N)                every Nth key
  random(SHARE, SEED)       this share of the keys, drawn anew for each position
  by_head(M, …)             a mask for each head; by_batch(M, …) for each batch entry

They are combined with & (both), | (either), ! (not) and parentheses.

In text, █ is live, · is not, and ░▒▓ are cells of which a part is. With --layout █ is a block (a tile of queries by 64 \
keys) that is computed without a mask, ▒ one with it, ∴ one whose keys are gathered.

Examples:
  regard mask causal
  regard mask 'causal & (window(511, inf) | prefix(4))' --queries 4096
  regard mask 'causal & (window(255, inf) | strided(64))' --queries 2048 --layout --svg layout.svg
  regard mask 'by_head(window(15, 0), window(63, 0))' --head 1 --png head-1.png
  regard mask 'random(0.1, 7)' --queries 1 --keys 8192 --json | jq .computed_pairs")]
pub(crate) struct Arguments {
    /// The mask
    #[arg(value_name = "EXPRESSION")]
    expression: String,
    /// Queries
    #[arg(short, long, value_name = "N", default_value = "64")]
    queries: NonZeroUsize,
    /// Keys [default: as many as queries]
    #[arg(short, long, value_name = "N")]
    keys: Option<NonZeroUsize>,
    /// Position of the first query [default: such that the last query stands at the last key]
    #[arg(short, long, value_name = "N", allow_negative_numbers = true)]
    offset: Option<i64>,
    /// Which batch entry, of a mask that tells them apart
    #[arg(long, value_name = "B", default_value_t = 0)]
    batch: usize,
    /// Which query head, of a mask that tells them apart
    #[arg(long, value_name = "H", default_value_t = 0)]
    head: usize,
    /// Query heads that share a key/value head, and so a layout
    #[arg(short, long, value_name = "G", default_value = "1")]
    group: NonZeroUsize,
    /// Draw the blocks that the engine computes instead of the pairs
    #[arg(long)]
    layout: bool,
    /// Draw as text, which is done unless a file is written
    #[arg(long, conflicts_with = "json")]
    text: bool,
    /// Draw into this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Draw into this file
    #[arg(long, value_name = "FILE")]
    png: Option<PathBuf>,
    /// Pixels of the longer side of an SVG or PNG, without the words around
    #[arg(long, value_name = "PIXELS", default_value_t = Style::default().size)]
    size: usize,
    /// Write the pairs as a boolean array of NumPy, [queries, keys]
    #[arg(long, value_name = "FILE.npy")]
    bool: Option<PathBuf>,
    /// Print one JSON object instead of lines
    #[arg(long)]
    json: bool,
}

/// Runs `regard mask`.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Error> {
    Drawn::new(arguments)?.draw(arguments)
}

/// A mask at the shape that is drawn.
struct Drawn {
    /// Of the batch entry and head.
    mask: Mask,
    n_q: usize,
    n_k: usize,
    offset: i64,
    grid: Grid,
    layout: BlockLayout,
    compile_seconds: f64,
}

impl Drawn {
    fn new(arguments: &Arguments) -> Result<Self, Error> {
        let whole: Mask = arguments.expression.parse().map_err(|error| wrong(&arguments.expression, &error))?;
        let n_q = arguments.queries.get();
        let n_k = arguments.keys.unwrap_or(arguments.queries).get();
        let offset = arguments.offset.unwrap_or_else(|| (n_k as i64).saturating_sub(n_q as i64));
        let masks = arguments.group_of(&whole)?;
        let mask = whole.select(arguments.batch, arguments.head);
        // Refuses what is out of proportion, so before the layout.
        let grid = Grid::new(&mask, n_q, n_k, offset, text_cells(n_q, n_k))?;
        let mut layout = BlockLayout::new();
        let start = Instant::now();
        // As a plan does it.
        let (tile, gather) =
            (TileShape { rows: ROWS, group: arguments.group.get() }, Crossovers::default().gather_of(&masks));
        layout.compile_with(&masks, n_q, n_k, offset, tile, gather)?;
        let compile_seconds = start.elapsed().as_secs_f64();
        Ok(Self { mask, n_q, n_k, offset, grid, layout, compile_seconds })
    }

    fn draw(&self, arguments: &Arguments) -> Result<(), Error> {
        if arguments.svg.is_some() || arguments.png.is_some() {
            let style = Style { size: arguments.size, title: Some(self.mask.to_string()), ..Style::default() };
            let picture = if arguments.layout {
                draw_layout(&self.layout, &style)?
            } else {
                draw_mask(&self.mask, self.n_q, self.n_k, self.offset, &style)?
            };
            if let Some(path) = &arguments.svg {
                save(path, |file| file.write_all(picture.svg().as_bytes()))?;
            }
            if let Some(path) = &arguments.png {
                save(path, |file| file.write_all(&picture.png()))?;
            }
        }
        if let Some(path) = &arguments.bool {
            let array = self.mask.to_bool(self.n_q, self.n_k, self.offset)?;
            save(path, |file| npy::write(file, self.n_q, self.n_k, &array))?;
        }
        let facts = Facts::new(&self.mask, self.offset, &self.grid, &self.layout, self.compile_seconds);
        if arguments.json {
            return print_line(&serde_json::json!(facts).to_string());
        }
        let files = [&arguments.svg, &arguments.png, &arguments.bool];
        if arguments.text || files.iter().all(|file| file.is_none()) {
            print_line(&self.text(arguments.layout))?;
        }
        print_line(&facts.lines())
    }

    fn text(&self, layout: bool) -> String {
        let [queries, keys] = self.grid.cell();
        match (layout, queries, keys) {
            (true, ..) => self.layout.to_string(),
            (false, 1, 1) => self.grid.to_string(),
            _ => format!("{}(one character: {queries} queries × {keys} keys)\n", self.grid),
        }
    }
}

impl Arguments {
    /// The masks of the head's group: one, or one for each of its heads.
    fn group_of(&self, mask: &Mask) -> Result<Vec<Mask>, Error> {
        let (group, batch, heads) = (self.group.get(), mask.batch()?, mask.heads()?);
        for (option, at, apart, what) in
            [("--batch", self.batch, batch, "batch entries"), ("--head", self.head, heads, "heads")]
        {
            if at >= apart {
                return Err(Error::Usage(format!("{option} {at}: the mask tells {apart} {what} apart, from 0 on")));
            }
        }
        if heads == 1 {
            return Ok(vec![mask.select(self.batch, 0)]);
        }
        if heads % group != 0 {
            return Err(Error::Usage(format!(
                "--group {group}: the mask tells {heads} heads apart, which are no groups"
            )));
        }
        let first = self.head / group * group;
        Ok((first..first + group).map(|head| mask.select(self.batch, head)).collect())
    }
}

/// The lines and letters of a text: pair by pair where that fits, else of the terminal's width, and half as many lines, as
/// letters are twice as high as wide.
fn text_cells(n_q: usize, n_k: usize) -> [usize; 2] {
    const LINES: usize = 64;
    // Of what is no terminal.
    const WIDTH: usize = 80;
    let width = terminal_size().map_or(WIDTH, |(Width(width), _)| usize::from(width).max(1));
    if n_q <= LINES && n_k <= width { [LINES, width] } else { [width.div_ceil(2), width] }
}

/// The error of an expression, with the place that it is about.
fn wrong(expression: &str, error: &regard_masks::Error) -> Error {
    const BEFORE: usize = 50;
    const SHOWN: usize = 76;
    let regard_masks::Error::Parse { at, .. } = error else { return Error::Usage(error.to_string()) };
    // A letter takes one place, whatever it is.
    let letters: Vec<char> = expression.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    let place = expression.get(..*at).map_or(0, |before| before.chars().count());
    let from = place.saturating_sub(BEFORE);
    let shown: String = letters.iter().skip(from).take(SHOWN).collect();
    Error::Usage(format!("{error}\n  {shown}\n  {:>width$}", '^', width = place - from + 1))
}
