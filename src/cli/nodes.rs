//! `stave cluster`: the nodes of a cluster, asked of any of them, and what is to become of them.
//!
//! A change is a wish that the cluster carries out by itself, whoever dies meanwhile; a command
//! that waits for it only looks on.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::ask::{Ask, Remote, Session};
use super::failure::Failure;
use super::standby::{self, Follow, Promote};
use super::{EXIT_FAILURE, EXIT_OK};
use crate::cluster::{Action, Member, PartitionStatus, State, Told, Topology, Wanted};

const EXAMPLES: &str = "\
Examples:
  stave serve --peer-port 7401                       a cluster of one node that others can join
  stave serve --join 10.0.0.1:7401 --data-dir d2     another node, with an empty directory
  stave cluster status                               who leads what, and who lacks something
  stave cluster drain 2                              before its machine is taken down for long
  stave cluster remove 2                             when it does not come back
  stave cluster replicas 5                           two nodes may fail at a time, not one
  stave cluster follow 10.9.0.1:7400                 be a standby of the cluster there
  stave cluster promote                              when that one is lost: take writes

Ask any node that is there (--server HOST:PORT, its binary port or its peer port).";

/// How often somebody who waits looks.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(300);

/// Look at the nodes of a cluster, or change them
#[derive(clap::Args)]
#[command(after_help = EXAMPLES, arg_required_else_help = true)]
pub(super) struct Nodes {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Status(Remote<Status>),
    Topology(Remote<ShowTopology>),
    Drain(Remote<Drain>),
    Restore(Remote<Restore>),
    Remove(Remote<Remove>),
    Transfer(Remote<Transfer>),
    Replicas(Remote<Replicas>),
    Follow(Remote<Follow>),
    Promote(Remote<Promote>),
}

impl Nodes {
    /// Runs it; returns the exit code.
    pub(super) fn run(&self, out: &mut impl std::io::Write) -> u8 {
        match &self.command {
            Command::Status(ask) => ask.run(out),
            Command::Topology(ask) => ask.run(out),
            Command::Drain(ask) => ask.run(out),
            Command::Restore(ask) => ask.run(out),
            Command::Remove(ask) => ask.run(out),
            Command::Transfer(ask) => ask.run(out),
            Command::Replicas(ask) => ask.run(out),
            Command::Follow(ask) => ask.run(out),
            Command::Promote(ask) => ask.run(out),
        }
    }
}

/// Show the nodes, what they lead and whether anything is missing
#[derive(clap::Args)]
struct Status {
    /// Exit with 1 unless all is as it is to be
    #[arg(long)]
    check: bool,
}

/// Print which nodes there are, as the cluster has agreed on it, in JSON
#[derive(clap::Args)]
struct ShowTopology {}

/// Have a node keep no replicas; it stays a node
#[derive(clap::Args)]
struct Drain {
    /// Which
    #[arg(value_name = "NODE")]
    node: u64,

    #[command(flatten)]
    how: How,
}

/// Have a node that was drained keep replicas again
#[derive(clap::Args)]
struct Restore {
    /// Which
    #[arg(value_name = "NODE")]
    node: u64,

    #[command(flatten)]
    how: How,
}

/// Forget a node for good: it is dead, or is to be. Its number is not used again
#[derive(clap::Args)]
struct Remove {
    /// Which
    #[arg(value_name = "NODE")]
    node: u64,

    #[command(flatten)]
    how: How,
}

/// Have a node lead all partitions; without one, each as many as the others
#[derive(clap::Args)]
struct Transfer {
    /// Which
    #[arg(value_name = "NODE")]
    node: Option<u64>,

    #[command(flatten)]
    how: How,
}

/// Have so many nodes keep a replica of each partition: 1, 3, 5 or 7; all, while there are fewer
#[derive(clap::Args)]
struct Replicas {
    /// How many
    #[arg(value_name = "N")]
    count: u8,

    #[command(flatten)]
    how: How,
}

#[derive(clap::Args)]
struct How {
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,

    /// Do not wait until it is done: the cluster goes on by itself
    #[arg(long)]
    no_wait: bool,

    /// How long to wait
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = super::duration::parse)]
    wait: Duration,
}

/// What the node that is asked knows of its cluster.
pub(super) fn status(session: &Session<'_>) -> Result<Told, Failure> {
    let answer = session.client.cluster(&Action::Status.encode())?;
    Told::decode(&answer).map_err(Failure::Usage)
}

fn count(told: &Told, what: impl Fn(&PartitionStatus) -> bool) -> usize {
    told.partition.iter().filter(|partition| what(partition)).count()
}

fn line(told: &Told, member: &Member) -> String {
    let Member { id, peer, zone, state, .. } = member;
    let state = format!("{state:?}").to_lowercase();
    let zone = if zone.is_empty() { "-" } else { zone };
    let leads = count(told, |partition| partition.leader == *id);
    let votes = count(told, |partition| partition.voters.contains(id));
    let learns = count(told, |partition| partition.learners.contains(id));
    let behind = count(told, |partition| partition.behind.contains(id));
    let peer = peer.to_string();
    format!(
        "{id:<5} {peer:<21} {zone:<10} {state:<9} {leads:>5} {votes:>6} {learns:>8} {behind:>6}"
    )
}

fn summary(told: &Told) -> String {
    let leaderless = count(told, |partition| partition.leader == 0);
    match (leaderless, told.unsettled().len()) {
        (0, 0) => format!("all {} partitions are as they are to be", told.partitions),
        (0, moving) => format!("{moving} of {} partitions are changing", told.partitions),
        (lost, _) => format!("{lost} of {} partitions have no leader", told.partitions),
    }
}

impl Ask for Status {
    fn ask(&self, session: &mut Session<'_>) -> Result<u8, Failure> {
        let told = status(session)?;
        let Topology { version, nodes, .. } = &told.topology;
        let mut lines = vec![
            format!("cluster {}, version {version}, as node {} sees it", told.cluster, told.asked),
            format!(
                "{} replicas of each partition, as far as there are nodes",
                told.topology.replicas()
            ),
            "node  peers                 zone       state     leads  votes   learns behind".into(),
        ];
        let there = nodes.iter().filter(|member| member.state != State::Removed);
        lines.extend(there.map(|member| line(&told, member)));
        lines.push(summary(&told));
        if let Some(source) = &told.topology.follows {
            let fed = standby::fed(session, &told);
            lines.push(standby::describe(source, &fed, told.partitions));
        }
        session.print(&told, &lines.join("\n"))?;
        Ok(if self.check && !told.unsettled().is_empty() { EXIT_FAILURE } else { EXIT_OK })
    }
}

impl Ask for ShowTopology {
    fn ask(&self, session: &mut Session<'_>) -> Result<u8, Failure> {
        let told = status(session)?;
        let text = serde_json::to_string_pretty(&told.topology).expect("it has no odd keys");
        session.print(&told.topology, &text)?;
        Ok(EXIT_OK)
    }
}

impl Ask for Drain {
    fn ask(&self, session: &mut Session<'_>) -> Result<u8, Failure> {
        self.how.carry_out(session, &Action::Drain { node: self.node })
    }
}

impl Ask for Restore {
    fn ask(&self, session: &mut Session<'_>) -> Result<u8, Failure> {
        self.how.carry_out(session, &Action::Restore { node: self.node })
    }
}

impl Ask for Remove {
    fn ask(&self, session: &mut Session<'_>) -> Result<u8, Failure> {
        self.how.carry_out(session, &Action::Remove { node: self.node })
    }
}

impl Ask for Transfer {
    fn ask(&self, session: &mut Session<'_>) -> Result<u8, Failure> {
        self.how.carry_out(session, &Action::Transfer { node: self.node })
    }
}

impl Ask for Replicas {
    fn ask(&self, session: &mut Session<'_>) -> Result<u8, Failure> {
        self.how.carry_out(session, &Action::Replicas { count: self.count })
    }
}

impl How {
    fn carry_out(&self, session: &mut Session<'_>, action: &Action) -> Result<u8, Failure> {
        let told = status(session)?;
        let (after, _) = told.topology.after(action, told.cores).map_err(Failure::Usage)?;
        if self.dry_run {
            return foretell(session, &told, &after);
        }
        session.client.cluster(&action.encode())?;
        if self.no_wait {
            let text = "agreed on; `stave cluster status` shows how far it is";
            session.print(&after, text)?;
            return Ok(EXIT_OK);
        }
        look_on(session, self.wait, |session| {
            // Who is asked may be on its way out of the cluster, or look for a leader.
            let told = status(session).ok().filter(|told| told.topology.version >= after.version);
            let is_done = told.as_ref().is_some_and(|told| told.unsettled().is_empty());
            let now = told.as_ref().map_or("waiting".to_owned(), summary);
            Ok((is_done, told, now))
        })
    }
}

/// Looks again and again how far a change is, and says so when that has changed: until it is done,
/// or patience ends. `look` says whether it is done, and what is so far, for programs and people.
pub(super) fn look_on<T: Serialize>(
    session: &mut Session<'_>,
    patience: Duration,
    mut look: impl FnMut(&Session<'_>) -> Result<(bool, T, String), Failure>,
) -> Result<u8, Failure> {
    let (end, mut said) = (Instant::now() + patience, String::new());
    loop {
        let (is_done, told, now) = look(session)?;
        if is_done {
            session.print(&told, &now)?;
            return Ok(EXIT_OK);
        }
        if said != now {
            eprintln!("stave: {now}");
            said = now;
        }
        if Instant::now() > end {
            let text = format!(
                "not done after {patience:?}: {said}. It is agreed on, and goes on by itself; \
                 `stave cluster status` shows how far it is"
            );
            return Err(Failure::Usage(text));
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// A partition whose replicas would be others.
#[derive(Serialize)]
struct Foretold {
    partition: u32,
    gain: Vec<u64>,
    lose: Vec<u64>,
    leader: u64,
}

fn foretell(session: &mut Session<'_>, told: &Told, after: &Topology) -> Result<u8, Failure> {
    let mut all = Vec::new();
    let wanted = after.place(told.partitions);
    for ((partition, now), Wanted { voters, learners }) in (0..).zip(&told.partition).zip(wanted) {
        let wanted: Vec<u64> = voters.iter().chain(&learners).map(|node| node.0).collect();
        let gain: Vec<_> = wanted.iter().copied().filter(|node| !now.has(*node)).collect();
        let had = now.voters.iter().chain(&now.learners).copied();
        let lose: Vec<_> = had.filter(|node| !wanted.contains(node)).collect();
        let leader = voters.first().map_or(0, |node| node.0);
        if !gain.is_empty() || !lose.is_empty() || leader != now.leader {
            all.push(Foretold { partition, gain, lose, leader });
        }
    }
    let lines = all.iter().map(|Foretold { partition, gain, lose, leader }| {
        format!("partition {partition}: gains {gain:?}, loses {lose:?}, led by {leader}")
    });
    let mut lines: Vec<_> = lines.collect();
    lines.push(format!(
        "{} of {} partitions would change; nothing was done",
        all.len(),
        told.partitions
    ));
    session.print(&all, &lines.join("\n"))?;
    Ok(EXIT_OK)
}
