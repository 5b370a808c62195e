//! What a step of training takes: `cargo run --release -p regard-layers --example training -- [batch] [steps] [f32|bf16]`.

use std::time::Instant;

use regard_layers::{
    ContextUse, Head, LanguageConfig, MixerKind, NotFinite, Objective, OptimiserConfig, Precision, Recomputation,
    Schedule, Trainer, TrainingConfig, Workspace,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, usual| arguments.get(at).map_or(Ok(usual), |argument| argument.parse::<usize>());
    let (batch, steps) = (number(0, 16)?, number(1, 5)?);
    let precision = match arguments.get(2).map_or("f32", String::as_str) {
        "f32" => Precision::F32,
        "bf16" => Precision::Bf16,
        other => return Err(format!("{other} is neither f32 nor bf16").into()),
    };
    let model = LanguageConfig {
        vocabulary: 256,
        width: 384,
        layers: 6,
        heads: 6,
        kv_heads: 6,
        head_dim: 64,
        hidden: 1024,
        mixer: MixerKind::Softmax,
        objective: Objective::Causal,
        eps: 1e-5,
        rope_theta: 10_000.0,
        head: Head::Tied,
        context: ContextUse::None,
        dropout: 0.0,
    };
    let config = TrainingConfig {
        batch,
        tokens: 256,
        accumulation: 1,
        schedule: Schedule { rate: 1e-3, warmup: 1, steps: 100, last: 0.1 },
        optimiser: OptimiserConfig::default(),
        recomputation: Recomputation::None,
        seed: 7,
        not_finite: NotFinite::Stop,
    };
    let mut trainer = Trainer::new(model, config, Workspace::new()?.with_precision(precision))?;
    let text: Vec<u32> = (0..100_000u32).map(|i| i.wrapping_mul(2_654_435_761) >> 24).collect();
    println!("{} parameters, {} tokens a step", trainer.parameters().count(), trainer.tokens_of_step());
    for _ in 0..steps {
        let begin = Instant::now();
        let report = trainer.step(&text)?;
        let seconds = begin.elapsed().as_secs_f64();
        let rate = trainer.tokens_of_step() as f64 / seconds;
        println!("loss {:.4}: {:.0} ms, {rate:.0} tokens/s", report.loss, seconds * 1e3);
    }
    Ok(())
}
