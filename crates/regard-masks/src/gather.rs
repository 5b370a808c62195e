//! Which rims are worth gathering.

use crate::PANEL;

/// What a kernel's work on scattered keys costs, in any unit.
///
/// A rim panel is computed for all its 64 keys, however few of them a tile keeps. Where keys are scattered it can be
/// cheaper to copy the kept ones of many rims side by side into panels of their own. Of each tile those rims are
/// gathered, fewest kept keys first, that make its sum of these costs smallest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gather {
    /// To compute one rim panel.
    pub rim: f32,
    /// To compute one gathered panel, of up to 64 keys.
    pub panel: f32,
    /// To copy one key that the tile before has not gathered, too.
    pub key: f32,
}

/// A rim that might be gathered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    /// How many of its keys any row keeps.
    pub(crate) keys: u32,
    /// How many of these would have to be copied.
    pub(crate) new: u32,
}

impl Gather {
    /// Sorts the numbers of the rims into `order`, fewest keys first, and says how many of the first to gather.
    pub(crate) fn choose(&self, rims: &[Candidate], order: &mut Vec<u32>) -> usize {
        order.clear();
        order.extend(0..rims.len() as u32);
        order.sort_unstable_by_key(|&rim| (rims[rim as usize].keys, rim));
        let [rim, panel, key] = [self.rim, self.panel, self.key].map(f64::from);
        let (mut keys, mut new) = (0_u64, 0_u64);
        let (mut best, mut least) = (0, rims.len() as f64 * rim);
        for (gathered, &index) in (1..).zip(&*order) {
            keys += u64::from(rims[index as usize].keys);
            new += u64::from(rims[index as usize].new);
            let left = (rims.len() - gathered) as f64;
            let cost = left * rim + keys.div_ceil(PANEL as u64) as f64 * panel + new as f64 * key;
            if cost < least {
                (best, least) = (gathered, cost);
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(gather: Gather, rims: &[(u32, u32)]) -> Vec<u32> {
        let rims: Vec<Candidate> = rims.iter().map(|&(keys, new)| Candidate { keys, new }).collect();
        let mut order = Vec::new();
        let count = gather.choose(&rims, &mut order);
        order.truncate(count);
        order.sort_unstable();
        order
    }

    const GATHER: Gather = Gather { rim: 10.0, panel: 12.0, key: 1.0 };

    #[test]
    fn rims_are_gathered_where_that_is_cheaper() {
        assert_eq!(choose(GATHER, &[]), []);
        // 10 as a rim; 12 + 1 gathered.
        assert_eq!(choose(GATHER, &[(1, 1)]), []);
        // 20 as rims; 12 + 2 gathered.
        assert_eq!(choose(GATHER, &[(1, 1), (1, 1)]), [0, 1]);
        // 20 as rims; 12 + 8 gathered: the same is not less.
        assert_eq!(choose(GATHER, &[(4, 4), (4, 4)]), []);
        // The rim of many keys costs more to copy than to compute.
        assert_eq!(choose(GATHER, &[(1, 1), (50, 50), (1, 1), (2, 2)]), [0, 2, 3]);
        // What the tile before has gathered is not copied.
        assert_eq!(choose(GATHER, &[(30, 0), (30, 2)]), [0, 1]);
        assert_eq!(choose(GATHER, &[(30, 0), (30, 9)]), []);
    }

    #[test]
    fn a_panel_begins_with_the_sixty_fifth_key() {
        let free = Gather { key: 0.0, ..GATHER };
        // 20 as rims; one panel is 12, two are 24.
        assert_eq!(choose(free, &[(32, 32), (32, 32)]), [0, 1]);
        assert_eq!(choose(free, &[(32, 32), (33, 33)]), []);
        // 30 as rims; of the fewest keys two make a panel, 22 with the third.
        assert_eq!(choose(free, &[(32, 32), (33, 33), (30, 30)]), [0, 2]);
        // 70 as rims; 24 gathered.
        assert_eq!(choose(free, &[(18, 18); 7]), [0, 1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn costs_that_are_no_numbers_gather_nothing() {
        for gather in [Gather { rim: f32::NAN, ..GATHER }, Gather { key: f32::INFINITY, ..GATHER }] {
            assert_eq!(choose(gather, &[(1, 1); 40]), []);
        }
    }
}
