//! Weights of one layer by the names of another.

use regard_layers::HeadSizes;
use regard_oracle::layers::{Tensor, Tensors};

/// `[rows, columns]` turned over.
fn turned(tensor: &Tensor) -> Tensor {
    let &[rows, columns] = &tensor.shape[..] else { panic!("{:?} is no matrix", tensor.shape) };
    let at = |i: usize| tensor.values[i % rows * columns + i / rows];
    Tensor::new(&[columns, rows], (0..rows * columns).map(at).collect())
}

/// Leading axes as one.
fn flat(tensor: &Tensor, axes: usize) -> Tensor {
    let first = tensor.shape[..axes].iter().product();
    tensor.reshaped(&[&[first], &tensor.shape[axes..]].concat())
}

/// Multi-head weights of any form, `[heads, dim, inputs]`, as linear layers, `q_proj.weight [heads·dim, inputs]` and so on, and
/// all else as it is. Gradients go the same way: nothing but names and places changes.
pub(crate) fn projections(of: &Tensors) -> Tensors {
    let part = |name: &str, at: usize| of.get(name).map(|w| w.part(at));
    let weights = [
        ("q_proj.weight", part("w_qkv", 0).or_else(|| part("w_q", 0))),
        ("k_proj.weight", part("w_qkv", 1).or_else(|| part("w_kv", 0)).or_else(|| of.get("w_k").cloned())),
        ("v_proj.weight", part("w_qkv", 2).or_else(|| part("w_kv", 1)).or_else(|| of.get("w_v").cloned())),
        ("q_proj.bias", of.get("b_q").cloned()),
        ("k_proj.bias", of.get("b_k").cloned()),
        ("v_proj.bias", of.get("b_v").cloned()),
    ];
    let all = weights.into_iter().filter_map(|(name, w)| Some((name, flat(&w?, 2)))).collect::<Tensors>();
    let all = of.get("w_out").into_iter().fold(all, |all, w| all.and("o_proj.weight", turned(&flat(w, 2))));
    let all = of.get("b_out").into_iter().fold(all, |all, b| all.and("o_proj.bias", b.clone()));
    let others = of.iter().filter(|(name, _)| !name.starts_with("w_") && !name.starts_with("b_"));
    others.fold(all, |all, (name, tensor)| all.and(name, tensor.clone()))
}

/// The weights of a feed-forward layer, `w_up` and so on, by ours.
pub(crate) fn feed_forward(of: &Tensors) -> Tensors {
    let renamed = |(name, tensor): (&str, &Tensor)| {
        let name = match name.split_once('_') {
            Some(("w", part)) => format!("{part}_proj.weight"),
            Some(("b", part)) => format!("{part}_proj.bias"),
            _ => name.to_owned(),
        };
        (name, tensor.clone())
    };
    of.iter().map(renamed).collect()
}

/// All of them with names that begin so.
pub(crate) fn under(prefix: &str, of: &Tensors) -> impl Iterator<Item = (String, Tensor)> + use<> {
    of.iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor.clone())).collect::<Vec<_>>().into_iter()
}

/// What has biases by weights of an input that is always 1: `x`, weights and `dout` with one column more, and without the bias of
/// the results.
pub(crate) fn with_ones(of: &Tensors) -> Tensors {
    let beside = |w: &Tensor, last: &[f64]| {
        let mut last = last.iter();
        w.by_row(w.width() + 1, |row| [row, &[*last.next().unwrap()]].concat())
    };
    let column = |tensor: &Tensor, number: f64| beside(tensor, &vec![number; tensor.rows().count()]);
    let mut all = Tensors::default();
    for (name, tensor) in of.iter() {
        match name.split_once('.') {
            Some((_, "bias")) => {}
            Some(("o_proj", _)) => {
                let mut rows = tensor.clone();
                rows.shape[0] += 1;
                rows.values.resize(rows.values.len() + tensor.width(), 0.0);
                all = all.and(name, rows);
            }
            Some((layer, _)) => {
                let bias = of.get(&format!("{layer}.bias"));
                let wide = bias.map_or_else(|| column(tensor, 0.0), |bias| beside(tensor, &bias.values));
                all = all.and(name, wide);
            }
            None if name == "x" => all = all.and(name, column(tensor, 1.0)),
            None if name == "dout" => all = all.and(name, column(tensor, 0.0)),
            None => all = all.and(name, tensor.clone()),
        }
    }
    all
}

/// Projections as multi-head weights with keys and values apart, and all else as it is: what [`projections`] takes.
pub(crate) fn heads(of: &Tensors, sizes: HeadSizes) -> Tensors {
    let HeadSizes { width, heads, kv_heads, dim_k, dim_v } = sizes;
    let shaped = |(name, tensor): (&str, &Tensor)| match name {
        "q_proj.weight" => ("w_q".to_owned(), tensor.reshaped(&[1, heads, dim_k, width])),
        "k_proj.weight" => ("w_k".to_owned(), tensor.reshaped(&[kv_heads, dim_k, width])),
        "v_proj.weight" => ("w_v".to_owned(), tensor.reshaped(&[kv_heads, dim_v, width])),
        "o_proj.weight" => ("w_out".to_owned(), turned(tensor).reshaped(&[heads, dim_v, width])),
        name => (name.to_owned(), tensor.clone()),
    };
    of.iter().map(shaped).collect()
}

/// What [`feed_forward`] takes.
pub(crate) fn feed_forward_back(of: &Tensors) -> Tensors {
    let renamed = |(name, tensor): (&str, &Tensor)| {
        let name = name.strip_suffix("_proj.weight").map_or(name.to_owned(), |part| format!("w_{part}"));
        (name, tensor.clone())
    };
    of.iter().map(renamed).collect()
}
