//! What multi-head attention takes, forward and with backward: `cargo run --release -p regard-layers --example multi_head`.

use std::time::Instant;

use regard_layers::{Gradients, Layer, Mode, MultiHeadAttention, MultiHeadConfig, Parameters, Size, Workspace};
use regard_memory::Need;

/// The least seconds of a call, of many.
fn least(mut call: impl FnMut()) -> f64 {
    call();
    let mut least = f64::INFINITY;
    for _ in 0..200 {
        let begin = Instant::now();
        call();
        least = least.min(begin.elapsed().as_secs_f64());
    }
    least
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut parameters = Parameters::new(7);
    let layer = MultiHeadAttention::new(&mut parameters.root(), MultiHeadConfig::new(256, 8))?;
    let mut workspace = Workspace::new()?;
    let mut gradients = Gradients::new(&parameters)?;
    for tokens in [8, 16, 32, 64, 128] {
        let size = Size { batch: 1, tokens };
        let x: Vec<f32> = (0..tokens * 256).map(|i| (i as f32 * 0.7).sin()).collect();
        let dx_need = Need::of::<f32>(x.len());
        let forward = least(|| {
            let need = layer.forward_need(size);
            let (mut tape, mut pass) = workspace.pass(&parameters, Mode::Evaluation, need).expect("there is memory");
            layer.forward(&mut pass, size, &x, &mut tape).expect("shapes fit");
        });
        let both = least(|| {
            let need = layer.forward_need(size).and(layer.backward_need(size)).and(dx_need);
            let mode = Mode::Training { first_sequence: 0 };
            let (mut tape, mut pass) = workspace.pass(&parameters, mode, need).expect("there is memory");
            let (_, kept) = layer.forward(&mut pass, size, &x, &mut tape).expect("shapes fit");
            let dx = tape.take_zeroed(x.len());
            layer.backward(&mut pass, size, kept, &x, &mut gradients, dx, &mut tape).expect("shapes fit");
        });
        println!("{tokens:4} tokens: forward {:6.1} us, with backward {:6.1} us", forward * 1e6, both * 1e6);
    }
    Ok(())
}
