//! Keys drawn at random, the same ones each time they are asked for.

use crate::Error;
use crate::edge::Run;
use crate::primitive::Row;
use crate::stack::Stack;

/// Every row keeps the same share of all keys, drawn by a permutation of the keys that (seed, p) chooses: the first
/// places of it are kept. Forward it lists a row's keys, backward it tells whether one is among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Random {
    /// The bits of the density, a number from 0 to 1.
    density: u64,
    seed: u64,
}

impl Random {
    pub(crate) fn new(density: f64, seed: u64) -> Result<Self, Error> {
        if !(0.0..=1.0).contains(&density) {
            return Err(Error::Primitive {
                primitive: "random",
                has: format!("density {density}"),
                expected: "0 to 1".into(),
            });
        }
        // Without the sign of −0.
        Ok(Self { density: density.abs().to_bits(), seed })
    }

    pub(crate) fn density(self) -> f64 {
        f64::from_bits(self.density)
    }

    pub(crate) fn seed(self) -> u64 {
        self.seed
    }

    /// How many of `n_k` keys a row keeps.
    pub(crate) fn keys(self, n_k: usize) -> usize {
        // A product beyond all integers becomes the largest.
        ((self.density() * n_k as f64).round() as usize).min(n_k)
    }

    pub(crate) fn allows(self, row: Row, j: usize) -> bool {
        j < row.n_k && Permutation::new(self.seed, row).place_of(j) < self.keys(row.n_k)
    }

    pub(crate) fn push_runs(self, row: Row, limit: Run, stack: &mut Stack) {
        let keys = self.keys(row.n_k);
        let within = limit.start.key..limit.end.key.min(row.n_k);
        if within.is_empty() || keys == 0 {
            return stack.hold.at_most(0);
        }
        let permutation = Permutation::new(self.seed, row);
        // Whichever is less: to look at each key within the limit, or to list all and leave out those beyond.
        if within.len() < keys {
            stack.push_scattered(within.filter(|&j| permutation.place_of(j) < keys));
        } else {
            stack.push_scattered((0..keys).map(|place| permutation.key_at(place)).filter(|j| within.contains(j)));
        }
    }
}

/// Rounds of the network: six mix halves of many bits well. Halves of one bit take more until no key, and no two of them,
/// are kept more often than others.
const ROUNDS: usize = 6;
const ROUNDS_OF_FEW_BITS: usize = 16;
const FEW_BITS: u32 = 12;

/// A permutation of the keys `0..n_k`, of which there is at least one: a Feistel network over the smallest power of two
/// that holds them. A value beyond the keys is permuted again until it is a key.
struct Permutation {
    n_k: u64,
    round_keys: [u64; ROUNDS_OF_FEW_BITS],
    rounds: usize,
    /// Bits of the lower half; the upper one has as many, or one more.
    lower: u32,
    mask_lower: u64,
    mask_upper: u64,
}

impl Permutation {
    fn new(seed: u64, row: Row) -> Self {
        let n_k = row.n_k as u64;
        let bits = u64::BITS - (n_k - 1).leading_zeros();
        let lower = bits / 2;
        let mut state = mix(mix(seed).wrapping_add(row.p as u64));
        let rounds = if bits < FEW_BITS { ROUNDS_OF_FEW_BITS } else { ROUNDS };
        let round_keys = [(); ROUNDS_OF_FEW_BITS].map(|()| {
            state = mix(state.wrapping_add(0x9e37_79b9_7f4a_7c15));
            state
        });
        let ones = |bits: u32| (1 << bits) - 1;
        Self { n_k, round_keys, rounds, lower, mask_lower: ones(lower), mask_upper: ones(bits - lower) }
    }

    /// The key at a place.
    fn key_at(&self, place: usize) -> usize {
        self.walk(place, |mut lower, mut upper| {
            for round in self.round_keys[..self.rounds].chunks_exact(2) {
                upper ^= mix(lower ^ round[0]) & self.mask_upper;
                lower ^= mix(upper ^ round[1]) & self.mask_lower;
            }
            (lower, upper)
        })
    }

    /// The place of a key: the inverse.
    fn place_of(&self, key: usize) -> usize {
        self.walk(key, |mut lower, mut upper| {
            for round in self.round_keys[..self.rounds].chunks_exact(2).rev() {
                lower ^= mix(upper ^ round[1]) & self.mask_lower;
                upper ^= mix(lower ^ round[0]) & self.mask_upper;
            }
            (lower, upper)
        })
    }

    /// Goes from a number below `n_k` to the next such on its cycle.
    fn walk(&self, from: usize, step: impl Fn(u64, u64) -> (u64, u64)) -> usize {
        let mut at = from as u64;
        loop {
            let (lower, upper) = step(at & self.mask_lower, at >> self.lower);
            at = upper << self.lower | lower;
            if at < self.n_k {
                return at as usize;
            }
        }
    }
}

/// Mixes the bits of a word, one to one: the finaliser of SplitMix64 (Steele, Lea, Flood 2014).
fn mix(mut word: u64) -> u64 {
    word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}
