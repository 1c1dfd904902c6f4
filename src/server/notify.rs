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

impl<E: Env> Server<E> {
    /// Has the shard keep the changes that somebody is told of.
    pub(super) fn look_for_observers(&mut self) {
        self.shard.observe(self.node.notified());
    }

    /// Tells of the changes that are committed.
    pub(super) fn tell_changes(&mut self) {
        while let Some(change) = self.shard.next_change() {
            let name = key::decode_user_key(&change.key).expect("a key of the memtable is whole");
            let db = key::db_of(&change.key);
            for event in &change.events {
                self.publish_event(db, &name, event);
            }
        }
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

    fn publish(&mut self, channel: &[u8], payload: &[u8]) {
        self.deliver(Kind::Channel, Arg::Bytes(channel), Arg::Bytes(payload));
        if !self.node.is_cluster_mode() {
            self.mail_message(channel, payload);
        }
    }
}
