//! `cluster`: which nodes there are, and which are to be. What changes that goes to the leader of
//! the partition that knows, from whichever node it was asked of, as a write goes to its key's.

use super::Asker;
use crate::cluster::{Action, Told, text_of};
use crate::env::Env;
use crate::protocol::binary::{Code, Failure, Reply};
use crate::server::Server;
use crate::shard::{Denied, Shard};

impl<E: Env> Server<E> {
    pub(super) fn serve_cluster(&mut self, asker: &Asker, text: &str) {
        let Some(members) = self.shard.members().cloned() else {
            let text = "this node is alone: start it with --peer-port PORT, and others can join it";
            return self.fail(asker, Failure::new(Code::ClusterRefused, text));
        };
        let action = match Action::decode(text) {
            Ok(action) => action,
            Err(text) => return self.fail(asker, Failure::new(Code::BadRequest, &text)),
        };
        if action == Action::Status {
            let text = text_of(&Told::status(&members));
            return self.tell_cluster(asker, &[], &text);
        }
        let owner = self.shard.owner(Shard::<E>::knowing());
        let Some(place) = self.shard.knowing_place().filter(|_| owner == self.shard.id()) else {
            return self.forward_typed(owner, asker, text.as_bytes());
        };
        // Of a standby only the keys are not to be written.
        if self.shard.primary().is_none() && self.refuses(asker, self.binary.set) {
            return;
        }
        if let Action::Follow { source } = &action
            && source.id() == members.cluster()
        {
            let text = "a cluster does not follow itself: name the binary port of another";
            return self.fail(asker, Failure::new(Code::ClusterRefused, text));
        }
        match self.shard.change_topology(place, &action) {
            Ok(granted) => {
                let waits: Vec<_> = granted.hold.map(|entry| (place, entry)).into_iter().collect();
                let told = Told::of(&members, &granted.topology);
                let told = Told { node: granted.node, ..told };
                self.tell_cluster(asker, &waits, &text_of(&told));
            }
            Err(Denied::Never(text)) => {
                self.fail(asker, Failure::new(Code::ClusterRefused, &text));
            }
            Err(Denied::Busy) => {
                let text = "another change of the cluster is on its way: try again";
                self.fail(asker, Failure::new(Code::Overloaded, text));
            }
        }
    }

    fn tell_cluster(&mut self, asker: &Asker, waits: &[(u32, u64)], text: &str) {
        self.respond(asker, waits, 0, |out| {
            Reply::Info(text).encode(out);
            None
        });
    }
}
