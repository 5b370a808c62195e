//! The least time that this machine needs for a case, and the share of it that a measured time is.

use regard_attention::CacheDtype;
use regard_kernels::peak::{Machine, Unit};
use regard_simd::Isa;

use crate::bench::case::Case;
use crate::bench::measure::median;
use crate::bench::ours::FROM_MEMORY;

/// What a case cannot do without.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Work {
    /// Floating-point operations of the pairs that live, in all.
    pub(crate) flops: f64,
    /// What these are counted in.
    pub(crate) unit: Unit,
    /// Bytes that have to come from memory; 0 where caches hold everything.
    pub(crate) bytes: f64,
}

impl Work {
    /// This work, and then another of the same unit.
    pub(crate) fn and(self, other: Work) -> Work {
        Work { flops: self.flops + other.flops, bytes: self.bytes + other.bytes, ..self }
    }

    /// `live_pairs` are those of all batch entries and query heads.
    pub(crate) fn of(case: &Case, live_pairs: u64, isa: Isa) -> Work {
        let shape = case.shape;
        let pairs = live_pairs as f64;
        let (dim_k, dim_v) = (shape.dim_k as f64, shape.dim_v as f64);
        // Forward Q·Kᵀ and P·V; backward Q·Kᵀ again, dO·Vᵀ, Pᵀ·dO, dS·K and dSᵀ·Q.
        let products = if case.backward { 4.0 * dim_k + 3.0 * dim_v } else { dim_k + dim_v };
        let flops = 2.0 * pairs * products;
        let (queries, keys) = case.lengths();
        let row = case.key_bytes() as f64;
        let bytes = if case.prefix > 0 {
            let own = shape.batch * (shape.keys - case.prefix);
            (shape.kv_heads * (case.prefix + own)) as f64 * row
        } else if case.is_decode() {
            // One row a head: a pair is a key and its value, and the heads of a group share them.
            pairs / shape.group() as f64 * row
        } else {
            // Queries and result, keys and values; backward their gradients too.
            let all = if case.backward { 4 } else { 2 } * (queries + keys) * case.dtype.bytes();
            if all >= FROM_MEMORY { all as f64 } else { 0.0 }
        };
        // All but bf16 is multiplied in f32 everywhere, bf16 where the CPU has no product of its pairs.
        let stored = if case.cache.is_some() { case.cache_dtype } else { case.dtype.cached() };
        let pairs_of_bf16 = stored == CacheDtype::Bf16 && isa.has_bf16_dots();
        Work { flops, unit: if pairs_of_bf16 { Unit::Bf16 } else { Unit::F32 }, bytes }
    }

    /// The least seconds that this work takes at some rates, and what takes them.
    pub(crate) fn limit(&self, rates: Rates) -> (f64, Unit) {
        let compute = self.flops / rates.compute;
        let read = if self.bytes == 0.0 { 0.0 } else { self.bytes / rates.read };
        if read > compute { (read, Unit::Read) } else { (compute, self.unit) }
    }
}

/// Operations and bytes a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rates {
    pub(crate) compute: f64,
    pub(crate) read: f64,
    /// f32 operations with the best instructions of this CPU; the same as `compute` unless others are forced.
    pub(crate) best_f32: f64,
}

/// The rates that the machine shows while a case is measured.
pub(crate) struct Probe<'a> {
    machine: &'a Machine,
    isa: Isa,
    best: Option<Isa>,
    work: Work,
    samples: Vec<Rates>,
}

impl<'a> Probe<'a> {
    pub(crate) fn new(machine: &'a Machine, isa: Isa, work: Work) -> Self {
        Probe { machine, isa, best: forced(isa), work, samples: Vec::new() }
    }

    /// Measures the rates once, on cores that are awake.
    pub(crate) fn sample(&mut self) {
        let compute = self.machine.rate(self.isa, self.work.unit);
        let read = if self.work.bytes == 0.0 { f64::INFINITY } else { self.machine.rate(self.isa, Unit::Read) };
        let best_f32 = self.best.map_or(compute, |best| self.machine.rate(best, Unit::F32));
        self.samples.push(Rates { compute, read, best_f32 });
    }

    /// The medians.
    pub(crate) fn rates(&self) -> Rates {
        let of = |rate: fn(&Rates) -> f64| median(self.samples.iter().map(rate).collect());
        Rates { compute: of(|rates| rates.compute), read: of(|rates| rates.read), best_f32: of(|rates| rates.best_f32) }
    }

    /// The least seconds of the work at these rates, and what takes them.
    pub(crate) fn limit(&self) -> (f64, Unit) {
        self.work.limit(self.rates())
    }
}

/// The best instruction set, where `isa` is a lesser one with narrower vectors.
pub(crate) fn forced(isa: Isa) -> Option<Isa> {
    let best = Isa::available().max()?;
    let family = |isa: Isa| isa.name().split('-').next().unwrap_or_default().to_owned();
    (family(best) != family(isa)).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::case::parse;

    fn case(id: &str) -> Case {
        let cases = parse(include_str!("../../../../bench/cases.json")).unwrap();
        cases.into_iter().find(|case| case.id == id).unwrap()
    }

    /// Milliseconds at 230 GFLOP/s in f32 and 35 GB/s, a machine for which these were worked out by hand.
    fn limit(id: &str, live_pairs: u64) -> (f64, Unit) {
        let portable = Isa::named("portable").unwrap();
        let case = case(id);
        let live_pairs = live_pairs * (case.shape.batch * case.shape.heads) as u64;
        let rates = Rates { compute: 230e9, read: 35e9, best_f32: 230e9 };
        let (seconds, unit) = Work::of(&case, live_pairs, portable).limit(rates);
        (seconds * 1e3, unit)
    }

    #[test]
    fn limits_are_those_worked_out_by_hand() {
        let causal = |n: u64| n * (n + 1) / 2;
        for (id, live_pairs, ms, unit) in [
            ("dense-2048", 2048 * 2048, 37.3, Unit::F32),
            ("causal-4096", causal(4096), 74.7, Unit::F32),
            ("gqa-1024-d128", causal(1024), 37.4, Unit::F32),
            ("dense-2048-f16", 2048 * 2048, 37.3, Unit::F32),
            ("short-77", 77 * 77, 0.0792, Unit::F32),
            ("tiny-16", 16 * 16, 5.75, Unit::Read),
            ("decode-1k", 1024, 0.240, Unit::Read),
            ("decode-32k", 32768, 7.67, Unit::Read),
            ("decode-32k-bf16", 32768, 3.83, Unit::Read),
            ("decode-32k-int8", 32768, 2.33, Unit::F32),
            ("train-512", causal(512), 4.09, Unit::F32),
            ("train-2048-dense", 2048 * 2048, 130.7, Unit::F32),
            ("train-2048-1head", causal(2048), 8.17, Unit::F32),
        ] {
            let (has, of) = limit(id, live_pairs);
            assert!((has / ms - 1.0).abs() < 0.005 && of == unit, "{id}: {has} of {of:?}");
        }
    }

    #[test]
    fn bf16_is_measured_by_the_products_that_it_runs_on() {
        for isa in Isa::available() {
            let unit = Work::of(&case("dense-2048-bf16"), 1, isa).unit;
            assert_eq!(unit == Unit::Bf16, isa.has_bf16_dots());
        }
    }

    #[test]
    fn only_another_width_of_vectors_is_forced() {
        let best = Isa::available().max().unwrap();
        assert_eq!(None, forced(best));
        assert_eq!(Some(best), forced(Isa::named("portable").unwrap()).or(Some(best)));
    }
}
