//! `stave cluster follow` and `promote`: a cluster that keeps another's data, and becomes a primary
//! when that one is lost.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use super::ask::{Ask, Session};
use super::failure::Failure;
use super::nodes::{LOOK_EVERY, look_on, status};
use super::{EXIT_FAILURE, EXIT_OK};
use crate::cluster::{Action, Fed, Member, Source, Told};

/// How long a node is waited for that is asked how far it is.
const NODE_DEADLINE: Duration = Duration::from_secs(2);

/// Make this cluster a read-only standby of another: what it has goes, and what the other has comes
#[derive(clap::Args)]
#[command(after_help = "\
The other cluster's nodes are asked over their binary ports, with this cluster's own password, and
keep in memory what was done lately; a standby that was away for longer copies anew. Both clusters
have the same number of cores per node. Clients may read the standby, and see what was there a
moment ago: `stave cluster status` and INFO replication say how far it is behind.")]
pub(super) struct Follow {
    /// Binary ports of nodes of the other cluster, with commas between them
    #[arg(value_name = "HOST:PORT,...")]
    source: String,

    /// Throw away the keys that this cluster has
    #[arg(long)]
    replace_data: bool,

    /// Do not wait until all is copied: the cluster goes on by itself
    #[arg(long)]
    no_wait: bool,

    /// How long to wait
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = super::duration::parse)]
    wait: Duration,
}

/// Have a standby follow nobody any more and take writes
#[derive(clap::Args)]
#[command(after_help = "\
What the other cluster has acknowledged and this one has not copied yet is not here: INFO
replication and `stave cluster status` say how much that may be. Have nobody write to the other one
any more: the two go separate ways from here on. To make it the standby of this one, have it follow:
`stave cluster follow` there.")]
pub(super) struct Promote {
    /// Also if not all was copied yet: keys may be missing
    #[arg(long)]
    force: bool,
}

/// How far a cluster is with what it follows, as all its nodes tell.
pub(super) fn fed(session: &Session<'_>, told: &Told) -> Fed {
    let own = told.fed.clone().unwrap_or_default();
    let others = told.topology.serving().filter(|member| member.id != told.asked);
    others.fold(own, |sum, member| {
        let fed = ask_node(session, member).and_then(|told| told.fed);
        fed.map_or(sum.clone(), |fed| sum.and(&fed))
    })
}

fn ask_node(session: &Session<'_>, member: &Member) -> Option<Told> {
    let options = session.options(&member.peer.to_string()).deadline(NODE_DEADLINE);
    let answer = options.connect_blocking_lazily().cluster(&Action::Status.encode()).ok()?;
    Told::decode(&answer).ok()
}

/// What `stave cluster status` says of a standby.
pub(super) fn describe(source: &Source, fed: &Fed, partitions: u32) -> String {
    let of = format!("standby of {source}, cluster {}", source.cluster);
    let whole = partitions.saturating_sub(missing(fed, partitions));
    let far = format!(
        "{whole} of {partitions} partitions follow it, {} entries and {} ms behind at most",
        fed.lag_entries, fed.lag_ms
    );
    match fed.error.as_str() {
        "" => format!("{of}\n{far}"),
        error => format!("{of}\n{far}\nnot all of it is told: {error}"),
    }
}

/// Partitions that are not known to follow.
fn missing(fed: &Fed, partitions: u32) -> u32 {
    partitions.saturating_sub(fed.led) + fed.copying
}

impl Follow {
    fn addresses(&self) -> Result<Vec<SocketAddr>, Failure> {
        let resolve = |name: &str| {
            let mut addrs = name.to_socket_addrs().map_err(|error| {
                Failure::Usage(format!("{name}: {error}; give HOST:PORT, a binary port"))
            })?;
            addrs.next().ok_or_else(|| Failure::Usage(format!("{name} has no address")))
        };
        self.source.split(',').map(resolve).collect()
    }

    /// Who the other is, and whether it can be followed.
    fn source(&self, session: &Session<'_>, own: &Told) -> Result<Source, Failure> {
        let at = self.addresses()?;
        let answer = session
            .options(&self.source)
            .connect_blocking_lazily()
            .cluster(&Action::Status.encode())?;
        let other = Told::decode(&answer).map_err(Failure::Usage)?;
        if other.cluster == own.cluster {
            let text = "a cluster does not follow itself: name the binary port of another";
            return Err(Failure::Usage(text.to_owned()));
        }
        if other.partitions != own.partitions {
            return Err(Failure::Usage(format!(
                "the other cluster has {} core(s) per node and this one {}: a standby has as many; \
                 start an empty one with --cores {}",
                other.cores, own.cores, other.cores
            )));
        }
        if let Some(primary) = other.topology.follows {
            return Err(Failure::Usage(format!(
                "that cluster is a standby itself, of {primary}: follow that one"
            )));
        }
        Ok(Source { cluster: other.cluster, at })
    }

    /// Whether there are keys that would go.
    fn refuse_loss(&self, session: &Session<'_>, own: &Told) -> Result<(), Failure> {
        if self.replace_data || own.topology.follows.is_some() {
            return Ok(());
        }
        let mut has_keys = session.client.info("keyspace")?.contains("\ndb");
        for member in own.topology.serving().filter(|member| member.id != own.asked) {
            let options = session.options(&member.peer.to_string()).deadline(NODE_DEADLINE);
            has_keys |= options.connect_blocking_lazily().info("keyspace")?.contains("\ndb");
        }
        match has_keys {
            false => Ok(()),
            true => Err(Failure::Usage(
                "this cluster has keys, and a standby has those of its primary alone: have them \
                 thrown away with --replace-data, or take an empty cluster"
                    .to_owned(),
            )),
        }
    }
}

impl Ask for Follow {
    fn ask(&self, session: &mut Session<'_>) -> Result<u8, Failure> {
        let own = status(session)?;
        let source = self.source(session, &own)?;
        let action = Action::Follow { source: source.clone() };
        own.topology.after(&action, own.cores).map_err(Failure::Usage)?;
        self.refuse_loss(session, &own)?;
        session.client.cluster(&action.encode())?;
        if self.no_wait {
            let text = format!(
                "a standby of {source} from now on; `stave cluster status` shows how far it is"
            );
            session.print(&source, &text)?;
            return Ok(EXIT_OK);
        }
        look_on(session, self.wait, |session| {
            let told = status(session)?;
            let fed = fed(session, &told);
            let now = describe(&source, &fed, told.partitions);
            Ok((missing(&fed, told.partitions) == 0, fed, now))
        })
    }
}

impl Ask for Promote {
    fn ask(&self, session: &mut Session<'_>) -> Result<u8, Failure> {
        let told = status(session)?;
        told.topology.after(&Action::Promote, told.cores).map_err(Failure::Usage)?;
        let before = fed(session, &told);
        let missing = missing(&before, told.partitions);
        if missing > 0 && !self.force {
            return Err(Failure::Usage(format!(
                "{missing} of {} partitions are not known to be copied, so keys would be missing: \
                 wait until `stave cluster status` says that all follow, or give --force",
                told.partitions
            )));
        }
        session.client.cluster(&Action::Promote.encode())?;
        let end = Instant::now() + Duration::from_secs(30);
        while Instant::now() < end {
            let told = status(session)?;
            if told.topology.follows.is_none() && fed(session, &told).led == 0 {
                let text = format!(
                    "a primary from now on; it was {} entries and {} ms behind at most when it was \
                     asked",
                    before.lag_entries, before.lag_ms
                );
                session.print(&before, &text)?;
                return Ok(EXIT_OK);
            }
            std::thread::sleep(LOOK_EVERY);
        }
        eprintln!("stave: agreed on, but not all partitions have heard of it after 30 s");
        Ok(EXIT_FAILURE)
    }
}
