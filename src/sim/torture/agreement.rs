//! Whether the replicas of a cluster agree, whatever clients see of them: the same rows after the
//! same entries, and one leader in a term.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::cluster::Cluster;
use crate::cluster::Sighting;
use crate::id::{NodeId, PartitionId};

/// What was seen so far.
#[derive(Debug, Default)]
pub struct Agreement {
    /// Who led each partition in each term.
    leaders: BTreeMap<(PartitionId, u64), NodeId>,
    /// What each partition's rows were after each entry, and who showed them.
    rows: BTreeMap<(PartitionId, u64), (u64, NodeId)>,
    /// How often two nodes showed the rows after one entry.
    pub compared: u64,
}

impl Agreement {
    /// Looks at what was seen of all nodes since the last time.
    ///
    /// # Errors
    /// Two that do not agree.
    pub fn look(&mut self, cluster: &Cluster) -> Result<(), String> {
        for house in &cluster.houses {
            let node = house.id();
            house.witness.take().into_iter().try_for_each(|seen| self.take(node, seen))?;
        }
        Ok(())
    }

    fn take(&mut self, node: NodeId, seen: Sighting) -> Result<(), String> {
        let Sighting { partition, term, leads, rows } = seen;
        if leads {
            let first = *self.leaders.entry((partition, term)).or_insert(node);
            if first != node {
                return Err(format!("{first} and {node} both led partition {partition} in {term}"));
            }
        }
        let Some((applied, digest)) = rows else { return Ok(()) };
        match self.rows.entry((partition, applied)) {
            Entry::Vacant(free) => drop(free.insert((digest, node))),
            Entry::Occupied(known) => {
                let (other, first) = *known.get();
                self.compared += u64::from(first != node);
                if other != digest {
                    return Err(format!(
                        "partition {partition} after entry {applied}: node {node} has not the rows \
                         that node {first} had"
                    ));
                }
            }
        }
        Ok(())
    }
}
