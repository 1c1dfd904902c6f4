//! Keyspace events: what was done to keys, published to whoever subscribed to their channels.
//!
//! The shard that owns a key publishes, in the turn in which the change commits and before the
//! writer is answered: an event tells of what is durable and seen by every read after it. Events of
//! one shard's keys reach a subscriber in the order of the changes; between shards there is none.
//! In cluster mode a shard tells its own connections alone, as a node of a cluster does.

use super::Server;
use crate::command::Arg;
use crate::command::notify::Classes;
use crate::command::pubsub::Kind;
use crate::env::Env;
use crate::lsm::key;
use crate::shard::Observers;

impl<E: Env> Server<E> {
    /// Has the shard keep the changes that somebody is told of. Whoever asked to be told has been
    /// counted before it was answered: so this comes before anything is evaluated that may come
    /// after that answer.
    pub(super) fn look_for_observers(&mut self) {
        let (tracking, broadcast) = self.node.tracks();
        self.look_for_monitors();
        let sampled = self.latency.configure(&self.node);
        self.slow.configure(&self.node, sampled);
        let near = Observers { classes: self.node.notified(), tracking, broadcast };
        self.shard.observe(self.with_far(near));
    }

    /// Tells of the changes that are committed.
    pub(super) fn tell_changes(&mut self) {
        self.shard.tell_lost_readers();
        self.tell_all_to_forget();
        while let Some(change) = self.shard.next_change() {
            let name = change.key.as_deref().map(user_key);
            for event in &change.events {
                let (Some(encoded), Some(name)) = (&change.key, &name) else { continue };
                self.publish_event(key::db_of(encoded), name, event);
            }
            self.invalidate(&change, name.as_deref());
        }
        self.broadcast_changed();
    }

    fn publish_event(&mut self, db: u8, key: &[u8], event: &str) {
        let classes = self.node.notified();
        if classes.has(Classes::KEYSPACE) {
            let channel = [format!("__keyspace@{db}__:").as_bytes(), key].concat();
            self.publish(&channel, event.as_bytes());
        }
        if classes.has(Classes::KEYEVENT) {
            let channel = format!("__keyevent@{db}__:{event}");
            self.publish(channel.as_bytes(), key);
        }
    }

    /// To all who listen to the channel, wherever; in cluster mode, here.
    fn publish(&mut self, channel: &[u8], payload: &[u8]) {
        self.deliver(Kind::Channel, Arg::Bytes(channel), Arg::Bytes(payload));
        if !self.node.is_cluster_mode() {
            self.mail_message(channel, payload);
        }
    }
}

fn user_key(encoded: &[u8]) -> Vec<u8> {
    key::decode_user_key(encoded).expect("a key of the memtable is whole")
}
