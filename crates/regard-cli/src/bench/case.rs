//! What is measured: cases of attention, as `bench/cases.json` and files of its form state them.

use regard_attention::Shape;
use regard_masks::Mask;
use serde_json::{Map, Value};

/// The most bytes that a case's queries, keys, values and result may take together.
const MOST_BYTES: usize = 8 << 30;

/// One case of attention.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// Its name, unique in its file.
    pub(crate) id: String,
    pub(crate) shape: Shape,
    pub(crate) dtype: Dtype,
    pub(crate) keep: Keep,
    /// Whether forward and backward are timed together.
    pub(crate) backward: bool,
    /// As it stood in the file, for peers that read the same form.
    pub(crate) source: Value,
}

/// How queries, keys, values and the result are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dtype {
    F32,
    Bf16,
    F16,
}

impl Dtype {
    pub(crate) fn bytes(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::Bf16 | Dtype::F16 => 2,
        }
    }
}

/// Which keys a query sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    All,
    Causal,
    Window { window: usize, globals: usize },
    CausalWindow { window: usize, globals: usize },
}

impl Keep {
    /// Whether the query at position `p` sees key `j`, as `bench/README.md` says it.
    pub(crate) fn keeps(self, p: i64, j: i64) -> bool {
        match self {
            Keep::All => true,
            Keep::Causal => j <= p,
            Keep::Window { window, globals } => (p - j).unsigned_abs() <= window as u64 || j < globals as i64,
            Keep::CausalWindow { window, globals } => j <= p && (p - j < window as i64 || j < globals as i64),
        }
    }

    /// The same as the engine is told it.
    pub(crate) fn mask(self) -> Mask {
        match self {
            Keep::All => Mask::full(),
            Keep::Causal => Mask::causal(),
            Keep::Window { window, globals } => with_globals(Mask::window(Some(window), Some(window)), globals),
            Keep::CausalWindow { window, globals: 0 } => Mask::window(Some(window - 1), Some(0)),
            Keep::CausalWindow { window, globals } => {
                Mask::causal() & with_globals(Mask::window(Some(window - 1), None), globals)
            }
        }
    }
}

fn with_globals(mask: Mask, globals: usize) -> Mask {
    if globals == 0 { mask } else { mask | Mask::prefix(globals) }
}

impl Case {
    /// Why it cannot be run yet, if so.
    pub(crate) fn not_yet(&self) -> Option<&'static str> {
        self.backward.then_some("there is no backward pass yet")
    }

    /// One query a sequence: what a generation loop does over a cache.
    pub(crate) fn is_decode(&self) -> bool {
        self.shape.queries == 1
    }

    /// Numbers of queries (and of the result), and of keys (and of values).
    pub(crate) fn lengths(&self) -> (usize, usize) {
        let Shape { batch, heads, kv_heads, queries, keys, dim_k, .. } = self.shape;
        (batch * heads * queries * dim_k, batch * kv_heads * keys * dim_k)
    }
}

/// Reads a file of cases.
///
/// # Errors
/// What is wrong with it: the case, the field, what it has and what is expected.
pub(crate) fn parse(text: &str) -> Result<Vec<Case>, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))?;
    let Value::Array(entries) = value else { return Err("not a list of cases".into()) };
    let mut cases = Vec::<Case>::with_capacity(entries.len());
    for (index, entry) in entries.into_iter().enumerate() {
        let case = read(index, entry)?;
        if cases.iter().any(|other| other.id == case.id) {
            return Err(format!("case {index}: `id` {:?} is that of an earlier case", case.id));
        }
        cases.push(case);
    }
    Ok(cases)
}

fn read(index: usize, source: Value) -> Result<Case, String> {
    const FIELDS: &[&str] = &[
        "id", "batch", "heads", "kv_heads", "queries", "keys", "dim", "dtype", "mask", "window", "globals", "backward",
    ];
    let Value::Object(fields) = &source else { return Err(format!("case {index} is not an object")) };
    let id = match fields.get("id") {
        Some(Value::String(id)) if !id.is_empty() && !id.contains(char::is_control) => id.clone(),
        other => return Err(format!("case {index}: `id` is {}, expected a name", shown(other))),
    };
    let entry = Entry { id: &id, fields };
    if let Some(unknown) = fields.keys().find(|name| !FIELDS.contains(&name.as_str())) {
        return Err(entry.says(format_args!("`{unknown}` is no field of a case")));
    }
    let keep = entry.keep()?;
    let dtype = entry.choice("dtype", &[("f32", Dtype::F32), ("bf16", Dtype::Bf16), ("f16", Dtype::F16)])?;
    let dim = entry.size("dim")?;
    let shape = Shape {
        batch: entry.size("batch")?,
        heads: entry.size("heads")?,
        kv_heads: entry.size("kv_heads")?,
        queries: entry.size("queries")?,
        keys: entry.size("keys")?,
        dim_k: dim,
        dim_v: dim,
    };
    if !shape.heads.is_multiple_of(shape.kv_heads) {
        let (heads, kv_heads) = (shape.heads, shape.kv_heads);
        return Err(entry.says(format_args!("`heads` is {heads}, expected a multiple of `kv_heads`, {kv_heads}")));
    }
    if bytes(&shape, dtype).is_none_or(|bytes| bytes > MOST_BYTES) {
        return Err(entry.says(format_args!("its tensors would take more than {} GiB", MOST_BYTES >> 30)));
    }
    let backward = match fields.get("backward") {
        None => false,
        Some(Value::Bool(backward)) => *backward,
        other => return Err(entry.says(format_args!("`backward` is {}, expected true or false", shown(other)))),
    };
    Ok(Case { id, shape, dtype, keep, backward, source })
}

/// Bytes of queries, keys, values and result; `None` if they cannot be counted.
fn bytes(shape: &Shape, dtype: Dtype) -> Option<usize> {
    let product = |sizes: [usize; 4]| sizes.into_iter().try_fold(2 * dtype.bytes(), usize::checked_mul);
    let queries = product([shape.batch, shape.heads, shape.queries, shape.dim_k])?;
    queries.checked_add(product([shape.batch, shape.kv_heads, shape.keys, shape.dim_k])?)
}

/// The fields of one case, and its name for messages.
struct Entry<'a> {
    id: &'a str,
    fields: &'a Map<String, Value>,
}

impl Entry<'_> {
    fn says(&self, what: std::fmt::Arguments<'_>) -> String {
        format!("case {:?}: {what}", self.id)
    }

    fn wrong(&self, field: &str, expected: &str) -> String {
        self.says(format_args!("`{field}` is {}, expected {expected}", shown(self.fields.get(field))))
    }

    fn number(&self, field: &str) -> Option<usize> {
        self.fields.get(field)?.as_u64().and_then(|number| number.try_into().ok())
    }

    /// A whole number of at least 1.
    fn size(&self, field: &str) -> Result<usize, String> {
        self.number(field).filter(|&size| size > 0).ok_or_else(|| self.wrong(field, "a whole number of at least 1"))
    }

    /// One of some names.
    fn choice<T: Copy>(&self, field: &str, names: &[(&str, T)]) -> Result<T, String> {
        let has = self.fields.get(field).and_then(Value::as_str);
        names.iter().find(|(name, _)| has == Some(name)).map(|(_, value)| *value).ok_or_else(|| {
            let names: Vec<_> = names.iter().map(|(name, _)| format!("{name:?}")).collect();
            self.wrong(field, &names.join(" or "))
        })
    }

    fn keep(&self) -> Result<Keep, String> {
        type Make = fn(usize, usize) -> Keep;
        let masks: [(&str, Make); 4] = [
            ("none", |_, _| Keep::All),
            ("causal", |_, _| Keep::Causal),
            ("window", |window, globals| Keep::Window { window, globals }),
            ("causal-window", |window, globals| Keep::CausalWindow { window, globals }),
        ];
        let make = self.choice("mask", &masks)?;
        if !matches!(make(1, 0), Keep::Window { .. } | Keep::CausalWindow { .. }) {
            return match ["window", "globals"].into_iter().find(|&field| self.fields.contains_key(field)) {
                Some(field) => Err(self.says(format_args!("`{field}` belongs to a window mask"))),
                None => Ok(make(0, 0)),
            };
        }
        let window = match self.number("window") {
            // A causal window of W keys is W − 1 before one's own: without a key there is no window.
            Some(0) if make(1, 0) == (Keep::CausalWindow { window: 1, globals: 0 }) => None,
            // What is wider than any sequence sees all of it.
            window => window.map(|window| window.min(MOST_BYTES)),
        };
        let window = window.ok_or_else(|| self.wrong("window", "a whole number of keys"))?;
        let globals = match self.fields.get("globals") {
            None => 0,
            Some(_) => self.number("globals").ok_or_else(|| self.wrong("globals", "a whole number"))?.min(MOST_BYTES),
        };
        Ok(make(window, globals))
    }
}

/// A value as a message shows it: short, whatever it is.
fn shown(value: Option<&Value>) -> String {
    const MOST: usize = 40;
    let Some(value) = value else { return "missing".into() };
    let text = value.to_string();
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
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
        assert!(case.not_yet().is_some() && !case.is_decode());
        assert_eq!(case.lengths(), (2 * 6 * 5 * 8, 2 * 3 * 7 * 8));
        assert_eq!(case.source["window"], 3);
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
            prop_assert_eq!(keep.keeps(p, j as i64), keep.mask().allows(p, j));
        }

        #[test]
        fn no_file_makes_the_reader_panic(text in "\\PC*") {
            let _ = parse(&text);
        }
    }
}
