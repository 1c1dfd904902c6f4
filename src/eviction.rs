//! Which keys leave a cache whose memory is full, for others to come: the policies of Redis.
//!
//! Not here: the hand that looks for them ([`crate::lsm::memtable`]), and when ([`crate::shard`]).

/// Which keys leave. The names are those of Redis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Eviction {
    /// None: writes are refused.
    #[default]
    None,
    /// Those not used for long.
    AllKeysLru,
    /// Those seldom used.
    AllKeysLfu,
    /// Any.
    AllKeysRandom,
    /// Of keys with a deadline, those not used for long.
    VolatileLru,
    /// Of keys with a deadline, those seldom used.
    VolatileLfu,
    /// Of keys with a deadline, any.
    VolatileRandom,
    /// Those whose deadline is next.
    VolatileTtl,
}

impl Eviction {
    /// All of them; the first is the default.
    pub const ALL: [Self; 8] = [
        Self::None,
        Self::AllKeysLru,
        Self::AllKeysLfu,
        Self::AllKeysRandom,
        Self::VolatileLru,
        Self::VolatileLfu,
        Self::VolatileRandom,
        Self::VolatileTtl,
    ];

    /// Of its name, in any case.
    pub fn named(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.name().as_bytes().eq_ignore_ascii_case(name))
    }

    /// As users write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "noeviction",
            Self::AllKeysLru => "allkeys-lru",
            Self::AllKeysLfu => "allkeys-lfu",
            Self::AllKeysRandom => "allkeys-random",
            Self::VolatileLru => "volatile-lru",
            Self::VolatileLfu => "volatile-lfu",
            Self::VolatileRandom => "volatile-random",
            Self::VolatileTtl => "volatile-ttl",
        }
    }

    /// Its place in [`Eviction::ALL`], for an atomic.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// Whether keys without a deadline stay.
    pub fn is_volatile(self) -> bool {
        matches!(
            self,
            Self::VolatileLru | Self::VolatileLfu | Self::VolatileRandom | Self::VolatileTtl
        )
    }

    /// Up to how many uses of a key count.
    pub fn uses_max(self) -> u32 {
        match self {
            Self::AllKeysLfu | Self::VolatileLfu => 3,
            Self::AllKeysLru | Self::VolatileLru => 1,
            Self::None | Self::AllKeysRandom | Self::VolatileRandom | Self::VolatileTtl => 0,
        }
    }
}
