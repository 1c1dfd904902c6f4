//! The disk of one simulated node: what it holds, what of that is durable, and what a power cut
//! leaves. Pure: time, latency and the choice of faults are the caller's ([`super::io`]).
//!
//! A file is a list of sectors. A sector has one durable version and, after it, pending ones, the
//! last of which is what reads see. A directory has durable entries and a list of operations since
//! its last sync. Files and directories are found through their directory only: a durable file in
//! a directory whose own name was never synced is lost.
//!
//! A power cut leaves
//! * of each sector any one version, or a mix of two at 512 B granularity (a torn write);
//! * of each file any length between the durable and the last one;
//! * of each directory the operations up to any point. A rename from one directory to another is
//!   never half of one: the file is at one of the two names, or at both.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path};
use std::rc::Rc;

use super::rng::Rng;
use super::stored::Stored;
use crate::env::Mode;
use crate::limits::SECTOR_LEN;

/// The number of a file or directory on its disk, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Inode(u64);

const ROOT: Inode = Inode(0);

/// A place in the order of all changes to a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Change(u64);

/// What a power cut did to a disk: so that a test can show that it tests what it says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PowerCut {
    /// Sectors that were written but not synced.
    pub unsynced: u64,
    /// Of these, sectors that kept their durable version.
    pub lost: u64,
    /// Of these, sectors that got their last version.
    pub kept: u64,
    /// Of these, sectors that are a mix of two versions.
    pub torn: u64,
    /// Sectors written earlier that were lost though one of the same file written later was kept.
    pub reordered: u64,
    /// Operations on names that were lost.
    pub names_lost: u64,
    /// Operations on names that were not synced and are there nevertheless.
    pub names_kept: u64,
}

/// One operation on the names of a directory: `name` is now this, or is gone.
#[derive(Debug)]
struct Naming {
    at: Change,
    name: String,
    node: Option<Inode>,
}

impl Naming {
    fn apply(&self, entries: &mut BTreeMap<String, Inode>) {
        match self.node {
            Some(inode) => entries.insert(self.name.clone(), inode),
            None => entries.remove(&self.name),
        };
    }
}

#[derive(Debug, Default)]
struct Directory {
    entries: BTreeMap<String, Inode>,
    durable: BTreeMap<String, Inode>,
    pending: Vec<Naming>,
}

#[derive(Debug)]
enum Node {
    File(Stored),
    Dir(Directory),
}

/// See the module's header.
#[derive(Debug)]
pub(super) struct Disk {
    nodes: BTreeMap<Inode, Node>,
    next: u64,
    changes: u64,
    /// Bytes; writes beyond it meet ENOSPC.
    pub capacity: u64,
}

impl Disk {
    pub fn new() -> Self {
        let nodes = BTreeMap::from([(ROOT, Node::Dir(Directory::default()))]);
        Self { nodes, next: 1, changes: 0, capacity: u64::MAX }
    }

    /// The last change made.
    pub fn changed(&self) -> Change {
        Change(self.changes)
    }

    fn change(&mut self) -> Change {
        self.changes += 1;
        Change(self.changes)
    }

    fn add(&mut self, node: Node) -> Inode {
        let inode = Inode(self.next);
        self.next += 1;
        self.nodes.insert(inode, node);
        inode
    }

    pub fn file(&self, inode: Inode) -> &Stored {
        match self.nodes.get(&inode) {
            Some(Node::File(file)) => file,
            other => panic!("{inode:?} is open and yet not a file: {other:?}"),
        }
    }

    pub fn file_mut(&mut self, inode: Inode) -> &mut Stored {
        match self.nodes.get_mut(&inode) {
            Some(Node::File(file)) => file,
            other => panic!("{inode:?} is open and yet not a file: {other:?}"),
        }
    }

    fn dir(&self, inode: Inode) -> io::Result<&Directory> {
        match self.nodes.get(&inode) {
            Some(Node::Dir(dir)) => Ok(dir),
            _ => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    fn dir_mut(&mut self, inode: Inode) -> io::Result<&mut Directory> {
        match self.nodes.get_mut(&inode) {
            Some(Node::Dir(dir)) => Ok(dir),
            _ => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    fn look_up(&self, path: &Path) -> io::Result<Inode> {
        let mut at = ROOT;
        for name in names(path) {
            at = *self.dir(at)?.entries.get(&name).ok_or(io::ErrorKind::NotFound)?;
        }
        Ok(at)
    }

    /// The directory that holds `path`, and the last name of it.
    fn parent(&self, path: &Path) -> io::Result<(Inode, String)> {
        let mut names = names(path);
        let name = names.pop().ok_or(io::ErrorKind::InvalidInput)?;
        let mut at = ROOT;
        for name in names {
            at = *self.dir(at)?.entries.get(&name).ok_or(io::ErrorKind::NotFound)?;
        }
        self.dir(at)?;
        Ok((at, name))
    }

    fn name(&mut self, dir: Inode, at: Change, name: String, node: Option<Inode>) {
        let dir = self.dir_mut(dir).expect("the caller looked it up");
        let naming = Naming { at, name, node };
        naming.apply(&mut dir.entries);
        dir.pending.push(naming);
    }

    /// See [`crate::env::Env::open`]. Whoever holds the second part keeps the file alive.
    pub fn open(&mut self, path: &Path, mode: Mode) -> io::Result<(Inode, Rc<()>)> {
        let found = self.look_up(path);
        let inode = match (mode, found) {
            (Mode::Create, Ok(_)) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Mode::Create, Err(error)) if error.kind() == io::ErrorKind::NotFound => {
                let (dir, name) = self.parent(path)?;
                let inode = self.add(Node::File(Stored::default()));
                let at = self.change();
                self.name(dir, at, name, Some(inode));
                inode
            }
            (_, found) => found?,
        };
        match &self.nodes[&inode] {
            Node::File(file) => Ok((inode, file.open.clone())),
            Node::Dir(_) => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    /// See [`crate::env::Env::list`].
    pub fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        Ok(self.dir(self.look_up(dir)?)?.entries.keys().cloned().collect())
    }

    /// See [`crate::env::Env::create_dir`].
    pub fn create_dir(&mut self, path: &Path) -> io::Result<()> {
        let mut at = ROOT;
        for name in names(path) {
            at = match self.dir(at)?.entries.get(&name) {
                Some(inode) => *inode,
                None => {
                    let inode = self.add(Node::Dir(Directory::default()));
                    let change = self.change();
                    self.name(at, change, name, Some(inode));
                    inode
                }
            };
        }
        self.dir(at).map(|_| ())
    }

    /// See [`crate::env::Env::rename`].
    pub fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let inode = self.look_up(from)?;
        let (old_dir, old_name) = self.parent(from)?;
        let (new_dir, new_name) = self.parent(to)?;
        if let Some(there) = self.dir(new_dir)?.entries.get(&new_name) {
            if *there == inode {
                return Ok(());
            }
            self.check_replaceable(inode, *there)?;
        }
        // One change: a power cut finds both halves done, or neither, in one directory. For two,
        // see `cut_names`.
        let at = self.change();
        self.name(new_dir, at, new_name, Some(inode));
        self.name(old_dir, at, old_name, None);
        Ok(())
    }

    fn check_replaceable(&self, by: Inode, there: Inode) -> io::Result<()> {
        match (&self.nodes[&by], &self.nodes[&there]) {
            (Node::File(_), Node::File(_)) => Ok(()),
            (Node::Dir(_), Node::Dir(dir)) if dir.entries.is_empty() => Ok(()),
            (Node::Dir(_), Node::Dir(_)) => Err(io::ErrorKind::DirectoryNotEmpty.into()),
            (Node::File(_), Node::Dir(_)) => Err(io::ErrorKind::IsADirectory.into()),
            (Node::Dir(_), Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    /// See [`crate::env::Env::link`].
    pub fn link(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let inode = self.look_up(from)?;
        let (dir, name) = self.parent(to)?;
        if matches!(self.nodes[&inode], Node::Dir(_)) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if self.dir(dir)?.entries.contains_key(&name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let at = self.change();
        self.name(dir, at, name, Some(inode));
        Ok(())
    }

    /// See [`crate::env::Env::remove`].
    pub fn remove(&mut self, path: &Path) -> io::Result<()> {
        let inode = self.look_up(path)?;
        if matches!(self.nodes[&inode], Node::Dir(_)) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let (dir, name) = self.parent(path)?;
        let at = self.change();
        self.name(dir, at, name, None);
        Ok(())
    }

    /// Makes what was done to the names of `path` up to `upto` durable, and the other half of a
    /// rename with it, as a journal does.
    pub fn sync_dir(&mut self, path: &Path, upto: Change) -> io::Result<()> {
        let mut todo = vec![(self.look_up(path)?, upto)];
        while let Some((inode, upto)) = todo.pop() {
            let dir = self.dir_mut(inode)?;
            let synced = dir.pending.partition_point(|naming| naming.at <= upto);
            let synced: Vec<Naming> = dir.pending.drain(..synced).collect();
            synced.iter().for_each(|naming| naming.apply(&mut dir.durable));
            for naming in synced {
                todo.extend(self.other_half(inode, naming.at).map(|other| (other, naming.at)));
            }
        }
        self.sweep();
        Ok(())
    }

    /// The other directory of the rename `at`, if it has still to be made durable there.
    fn other_half(&self, not: Inode, at: Change) -> Option<Inode> {
        let has = |dir: &Directory| dir.pending.iter().any(|naming| naming.at == at);
        self.nodes.iter().find_map(|(inode, node)| match node {
            Node::Dir(dir) if *inode != not && has(dir) => Some(*inode),
            _ => None,
        })
    }

    /// Bytes in files that have a name or are open.
    pub fn used(&self) -> u64 {
        let named: BTreeSet<Inode> =
            self.dirs().flat_map(|dir| dir.entries.values().copied()).collect();
        let counts = |inode: &Inode, file: &Stored| {
            named.contains(inode) || Rc::strong_count(&file.open) > 1
        };
        self.files().filter(|(inode, file)| counts(inode, file)).map(|(_, file)| file.len()).sum()
    }

    /// Bytes that are free.
    pub fn free(&self) -> u64 {
        match self.capacity {
            u64::MAX => u64::MAX,
            capacity => capacity.saturating_sub(self.used()),
        }
    }

    fn dirs(&self) -> impl Iterator<Item = &Directory> {
        self.nodes.values().filter_map(|node| match node {
            Node::Dir(dir) => Some(dir),
            Node::File(_) => None,
        })
    }

    fn files(&self) -> impl Iterator<Item = (&Inode, &Stored)> {
        self.nodes.iter().filter_map(|(inode, node)| match node {
            Node::File(file) => Some((inode, file)),
            Node::Dir(_) => None,
        })
    }

    /// Writes those sectors of `bytes` whose index `takes` allows.
    pub fn write(
        &mut self,
        inode: Inode,
        offset: u64,
        bytes: &[u8],
        durable: bool,
        mut takes: impl FnMut(usize) -> bool,
    ) {
        let at = self.change();
        let file = self.file_mut(inode);
        for (index, sector) in bytes.chunks(SECTOR_LEN).enumerate() {
            if takes(index) {
                file.write(at, offset / SECTOR_LEN as u64 + index as u64, sector, durable);
            }
        }
    }

    /// See [`crate::env::File::truncate`].
    pub fn truncate(&mut self, inode: Inode, len: u64) {
        let at = self.change();
        self.file_mut(inode).shrink(at, len);
    }

    /// The power fails. See the module's header.
    pub fn power_cut(&mut self, rng: &mut Rng) -> PowerCut {
        let mut report = PowerCut::default();
        self.cut_names(rng, &mut report);
        for node in self.nodes.values_mut() {
            match node {
                Node::File(file) => {
                    file.open = Rc::default();
                    file.cut(rng, &mut report);
                }
                Node::Dir(dir) => dir.entries = dir.durable.clone(),
            }
        }
        self.sweep();
        report
    }

    fn cut_names(&mut self, rng: &mut Rng, report: &mut PowerCut) {
        let mut cuts = BTreeMap::new();
        for (inode, node) in &self.nodes {
            if let Node::Dir(dir) = node {
                cuts.insert(*inode, rng.index(dir.pending.len() + 1));
            }
        }
        while let Some((inode, cut)) = self.lost_by_rename(&cuts) {
            cuts.insert(inode, cut);
        }
        for (inode, cut) in cuts {
            let dir = self.dir_mut(inode).expect("only directories have cuts");
            report.names_kept += cut as u64;
            report.names_lost += (dir.pending.len() - cut) as u64;
            for naming in std::mem::take(&mut dir.pending).iter().take(cut) {
                naming.apply(&mut dir.durable);
            }
        }
    }

    /// A cut that keeps the removal of an old name although the new name, in another directory, is
    /// lost; and where it must be instead. Half a rename in one directory is found here too.
    fn lost_by_rename(&self, cuts: &BTreeMap<Inode, usize>) -> Option<(Inode, usize)> {
        let dirs = || {
            self.nodes.iter().filter_map(|(inode, node)| match node {
                Node::Dir(dir) => Some((*inode, dir, cuts[inode])),
                Node::File(_) => None,
            })
        };
        let lost: BTreeSet<Change> = dirs()
            .flat_map(|(_, dir, cut)| &dir.pending[cut..])
            .filter(|naming| naming.node.is_some())
            .map(|naming| naming.at)
            .collect();
        dirs().find_map(|(inode, dir, cut)| {
            let kept = &dir.pending[..cut];
            let split = kept.last().zip(dir.pending.get(cut)).is_some_and(|(a, b)| a.at == b.at);
            let bad =
                kept.iter().position(|naming| naming.node.is_none() && lost.contains(&naming.at));
            bad.map(|bad| (inode, bad)).or(split.then(|| (inode, cut - 1)))
        })
    }

    /// Forgets what no name, pending name or handle leads to.
    fn sweep(&mut self) {
        let mut seen = BTreeSet::new();
        let mut todo = vec![ROOT];
        while let Some(inode) = todo.pop() {
            if seen.insert(inode)
                && let Some(Node::Dir(dir)) = self.nodes.get(&inode)
            {
                let pending = dir.pending.iter().filter_map(|naming| naming.node);
                todo.extend(dir.entries.values().chain(dir.durable.values()).copied());
                todo.extend(pending);
            }
        }
        self.nodes.retain(|inode, node| {
            let open = matches!(node, Node::File(file) if Rc::strong_count(&file.open) > 1);
            open || seen.contains(inode)
        });
    }

    /// Makes the names that lead to `path` durable, whole.
    pub fn sync_parents(&mut self, path: &Path) {
        let upto = self.changed();
        for dir in path.ancestors().skip(1) {
            self.sync_dir(dir, upto).expect("they are directories");
        }
    }

    /// The process ended: all its handles are closed.
    pub fn close_all(&mut self) {
        for node in self.nodes.values_mut() {
            if let Node::File(file) = node {
                file.open = Rc::default();
            }
        }
        self.sweep();
    }

    /// The file at `path`, whole directories apart.
    pub fn find(&self, path: &Path) -> Option<Inode> {
        let inode = self.look_up(path).ok()?;
        matches!(self.nodes[&inode], Node::File(_)).then_some(inode)
    }
}

/// The parts of a path, from the root; `.` counts for nothing and `..` is not for a store.
fn names(path: &Path) -> Vec<String> {
    path.components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
            Component::ParentDir | Component::Prefix(_) => {
                panic!("not simulated: {} goes up", path.display())
            }
            Component::RootDir | Component::CurDir => None,
        })
        .collect()
}
