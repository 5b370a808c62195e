//! How cases are written down.

use regard_attention::{CacheDtype, Shape};
use serde_json::{Map, Value};

use super::{Case, Dtype, Keep, Kept, Target};

/// The most bytes that a case's queries, keys, values and result may take together.
const MOST_BYTES: usize = 8 << 30;

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
        "id",
        "batch",
        "heads",
        "kv_heads",
        "queries",
        "keys",
        "dim",
        "dtype",
        "mask",
        "window",
        "globals",
        "prefix",
        "cache",
        "cache_dtype",
        "apart",
        "backward",
        "versus",
        "target",
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
    let packed = entry.packed()?;
    // What is beyond all bounds is refused with the tensors' bytes.
    let sum = |size: fn(&(usize, usize)) -> usize| packed.iter().map(size).fold(0, usize::saturating_add);
    let (queries, keys) = match packed.is_empty() {
        true => (entry.size("queries")?, entry.size("keys")?),
        false => (sum(|size| size.0), sum(|size| size.1)),
    };
    let dim = entry.size("dim")?;
    let shape = Shape {
        batch: entry.size("batch")?,
        heads: entry.size("heads")?,
        kv_heads: entry.size("kv_heads")?,
        queries,
        keys,
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
    let (backward, apart) = (entry.flag("backward")?, entry.flag("apart")?);
    let mut case = Case {
        id: id.clone(),
        shape,
        dtype,
        keep,
        packed,
        apart,
        prefix: 0,
        cache: None,
        cache_dtype: dtype.cached(),
        backward,
        versus: entry.versus(index)?.map(Box::new),
        target: entry.target()?,
        source: source.clone(),
    };
    case.prefix = entry.prefix(&case)?;
    case.cache = entry.cache(&case)?;
    case.cache_dtype = entry.cache_dtype(&case)?;
    Ok(case)
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

    /// True or false; false unless it is there.
    fn flag(&self, field: &str) -> Result<bool, String> {
        match self.fields.get(field) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            _ => Err(self.wrong(field, "true or false")),
        }
    }

    /// Queries and keys of the sequences of a batch entry; none where it is one.
    fn packed(&self) -> Result<Vec<(usize, usize)>, String> {
        if !["queries", "keys"].iter().any(|field| self.fields.get(*field).is_some_and(Value::is_array)) {
            return Ok(Vec::new());
        }
        let expected = "a list of whole numbers of at least 1, as long for queries as for keys";
        let list = |field: &str| {
            let size = |value: &Value| value.as_u64().and_then(|size| size.try_into().ok()).filter(|&size| size > 0);
            let sizes = self.fields.get(field).and_then(Value::as_array).filter(|sizes| !sizes.is_empty());
            let sizes: Option<Vec<usize>> = sizes.and_then(|sizes| sizes.iter().map(size).collect());
            sizes.ok_or_else(|| self.wrong(field, expected))
        };
        let (queries, keys) = (list("queries")?, list("keys")?);
        if queries.len() != keys.len() {
            return Err(self.wrong("keys", expected));
        }
        Ok(queries.into_iter().zip(keys).collect())
    }

    /// Keys that all batch entries begin with.
    fn prefix(&self, case: &Case) -> Result<usize, String> {
        let Some(_) = self.fields.get("prefix") else { return Ok(0) };
        let plain = matches!(case.keep, Keep::All | Keep::Causal) && case.packed.is_empty() && !case.backward;
        if !plain {
            return Err(
                self.says(format_args!("`prefix` belongs to whole sequences forward, with mask none or causal"))
            );
        }
        let most = case.shape.keys.saturating_sub(case.shape.queries);
        let fits = |&keys: &usize| keys > 0 && keys <= most;
        let expected = || self.wrong("prefix", "at least 1, and as many keys behind it as there are queries");
        self.number("prefix").filter(fits).ok_or_else(expected)
    }

    /// A cache: in decoding there is one, unless it is said that there is none.
    fn cache(&self, case: &Case) -> Result<Option<Kept>, String> {
        let belongs = case.is_decode() && case.prefix == 0;
        match self.fields.get("cache") {
            None => Ok(belongs.then_some(Kept::Contiguous)),
            Some(_) if !belongs => {
                Err(self.says(format_args!("`cache` belongs to a case of one query, forward, without `prefix`")))
            }
            Some(_) => self.choice(
                "cache",
                &[("none", None), ("contiguous", Some(Kept::Contiguous)), ("paged", Some(Kept::Paged))],
            ),
        }
    }

    /// How a cache stores numbers: as they come, unless it is said.
    fn cache_dtype(&self, case: &Case) -> Result<CacheDtype, String> {
        if !self.fields.contains_key("cache_dtype") {
            return Ok(case.cache_dtype);
        }
        if case.cache.is_none() {
            return Err(self.says(format_args!("`cache_dtype` belongs to a case with a `cache`")));
        }
        let types = [
            ("f32", CacheDtype::F32),
            ("bf16", CacheDtype::Bf16),
            ("f16", CacheDtype::F16),
            ("int8", CacheDtype::Int8),
        ];
        self.choice("cache_dtype", &types)
    }

    /// The case to compare with: this one, but for some fields.
    fn versus(&self, index: usize) -> Result<Option<Case>, String> {
        let Some(versus) = self.fields.get("versus") else { return Ok(None) };
        let changes = match versus {
            Value::Object(changes) if changes.get("id").is_some_and(Value::is_string) => changes,
            _ => return Err(self.wrong("versus", "an object of the fields that differ, `id` among them")),
        };
        let mut fields = self.fields.clone();
        fields.retain(|field, _| !["versus", "target"].contains(&field.as_str()));
        for (field, change) in changes {
            match change {
                _ if field == "versus" => return Err(self.says(format_args!("`versus` has a `versus` of its own"))),
                Value::Null => drop(fields.remove(field)),
                change => drop(fields.insert(field.clone(), change.clone())),
            }
        }
        let other =
            read(index, Value::Object(fields)).map_err(|problem| self.says(format_args!("`versus`: {problem}")))?;
        Ok(Some(other))
    }

    fn target(&self) -> Result<Target, String> {
        let expected = "an object of `ratio`, `share` or `scratch_mb`, each a positive number";
        let mut target = Target::default();
        let Some(value) = self.fields.get("target") else { return Ok(target) };
        let Value::Object(numbers) = value else { return Err(self.wrong("target", expected)) };
        for (name, number) in numbers {
            let place = match name.as_str() {
                "ratio" => &mut target.ratio,
                "share" => &mut target.share,
                "scratch_mb" => &mut target.scratch_mb,
                _ => return Err(self.wrong("target", expected)),
            };
            *place = Some(number.as_f64().filter(|&x| x > 0.0).ok_or_else(|| self.wrong("target", expected))?);
        }
        Ok(target)
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
