//! Every bound that a client or an operator can meet, in one place, each with its reason.

use std::time::Duration;

/// Slots of the keyspace; fixed by the Redis cluster protocol.
pub const SLOT_COUNT: u16 = 16_384;

/// Longest key, bytes. Keys live in memory, in filters and in every log record.
pub const KEY_LEN_MAX: usize = 64 << 10;

/// Longest value, bytes: what Redis takes (`proto-max-bulk-len`).
pub const VALUE_LEN_MAX: usize = 512 << 20;

/// A value from this size on is *large*: it is held once, shared by reference, and goes to the log
/// and to the client in pieces, so that it holds no one else up. Bytes.
pub const LARGE_LEN_MIN: usize = 64 << 10;

/// Most arguments of one command; Redis's own bound (1024 * 1024).
pub const ARGS_MAX: usize = 1 << 20;

/// Longest frame of a request, all its arguments together, bytes: Redis's
/// `client-query-buffer-limit`.
pub const FRAME_LEN_MAX: usize = 1 << 30;

/// Longest inline command, bytes; Redis's `PROTO_INLINE_MAX_SIZE`.
pub const INLINE_LEN_MAX: usize = 64 << 10;

/// Most arguments of a command before authentication; as Redis.
pub const UNAUTHENTICATED_ARGS_MAX: usize = 10;

/// Longest argument before authentication, bytes; as Redis.
pub const UNAUTHENTICATED_BULK_LEN_MAX: usize = 16 << 10;

/// Partitions of a shard at the birth of a data directory, unless the operator says otherwise: few
/// and fat, since a thin batch costs more than anything else.
///
/// Why 6 and not the charter's 16 (D5): a turn of the loop makes an entry, and messages, for each
/// partition that was written. With three nodes and 64 or 256 clients that know the leaders, 6
/// serve 1.26 and 1.24 times as many durable writes as 16, at 0.77 and 0.80 of the CPU; 3 hardly
/// more than 6; a node alone 1.1 and 1.2 times as many at pipelines of 64 and 16
/// (bench-results/cluster.md). 6 are led evenly by one, two or three nodes; who will have many
/// gives `--partitions-per-core`.
pub const PARTITIONS_PER_CORE: u16 = 6;

/// Longest time one task may hold a core before the stall detector counts it.
pub const STALL_MIN: Duration = Duration::from_micros(500);

/// Longest time a connection to another node may take to be made. A peer that does not answer
/// within it is down or cut off, and is tried again.
pub const CONNECT_MAX: Duration = Duration::from_secs(1);

/// A sector of every disk and the alignment of every direct I/O, bytes.
pub const SECTOR_LEN: usize = 4096;
