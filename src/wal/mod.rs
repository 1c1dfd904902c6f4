//! Write-ahead log: the one durable, ordered record of every write on a shard.
