//! The simulator's chance: xoshiro256++ started by splitmix64. Small, fast, and the same for ever,
//! so that an old seed replays.

/// A seeded source of random numbers. Not for secrets.
#[derive(Clone, Debug)]
pub struct Rng {
    state: [u64; 4],
}

impl Rng {
    /// The stream of `seed`; any seed is fine, 0 too.
    pub fn new(seed: u64) -> Self {
        let mut mix = seed;
        Self { state: std::array::from_fn(|_| splitmix64(&mut mix)) }
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        let [a, b, c, d] = self.state;
        let out = a.wrapping_add(d).rotate_left(23).wrapping_add(a);
        let (c, d) = (c ^ a, d ^ b);
        self.state = [a ^ d, b ^ c, c ^ (b << 17), d.rotate_left(45)];
        out
    }

    /// A number in `0..bound`.
    ///
    /// # Panics
    /// If `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "nothing lies below 0");
        // Multiply-shift: the bias of at most bound / 2^64 does not matter here.
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// An index of a list of `len` things.
    ///
    /// # Panics
    /// If `len` is 0.
    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// A number in `min..=max`.
    ///
    /// # Panics
    /// If `max < min`.
    pub fn between(&mut self, min: u64, max: u64) -> u64 {
        assert!(min <= max, "an empty range: {min}..={max}");
        min + self.below((max - min).saturating_add(1))
    }

    /// True in `ppm` of a million cases.
    pub fn chance(&mut self, ppm: u32) -> bool {
        ppm > 0 && self.below(1_000_000) < u64::from(ppm)
    }

    /// True once in `n` cases.
    ///
    /// # Panics
    /// If `n` is 0.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// A stream of its own, started from this one.
    pub fn fork(&mut self) -> Self {
        Self::new(self.next_u64())
    }
}

fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xoshiro_matches_its_reference() {
        let mut rng = Rng { state: [1, 2, 3, 4] };

        let first: Vec<u64> = (0..4).map(|_| rng.next_u64()).collect();

        // From the xoshiro authors' C code with the state 1, 2, 3, 4.
        assert_eq!(first, [41_943_041, 58_720_359, 3_588_806_011_781_223, 3_591_011_842_654_386]);
    }

    #[test]
    fn bounds_hold_and_are_reached() {
        let mut rng = Rng::new(0);

        let drawn: std::collections::BTreeSet<u64> =
            (0..1_000).map(|_| rng.between(3, 7)).collect();

        assert!(drawn.iter().copied().eq(3..=7), "{drawn:?}");
        assert!(!(0..1_000).any(|_| rng.chance(0)) && (0..1_000).all(|_| rng.chance(1_000_000)));
    }
}
