//! INFO: facts and figures as text, in the form exporters and clients parse: `# Section`, then
//! `name:value` lines, all ended by CR LF.

use std::fmt::{Display, Write as _};

use super::connection::{REDIS_VERSION, mode};
use super::question::{NodeWide, Question, Told};
use super::{Args, Counters, Facts, Session, Then};
use crate::protocol::resp::Reply;

/// The text of one section, without its heading.
type Write = fn(&mut Section<'_>);

/// Name, heading, whether it is shown by default, text.
const SECTIONS: [(&str, &str, bool, Write); 14] = [
    ("server", "Server", true, server),
    ("clients", "Clients", true, clients),
    ("memory", "Memory", true, memory),
    ("persistence", "Persistence", true, persistence),
    ("stats", "Stats", true, stats),
    ("replication", "Replication", true, replication),
    ("cpu", "CPU", true, cpu),
    ("modules", "Modules", true, |_| ()),
    ("commandstats", "Commandstats", false, commandstats),
    ("errorstats", "Errorstats", true, errorstats),
    ("latencystats", "Latencystats", false, latencystats),
    ("cluster", "Cluster", true, cluster),
    ("keyspace", "Keyspace", true, keyspace),
    ("stave", "Stave", true, stave),
];

struct Section<'a> {
    facts: &'a dyn Facts,
    counters: &'a Counters,
    text: String,
}

impl Section<'_> {
    fn line(&mut self, name: &str, value: impl Display) {
        write!(self.text, "{name}:{value}\r\n").expect("a String takes every write");
    }
}

pub(super) const INFO: NodeWide = NodeWide { ask: |_| Ok(Question::Gauges), tell: info };

fn info(
    _: &mut Session,
    facts: &dyn Facts,
    args: &Args<'_>,
    _: &Told,
    reply: &mut Reply<'_>,
) -> Then {
    let asks = |word: &str| (1..args.len()).any(|at| args.is(at, word));
    let all = asks("all") || asks("everything");
    let default = args.len() == 1 || asks("default");
    let counters = facts.counters();
    let mut section = Section { facts, counters: &counters, text: String::new() };
    for (name, heading, is_default, write) in SECTIONS {
        if all || (default && is_default) || asks(name) {
            let blank = if section.text.is_empty() { "" } else { "\r\n" };
            section.text.push_str(&format!("{blank}# {heading}\r\n"));
            write(&mut section);
        }
    }
    reply.verbatim(&section.text);
    Then::Continue
}

fn server(s: &mut Section<'_>) {
    let (identity, now_us) = (s.facts.identity(), s.facts.now_us());
    let uptime_s = (now_us / 1000).saturating_sub(identity.started_ms) / 1000;
    s.line("redis_version", REDIS_VERSION);
    s.line("redis_mode", mode(s.facts));
    s.line("stave_version", &identity.version);
    s.line("os", &identity.os);
    s.line("arch_bits", usize::BITS);
    s.line("multiplexing_api", identity.runtime);
    s.line("process_id", identity.pid);
    s.line("run_id", &identity.run_id);
    s.line("tcp_port", identity.resp_port);
    s.line("server_time_usec", now_us);
    s.line("uptime_in_seconds", uptime_s);
    s.line("uptime_in_days", uptime_s / 86_400);
    s.line("config_file", &identity.config_file);
    s.line("io_threads_active", 0);
}

fn clients(s: &mut Section<'_>) {
    s.line("connected_clients", s.counters.shards.clients);
    s.line("cluster_connections", 0);
    s.line("maxclients", s.counters.clients_max);
    s.line("blocked_clients", s.counters.shards.blocked_clients);
    s.line("tracking_clients", s.counters.shards.tracking_clients);
    s.line("clients_in_timeout_table", 0);
}

/// What is used is what is accounted to the budget; all of it but the memtables is overhead. There
/// are no scripts, nothing is defragmented, and nothing is freed later.
fn memory(s: &mut Section<'_>) {
    let used = s.counters.memory_used;
    let dataset = s.counters.shards.memtable_bytes;
    for (name, bytes) in [
        ("used_memory", used),
        ("used_memory_rss", s.counters.memory_rss),
        ("used_memory_peak", s.counters.memory_peak),
        ("total_system_memory", s.counters.memory_system),
        ("used_memory_lua", 0),
        ("used_memory_scripts", 0),
        ("maxmemory", s.counters.memory_limit),
    ] {
        s.line(name, bytes);
        s.line(&format!("{name}_human"), human(bytes));
    }
    let percent = |of: u64, all: u64| format!("{:.2}%", 100.0 * of as f64 / all.max(1) as f64);
    s.line("used_memory_peak_perc", percent(used, s.counters.memory_peak));
    s.line("used_memory_overhead", used.saturating_sub(dataset));
    s.line("used_memory_dataset", dataset);
    s.line("used_memory_dataset_perc", percent(dataset, used));
    let (rss, per) = (s.counters.memory_rss, used.max(1));
    s.line("mem_fragmentation_ratio", format_args!("{:.2}", rss as f64 / per as f64));
    s.line("mem_fragmentation_bytes", rss as i64 - used as i64);
    s.line("mem_aof_buffer", s.counters.shards.wal_backlog_bytes);
    s.line("active_defrag_running", 0);
    s.line("lazyfree_pending_objects", 0);
    s.line("number_of_cached_scripts", 0);
    s.line("number_of_functions", 0);
    s.line("number_of_libraries", 0);
    s.line("stave_memory_memtables", s.counters.shards.memtable_bytes);
    s.line("stave_memory_connections", s.counters.shards.connection_bytes);
    s.line("stave_memory_wal_backlog", s.counters.shards.wal_backlog_bytes);
    s.line("stave_memory_log", s.counters.shards.log_bytes);
    s.line("maxmemory_policy", s.counters.eviction.name());
    s.line("mem_allocator", "mimalloc");
}

/// Bytes for people, as Redis writes them.
pub(super) fn human(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["K", "M", "G", "T"];
    if bytes < 1024 {
        return format!("{bytes}B");
    }
    let unit = ((bytes.ilog2() / 10) as usize).min(UNITS.len());
    format!("{:.2}{}", bytes as f64 / (1_u64 << (10 * unit)) as f64, UNITS[unit - 1])
}

/// Nothing is ever left to save, and the log is never rewritten; what Redis tells of its files is
/// told of BGSAVE's copies. Seconds are -1 of what never was.
fn persistence(s: &mut Section<'_>) {
    s.line("loading", u8::from(s.counters.loading));
    s.line("async_loading", 0);
    s.line("rdb_changes_since_last_save", 0);
    s.line("rdb_bgsave_in_progress", u8::from(s.counters.is_saving));
    s.line("rdb_last_save_time", s.counters.saved_s);
    s.line("rdb_last_bgsave_status", if s.counters.save_failed { "err" } else { "ok" });
    s.line("rdb_last_bgsave_time_sec", s.counters.save_took_s);
    s.line("rdb_current_bgsave_time_sec", s.counters.saving_s);
    s.line("rdb_saves", s.counters.saves);
    s.line("aof_enabled", 1);
    s.line("aof_rewrite_in_progress", 0);
    s.line("aof_rewrite_scheduled", 0);
    s.line("aof_last_rewrite_time_sec", -1);
    s.line("aof_current_rewrite_time_sec", -1);
    s.line("aof_rewrites", 0);
    s.line("aof_last_bgrewrite_status", "ok");
    s.line("aof_last_write_status", if s.counters.shards.full_disks > 0 { "err" } else { "ok" });
    s.line("aof_current_size", s.counters.shards.wal_bytes);
}

fn stats(s: &mut Section<'_>) {
    s.line("total_connections_received", s.counters.shards.connections_received);
    s.line("total_commands_processed", s.counters.shards.commands);
    s.line("instantaneous_ops_per_sec", s.counters.shards.commands_per_s);
    s.line("total_net_input_bytes", s.counters.shards.received_bytes);
    s.line("total_net_output_bytes", s.counters.shards.sent_bytes);
    s.line("total_reads_processed", s.counters.shards.receives);
    s.line("total_writes_processed", s.counters.shards.sends);
    let kib = |bytes: u64| format!("{:.2}", bytes as f64 / 1024.0);
    s.line("instantaneous_input_kbps", kib(s.counters.shards.received_per_s));
    s.line("instantaneous_output_kbps", kib(s.counters.shards.sent_per_s));
    s.line("rejected_connections", s.counters.shards.connections_rejected);
    s.line("expired_keys", s.counters.shards.expired_keys);
    s.line("evicted_keys", s.counters.shards.evicted_keys);
    s.line("evicted_clients", 0);
    s.line("keyspace_hits", s.counters.shards.keyspace_hits);
    s.line("keyspace_misses", s.counters.shards.keyspace_misses);
    s.line("tracking_total_keys", s.counters.shards.tracked_keys);
    s.line("stave_tracking_evicted_keys", s.counters.shards.tracked_evicted);
    s.line("total_forks", 0);
    s.line("latest_fork_usec", 0);
    s.line("pubsub_channels", s.counters.shards.pubsub_channels);
    s.line("pubsub_patterns", s.counters.shards.pubsub_patterns);
    s.line("pubsubshard_channels", s.counters.shards.pubsub_shard_channels);
    s.line("client_output_buffer_limit_disconnections", s.counters.shards.subscribers_closed);
    s.line("stave_subscribers_slowed", s.counters.shards.subscribers_slowed);
    s.line("stave_monitor_lines_left_out", s.counters.shards.monitor_left_out);
    s.line("total_error_replies", s.counters.shards.errors);
}

/// A slave is a node that has replicas of what this one leads; offsets are counted in entries.
fn replication(s: &mut Section<'_>) {
    let primary = s.facts.primary();
    s.line("role", if primary.is_some() { "slave" } else { "master" });
    if let Some(primary) = primary {
        s.line("master_host", &primary.host);
        s.line("master_port", primary.port);
        s.line("master_link_status", if primary.is_up { "up" } else { "down" });
        s.line("master_sync_in_progress", u8::from(primary.copying > 0));
        s.line("slave_read_only", 1);
        s.line("stave_standby_partitions", primary.led);
        s.line("stave_standby_copying", primary.copying);
        s.line("stave_standby_copies", primary.copies);
        s.line("stave_standby_lag_entries", primary.lag_entries);
        s.line("stave_standby_lag_ms", primary.lag_ms);
        s.line("stave_standby_error", &primary.error);
    }
    s.line("connected_slaves", s.counters.followers.len());
    for (nth, of) in s.counters.followers.iter().enumerate() {
        let state = if of.is_near { "online" } else { "send_bulk" };
        let offset = s.counters.log_entries.saturating_sub(of.lacks);
        s.line(
            &format!("slave{nth}"),
            format_args!(
                "ip={},port={},state={state},offset={offset},lag={}",
                of.host, of.port, of.silent_s
            ),
        );
    }
    s.line("master_failover_state", "no-failover");
    s.line("master_replid", &s.facts.identity().node_id);
    s.line("master_replid2", "0".repeat(40));
    s.line("master_repl_offset", s.counters.log_entries);
    s.line("second_repl_offset", -1);
    s.line("repl_backlog_active", 0);
}

fn cpu(s: &mut Section<'_>) {
    let seconds = |us: u64| format!("{}.{:06}", us / 1_000_000, us % 1_000_000);
    s.line("used_cpu_sys", seconds(s.counters.cpu_sys_us));
    s.line("used_cpu_user", seconds(s.counters.cpu_user_us));
    s.line("used_cpu_sys_children", seconds(0));
    s.line("used_cpu_user_children", seconds(0));
}

/// `usec`: the time of cores in the command.
fn commandstats(s: &mut Section<'_>) {
    for of in s.facts.calls() {
        let us = of.busy_ns / 1000;
        let each_us = of.busy_ns as f64 / 1000.0 / of.calls.max(1) as f64;
        s.line(
            &format!("cmdstat_{}", of.name),
            format_args!(
                "calls={},usec={us},usec_per_call={each_us:.2},rejected_calls={},failed_calls={}",
                of.calls, of.rejected, of.failed
            ),
        );
    }
}

fn errorstats(s: &mut Section<'_>) {
    for (prefix, count) in s.facts.errors() {
        s.line(&format!("errorstat_{prefix}"), format_args!("count={count}"));
    }
}

/// Until the reply could leave: of a write, until it was durable.
fn latencystats(s: &mut Section<'_>) {
    for of in s.facts.calls().iter().filter(|of| of.latency.count > 0) {
        let us = |percent| of.latency.percentile(percent) as f64 / 1000.0;
        s.line(
            &format!("latency_percentiles_usec_{}", of.name),
            format_args!("p50={:.3},p99={:.3},p99.9={:.3}", us(50.0), us(99.0), us(99.9)),
        );
    }
}

fn cluster(s: &mut Section<'_>) {
    s.line("cluster_enabled", u8::from(s.facts.identity().cluster_mode));
}

fn keyspace(s: &mut Section<'_>) {
    for space in s.counters.keyspace.iter().filter(|space| space.keys > 0) {
        s.line(
            &format!("db{}", space.db),
            format_args!(
                "keys={},expires={},avg_ttl={}",
                space.keys, space.expires, space.avg_ttl_ms
            ),
        );
    }
}

fn stave(s: &mut Section<'_>) {
    let identity = s.facts.identity();
    s.line("stave_node_id", &identity.node_id);
    s.line("stave_shard", identity.shard);
    s.line("stave_cores", identity.cores);
    s.line("stave_runtime", identity.runtime);
    s.line("stave_ack", identity.ack.name());
    s.line("stave_answers_leader", s.counters.shards.answers_leader);
    s.line("stave_answers_relaxed", s.counters.shards.answers_relaxed);
    s.line("stave_slow_disks", s.counters.shards.slow_disks);
    s.line("stave_full_disks", s.counters.shards.full_disks);
    s.line("stave_held_up_logs", s.counters.shards.held_up_logs);
    s.line("stave_snapshots_begun", s.counters.shards.snapshots_begun);
    s.line("stave_snapshot_bytes", s.counters.shards.snapshot_bytes);
    s.line("stave_follower_reads", s.counters.shards.follower_reads);
    s.line("stave_follower_reads_too_old", s.counters.shards.follower_reads_too_old);
    s.line("stave_wal_bytes", s.counters.shards.wal_bytes);
    s.line("stave_wal_entries", s.counters.shards.entries_committed);
    s.line("stave_sstables", s.counters.shards.tables);
    s.line("stave_sstable_bytes", s.counters.shards.table_bytes);
    s.line("stave_sstable_memory_bytes", s.counters.shards.table_memory_bytes);
    s.line("stave_flushes", s.counters.shards.flushes);
    s.line("stave_compactions", s.counters.shards.compactions);
    s.line("stave_scrubbed_bytes", s.counters.shards.scrubbed_bytes);
    s.line("stave_scrub_cycles", s.counters.shards.scrub_cycles);
    s.line("stave_scrub_errors", s.counters.shards.scrub_errors);
    s.line("stave_scrub_oldest_s", s.counters.scrub_oldest_s);
    s.line("stave_rows_fetched", s.counters.shards.rows_fetched);
    s.line("stave_rows_evicted", s.counters.shards.rows_evicted);
    s.line("stave_writes_slowed", s.counters.shards.writes_slowed);
    s.line("stave_stalls", s.counters.shards.stalls);
}

#[cfg(test)]
mod tests {
    use super::human;

    #[test]
    fn bytes_are_written_for_people() {
        assert_eq!(human(0), "0B");
        assert_eq!(human(1023), "1023B");
        assert_eq!(human(1024), "1.00K");
        assert_eq!(human(1_261_880), "1.20M");
        assert_eq!(human(25_276_502_016), "23.54G");
    }
}
