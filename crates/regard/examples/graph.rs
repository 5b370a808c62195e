//! Attention guided by a graph: each token sees its nearest neighbours and a window, and the exact result says what that
//! loses.
//!
//!     cargo run --release -p regard --example graph

use std::time::Instant;

use ndarray::Array4;
use regard::masks::Edges;
use regard::{Attention, Mask, Plan};

const TOKENS: usize = 8192;
const DIM: usize = 64;
const NEIGHBOURS: usize = 16;

/// Tokens that lie in clusters, as those of real text do: numbers that follow from a counter.
fn tokens(stream: usize) -> Array4<f32> {
    let noise = |seed: usize| {
        let x = (seed as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let x = (x ^ x >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        ((x ^ x >> 27) >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    Array4::from_shape_fn((1, 1, TOKENS, DIM), |(_, _, i, c)| {
        let cluster = i * 7919 % 97;
        4.0 * noise(cluster * DIM + c) + noise(1 << 30 | stream << 24 | (i * DIM + c))
    })
}

/// The keys with the largest products, for every query. A search index does this in less than `TOKENS²`.
fn nearest(q: &Array4<f32>, k: &Array4<f32>) -> (Vec<usize>, Vec<usize>) {
    let row = |x: &Array4<f32>, i: usize| x.slice(ndarray::s![0, 0, i, ..]).to_owned();
    let keys: ndarray::ArrayView2<f32> = k.slice(ndarray::s![0, 0, .., ..]);
    let (mut offsets, mut targets) = (vec![0], Vec::new());
    for i in 0..TOKENS {
        let query = row(q, i);
        let products: ndarray::Array1<f32> = keys.dot(&query);
        let mut order: Vec<usize> = (0..TOKENS).collect();
        order.select_nth_unstable_by(NEIGHBOURS, |&a, &b| products[b].total_cmp(&products[a]));
        targets.extend_from_slice(&order[..NEIGHBOURS]);
        offsets.push(targets.len());
    }
    (offsets, targets)
}

fn timed<R>(what: &str, run: impl Fn() -> R) -> R {
    run();
    let start = Instant::now();
    let result = run();
    println!("{what:32} {:8.2} ms", start.elapsed().as_secs_f64() * 1e3);
    result
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (q, k, v) = (tokens(1), tokens(1), tokens(3));
    let (offsets, targets) = nearest(&q, &k);
    let graph = Mask::edges(&offsets, &targets, Edges::Directed)?;
    let mask = graph | Mask::window(Some(32), Some(32));

    let guided = Attention::new(q.view(), k.view(), v.view()).mask(mask);
    let plan: Plan = guided.plan()?;
    println!("{plan}\n");
    let (out, lse) = timed("guided by the graph", || guided.state())?;
    let exact = Attention::new(q.view(), k.view(), v.view());
    let (exact_out, exact_lse) = timed("exact", || exact.state())?;

    // The share of the softmax mass that the mask keeps is the ratio of the two sums.
    let mass: f64 = lse.iter().zip(&exact_lse).map(|(a, b)| f64::from(a - b).exp()).sum::<f64>() / TOKENS as f64;
    let error: f64 = out.iter().zip(&exact_out).map(|(a, b)| f64::from((a - b).abs())).sum::<f64>() / out.len() as f64;
    println!("softmax mass kept                {:8.2} %", 100.0 * mass);
    println!("mean error of the result         {error:8.4}");
    Ok(())
}
