//! Prints this machine's limits: operations and bytes a second, for each instruction set on one core and on all.
//!
//! `cargo run --release -p regard-kernels --example peak`

use regard_kernels::peak::{Machine, Unit};
use regard_simd::Isa;

fn main() -> Result<(), regard_memory::Error> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!("instructions  threads  GFLOP/s f32     bf16  GOP/s int8  GB/s read");
    for threads in [1, cores] {
        let machine = Machine::new(threads)?;
        for isa in Isa::available() {
            let [f32, bf16, int8, read] =
                [Unit::F32, Unit::Bf16, Unit::Int8, Unit::Read].map(|unit| machine.best(isa, unit, 10) / 1e9);
            println!("{isa:<13} {threads:>7} {f32:>12.0} {bf16:>8.0} {int8:>11.0} {read:>10.1}", isa = isa.name());
        }
    }
    Ok(())
}
