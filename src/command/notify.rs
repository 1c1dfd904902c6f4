//! Keyspace events: which there are, and which are told of.
//!
//! An event is published when the change it tells of is committed, by the shard that owns the key:
//! what a subscriber hears has happened. `expired` is published when the key is deleted, which is
//! some time after its deadline; nobody sees the key in between.

use std::fmt;

use super::{Access, Args, Flags, Spec, bitfield};

/// The classes of events that are told of, and on which channels: `notify-keyspace-events`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Classes(u32);

impl Classes {
    /// `K`: on `__keyspace@db__:key`.
    pub const KEYSPACE: Self = Self(1 << 0);
    /// `E`: on `__keyevent@db__:event`.
    pub const KEYEVENT: Self = Self(1 << 1);
    /// `g`: `del`, `expire`, `rename_to` and their kin.
    pub const GENERIC: Self = Self(1 << 2);
    /// `$`: of strings.
    pub const STRING: Self = Self(1 << 3);
    /// `x`.
    pub const EXPIRED: Self = Self(1 << 8);
    /// `e`.
    pub const EVICTED: Self = Self(1 << 9);
    /// `m`: a read that did not find its key.
    pub const KEY_MISS: Self = Self(1 << 11);
    /// `n`: a key that was not there before.
    pub const NEW: Self = Self(1 << 13);
    /// `A`: all but `m` and `n`.
    const ALL: Self = Self(0b1_0111_1111_1100);

    /// Letter and bit, in the order in which Redis shows them. The classes of what we do not have
    /// (lists and their kin) may be chosen, and never occur.
    const LETTERS: [(char, u32); 14] = [
        ('g', 2),
        ('$', 3),
        ('l', 4),
        ('s', 5),
        ('h', 6),
        ('z', 7),
        ('x', 8),
        ('e', 9),
        ('t', 10),
        ('d', 12),
        ('n', 13),
        ('K', 0),
        ('E', 1),
        ('m', 11),
    ];

    /// Reads letters in any order; none when one is unknown.
    pub fn parse(letters: &[u8]) -> Option<Self> {
        letters.iter().try_fold(Self(0), |classes, letter| {
            if *letter == b'A' {
                return Some(classes.and(Self::ALL));
            }
            let known = Self::LETTERS.iter().find(|(known, _)| *known == char::from(*letter));
            known.map(|(_, bit)| classes.and(Self(1 << bit)))
        })
    }

    /// Both.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether any of `other` is set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether anything would ever be published: a class and a kind of channel.
    pub const fn is_on(self) -> bool {
        self.0 & 0b11 != 0 && self.0 & !0b11 != 0
    }

    /// For an atomic.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// From [`Classes::bits`].
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }
}

impl fmt::Display for Classes {
    /// As `CONFIG GET` of Redis shows them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.0 & Self::ALL.0 == Self::ALL.0;
        if all {
            f.write_str("A")?;
        }
        for (letter, bit) in Self::LETTERS {
            let told = all && Self::ALL.0 & 1 << bit != 0;
            if self.0 & 1 << bit != 0 && !told {
                write!(f, "{letter}")?;
            }
        }
        Ok(())
    }
}

/// For `CONFIG SET`: the letters as they are shown.
pub(super) fn check(letters: &[u8]) -> Result<String, String> {
    let refused = "Invalid event class character. Use 'Ag$lshzxeKEtmdn'.";
    Classes::parse(letters).map(|classes| classes.to_string()).ok_or_else(|| refused.to_owned())
}

/// What a command did to a key, as Redis names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Event {
    /// Nothing.
    #[default]
    None,
    /// SET and its kin.
    Set,
    /// The same with a deadline.
    SetUntil,
    /// APPEND.
    Append,
    /// SETRANGE.
    SetRange,
    /// SETBIT, or BITFIELD where it wrote.
    SetBit,
    /// A BITFIELD that wrote nothing made its key longer. Nothing tells of it but `new`.
    Grow,
    /// INCR and its kin.
    Add,
    /// INCRBYFLOAT.
    AddFloat,
    /// A deadline was set.
    Expire,
    /// A deadline was taken away.
    Persist,
    /// COPY, of the copy.
    CopyTo,
    /// RENAME, of the old name.
    RenameFrom,
    /// RENAME, of the new name.
    RenameTo,
    /// MOVE, of the key where it was.
    MoveFrom,
    /// MOVE, of the key where it is.
    MoveTo,
    /// RESTORE.
    Restore,
    /// The key was deleted, by a command or a deadline that has passed already.
    Delete,
    /// The key was deleted since its time was over.
    Expired,
    /// The key was deleted to give others room.
    Evicted,
}

impl Event {
    /// What is published, in order, each with its class.
    pub fn names(self) -> &'static [(Classes, &'static str)] {
        const SET: (Classes, &str) = (Classes::STRING, "set");
        const EXPIRE: (Classes, &str) = (Classes::GENERIC, "expire");
        match self {
            Self::None | Self::Grow => &[],
            Self::Set => &[SET],
            Self::SetUntil => &[SET, EXPIRE],
            Self::Append => &[(Classes::STRING, "append")],
            Self::SetRange => &[(Classes::STRING, "setrange")],
            Self::SetBit => &[(Classes::STRING, "setbit")],
            Self::Add => &[(Classes::STRING, "incrby")],
            Self::AddFloat => &[(Classes::STRING, "incrbyfloat")],
            Self::Expire => &[EXPIRE],
            Self::Persist => &[(Classes::GENERIC, "persist")],
            Self::CopyTo => &[(Classes::GENERIC, "copy_to")],
            Self::RenameFrom => &[(Classes::GENERIC, "rename_from")],
            Self::RenameTo => &[(Classes::GENERIC, "rename_to")],
            Self::MoveFrom => &[(Classes::GENERIC, "move_from")],
            Self::MoveTo => &[(Classes::GENERIC, "move_to")],
            Self::Restore => &[(Classes::GENERIC, "restore")],
            Self::Delete => &[(Classes::GENERIC, "del")],
            Self::Expired => &[(Classes::EXPIRED, "expired")],
            Self::Evicted => &[(Classes::EVICTED, "evicted")],
        }
    }

    /// Whether the key is gone.
    pub fn is_deletion(self) -> bool {
        matches!(
            self,
            Self::Delete | Self::RenameFrom | Self::MoveFrom | Self::Expired | Self::Evicted
        )
    }

    /// Whether the key counts as new even if there was one: COPY, RENAME and RESTORE put theirs in
    /// its place.
    pub fn replaces(self) -> bool {
        matches!(self, Self::CopyTo | Self::RenameTo | Self::Restore)
    }
}

/// Whether a command looks its key up to read it, so that one that is not there is a miss.
pub fn is_read(spec: &Spec, args: &Args<'_>) -> bool {
    match spec.name {
        "getex" | "getdel" | "getset" | "copy" | "bitop" => true,
        "bitfield" => bitfield::only_reads(args),
        "set" => (3..args.len()).any(|at| args.is(at, "GET")),
        // What asks how a value is held does not use it.
        "memory|usage" => false,
        name => spec.access == Access::Read && !name.starts_with("object|"),
    }
}

/// Which of the keys of a command that are judged together it reads: from, until.
pub fn read_keys(spec: &Spec, keys_count: usize) -> std::ops::Range<usize> {
    match spec.name {
        "bitop" => 1..keys_count,
        "lcs" => 0..keys_count,
        _ => 0..1,
    }
}

/// Whether INFO counts a command's look-up as a hit or a miss: those of reads, and of writes that
/// answer with what was there.
pub fn is_counted(spec: &Spec, args: &Args<'_>) -> bool {
    match spec.access {
        Access::Read => !spec.flags.has(Flags::WEIGHS),
        _ => is_read(spec, args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(letters: &str) -> Option<String> {
        Classes::parse(letters.as_bytes()).map(|classes| classes.to_string())
    }

    #[test]
    fn letters_are_shown_in_the_order_of_redis() {
        for (given, expected) in
            [("KEA", "AKE"), ("g$", "g$"), ("Kx", "xK"), ("Emn", "nEm"), ("", ""), ("KEAm", "AKEm")]
        {
            assert_eq!(shown(given).as_deref(), Some(expected), "{given}");
        }
        assert_eq!(shown("q"), None);
        assert_eq!(shown("g$lshzxetd").as_deref(), Some("A"));
    }

    #[test]
    fn nothing_is_on_without_a_class_and_a_channel() {
        for (letters, on) in [("", false), ("K", false), ("g$", false), ("Eg", true), ("KA", true)]
        {
            assert_eq!(Classes::parse(letters.as_bytes()).expect("known").is_on(), on, "{letters}");
        }
    }
}
