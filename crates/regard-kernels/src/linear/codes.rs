//! The codes of quantised weights: unsigned numbers of 4, 5, 6 or 8 bits.

use regard_simd::Simd;

use super::slab::Row;

/// Inputs of a quantised block.
pub(crate) const BLOCK: usize = 32;
/// Inputs whose codes, as bytes, fill a word.
pub(crate) const GROUP: usize = 4;
/// Groups of a block.
pub(crate) const GROUPS: usize = BLOCK / GROUP;
/// Words of nibbles of a block.
const NIBBLES: usize = GROUPS / 2;

/// A byte in each of the four places of a word.
const fn four(byte: u32) -> u32 {
    byte * 0x0101_0101
}

/// The low nibbles of a word.
pub(crate) const LOW: u32 = four(0x0F);

/// The codes of 32 inputs for all outputs of a panel: `BITS` words an output.
///
/// - 8 bits: word `g` holds the codes of group `g`, the inputs `4g..4g + 4`.
/// - 4 bits: the low nibbles of word `g` are group `g`, the high ones group `g + 4`, which is how files pair them.
/// - 5 and 6 bits: four such words of low nibbles, and behind them the bits above as *planes*: byte `i` of a plane holds the
///   upper bits of input `i` of every group, group by group. One bit for eight groups makes one plane, two make two.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct Codes<const BITS: usize>([Row<u32>; BITS]);

impl<const BITS: usize> Codes<BITS> {
    /// Bits above the nibble.
    const UPPER: usize = match BITS {
        4..=6 => BITS - 4,
        8 => 0,
        _ => panic!("codes have 4, 5, 6 or 8 bits"),
    };
    /// The place of the bits above the nibble in the four codes of a group.
    const UPPER_MASK: u32 = four(((1 << Self::UPPER) - 1) << 4);

    /// The word of the plane that holds the upper bits of a group, and their first bit in each byte.
    const fn plane(group: usize) -> (usize, usize) {
        (NIBBLES + group * Self::UPPER / 8, group * Self::UPPER % 8)
    }

    /// Takes over the codes of one output, a group of four bytes a word.
    #[inline(always)]
    pub(crate) fn put(&mut self, column: usize, groups: [u32; GROUPS]) {
        let Codes(rows) = self;
        if BITS == 8 {
            for (row, group) in rows.iter_mut().zip(groups) {
                row[column] = group;
            }
            return;
        }
        let mut words = [0; BITS];
        for (word, g) in words[..NIBBLES].iter_mut().zip(0..) {
            *word = groups[g] & LOW | (groups[g + NIBBLES] & LOW) << 4;
        }
        if BITS > 4 {
            for (g, group) in groups.into_iter().enumerate() {
                let (plane, bit) = Self::plane(g);
                words[plane] |= (group & Self::UPPER_MASK) >> 4 << bit;
            }
        }
        for (row, word) in rows.iter_mut().zip(words) {
            row[column] = word;
        }
    }

    /// The codes of one output, a group of four bytes a word.
    pub(crate) fn get(&self, column: usize) -> [u32; GROUPS] {
        let Codes(rows) = self;
        std::array::from_fn(|g| {
            if BITS == 8 {
                return rows[g][column];
            }
            let nibbles = rows[g % NIBBLES][column] >> (4 * (g / NIBBLES)) & LOW;
            if BITS == 4 {
                return nibbles;
            }
            let (plane, bit) = Self::plane(g);
            nibbles | rows[plane][column] >> bit << 4 & Self::UPPER_MASK
        })
    }

    /// The codes of a group as unsigned bytes, for the outputs from `column` on.
    #[inline(always)]
    pub(crate) fn vector<S: Simd>(&self, s: S, group: usize, column: usize) -> S::I32 {
        // SAFETY: a vector from a whole number of vectors on lies within the row.
        let load = |word: usize| unsafe { s.load_i32(self.0[word][column..][..S::LANES].as_ptr().cast()) };
        if BITS == 8 {
            return load(group);
        }
        let nibbles = load(group % NIBBLES);
        let nibbles = if group < NIBBLES { nibbles } else { s.shr::<4>(nibbles) };
        let nibbles = s.and(nibbles, s.splat_i32(LOW as i32));
        if BITS == 4 {
            return nibbles;
        }
        let (plane, bit) = Self::plane(group);
        let plane = load(plane);
        // What crosses into the next byte is masked away.
        let upper = s.shl::<4>(s.shr_by(plane, bit as u32));
        s.add_i32(nibbles, s.and(upper, s.splat_i32(Self::UPPER_MASK as i32)))
    }
}

/// The four bytes of every lane, each as a lane of its own.
#[inline(always)]
pub(crate) fn bytes_of<S: Simd>(s: S, words: S::I32) -> [S::I32; GROUP] {
    let byte = s.splat_i32(0xFF);
    [s.and(words, byte), s.and(s.shr::<8>(words), byte), s.and(s.shr::<16>(words), byte), s.shr::<24>(words)]
}
