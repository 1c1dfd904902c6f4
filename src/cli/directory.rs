//! The data directory: who owns it, and whose it is.
//!
//! ```text
//! DIR/LOCK            flock'ed for as long as a server runs; holds its pid
//! DIR/identity.toml   written once, at birth
//! DIR/begun           empty; there since all shards have logs
//! ```
//! A directory that has begun and lacks a shard's log has lost data, and is not served: a lone node
//! would show nothing, one of a cluster would have forgotten what it acknowledged.
//!
//! `identity.toml`, format 3: a comment, then one `key = value` per line, then the checksum:
//! ```toml
//! # Stave's data directory. Written once, at its birth; not to be edited.
//! format = 3
//! cluster-id = "9f86d081884c7d659a2feaa0c55ad015"
//! node-id = 1
//! cores = 2
//! partitions = 32
//! nodes = 3
//! incarnation = 3735928559
//! checksum = "92409d48bcbaf7c0"
//! ```
//! `nodes` says of how many nodes the cluster was founded, 1: of this one alone. `incarnation` is a
//! random number by which the others tell this directory from a new one of the same node. Formats
//! before lack it, format 1 (of a lone node) lacks `nodes` too. The checksum is the xxh3 (64 bits,
//! hexadecimal) of all bytes before its line.
//!
//! Why a lock that the kernel holds and not a pid file: it can not outlive its process, so a crash
//! leaves nothing to clean up. The file itself stays: removing it would let two processes lock two
//! files of the same name.
//!
//! Why the shape is fixed at birth: a shard's log holds the entries of its partitions, so another
//! number of cores needs them moved.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use xxhash_rust::xxh3::xxh3_64;

use crate::id::{NodeId, ShardId};
use crate::server::{IDENTITY, log_dir};
use crate::wal::segment_seq;

/// The format this program writes, and the newest it reads.
const FORMAT: u32 = 3;
const LOCK: &str = "LOCK";
const IDENTITY_TMP: &str = "identity.toml.tmp";
/// Says that all shards have logs.
pub(super) const BEGUN: &str = "begun";

/// What a data directory is, from its birth to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The same on all nodes of a cluster; random.
    pub cluster_id: u128,
    /// This node.
    pub node_id: NodeId,
    /// Shards, one per core.
    pub cores: u16,
    /// Partitions of all shards together.
    pub partitions: u32,
    /// Nodes that the cluster was founded of; 1: this one alone.
    pub nodes: u16,
    /// Of this directory alone, random; 0: it is from before there was one.
    pub incarnation: u32,
}

/// As what a directory is made that is to be a node of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Birth {
    /// The cluster.
    pub cluster_id: u128,
    /// Which of its nodes.
    pub node_id: NodeId,
    /// How many there are.
    pub nodes: u16,
}

/// What a new directory is cut into. A directory that was born otherwise is taken as it is, but
/// for what the operator asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Shards, one per core.
    pub cores: u16,
    /// Partitions of each.
    pub partitions_per_core: u16,
    /// What is not to be taken otherwise.
    pub asked: Asked,
}

/// What of a shape the operator asked for; the rest are defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// That number of cores.
    pub cores: bool,
    /// That number of partitions.
    pub partitions: bool,
}

impl Birth {
    /// That of a directory that was born.
    pub fn of(identity: Identity) -> Self {
        let Identity { cluster_id, node_id, nodes, .. } = identity;
        Self { cluster_id, node_id, nodes }
    }
}

impl Identity {
    /// The number that the directory's logs carry, so that a log of another is told apart.
    pub fn log_id(&self) -> u128 {
        self.cluster_id ^ u128::from(self.node_id.0)
    }

    /// Partitions of each core.
    pub fn partitions_per_core(&self) -> u16 {
        (self.partitions / u32::from(self.cores)) as u16
    }

    /// What the data directory at `path` is; none if it is none. Changes nothing.
    ///
    /// # Errors
    /// It is damaged, of a newer format, or can not be read.
    pub fn read(path: &Path) -> Result<Option<Self>, Error> {
        read_identity(path)
    }
}

/// Keeps servers from a data directory that is looked at, until dropped. Changes nothing.
#[derive(Debug)]
pub struct Visit {
    /// Closing it releases the lock.
    _lock: Option<File>,
}

impl Visit {
    /// Shuts servers out of the data directory at `path`. Without a `LOCK` none was ever there.
    ///
    /// # Errors
    /// [`Error::Locked`] if one is there.
    pub fn begin(path: &Path) -> Result<Self, Error> {
        let lock = path.join(LOCK);
        let mut file = match File::open(&lock) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self { _lock: None });
            }
            Err(error) => return Err(io_error("open", &lock)(error)),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(Self { _lock: Some(file) }),
            Err(TryLockError::WouldBlock) => Err(locked(path, &mut file)),
            Err(TryLockError::Error(error)) => Err(io_error("lock", &lock)(error)),
        }
    }
}

/// An open data directory, locked until dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    identity: Identity,
    /// True if this call created it.
    born: bool,
    /// Closing it releases the lock.
    _lock: File,
}

impl DataDir {
    /// Opens `path` for this process alone, creating it of that `shape` if it is new: as the node
    /// of a cluster, if there is a `birth`.
    ///
    /// # Errors
    /// See [`Error`]; nothing was changed then, but `LOCK` may have been created.
    pub fn open(path: &Path, shape: Shape, birth: Option<Birth>) -> Result<Self, Error> {
        create(path)?;
        let lock = lock(path)?;
        if let Some(identity) = read_identity(path)? {
            check_shape(path, &identity, shape)?;
            check_birth(path, &identity, birth)?;
            check_logs(path, identity.cores)?;
            return Ok(Self { path: path.to_owned(), identity, born: false, _lock: lock });
        }
        refuse_foreign(path)?;
        let alone =
            || random_id().map(|cluster_id| Birth { cluster_id, node_id: NodeId(1), nodes: 1 });
        let Birth { cluster_id, node_id, nodes } = birth.map_or_else(alone, Ok)?;
        let Shape { cores, partitions_per_core, .. } = shape;
        let partitions = u32::from(cores) * u32::from(partitions_per_core);
        let incarnation = random_id()? as u32 | 1;
        let identity = Identity { cluster_id, node_id, cores, partitions, nodes, incarnation };
        write_identity(path, &identity)?;
        Ok(Self { path: path.to_owned(), identity, born: true, _lock: lock })
    }

    /// Notes that all shards have logs, which never are without a file from now on.
    ///
    /// # Errors
    /// The disk's.
    pub fn note_begun(&self) -> Result<(), Error> {
        let path = self.path.join(BEGUN);
        if path.exists() {
            return Ok(());
        }
        let made = File::create(&path).and_then(|file| file.sync_all());
        made.and_then(|()| sync_dir_of(&self.path)).map_err(io_error("create", &path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it is.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Whether it is new.
    pub fn is_born(&self) -> bool {
        self.born
    }
}

/// Why a data directory is not opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("{op} {}: {source}", path.display())]
    Io {
        /// What was tried.
        op: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },

    /// Another process has it.
    #[error("data directory {} is in use by process {pid}", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
        /// A number, or "unknown".
        pid: String,
    },

    /// It is full of something else.
    #[error(
        "{} holds {found} but no {IDENTITY}: not a data directory of Stave's; \
         give an empty or a new one", path.display()
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// One of the names in it.
        found: String,
    },

    /// Written by a newer program.
    #[error(
        "{} is of format {found}, this program reads up to {FORMAT}: use a newer one",
        path.display()
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },

    /// Edited or damaged.
    #[error(
        "{} is damaged ({what}): restore it from a copy; it was never to be edited",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },

    /// A part of it is gone.
    #[error(
        "{} holds no log, though it did: the data directory has lost data; restore it from a \
         backup, or, of a node of a cluster, remove the node (stave cluster remove) and let it \
         join anew with an empty directory", path.display()
    )]
    Lost {
        /// Where the log was.
        path: PathBuf,
    },

    /// Another node than at its birth.
    #[error(
        "data directory {} was born as node {} of {} and can not be served as node {} of {}: give \
         the initial-cluster and node-id that it was born with, or the join or peer-port of a node \
         that joined, or an empty directory",
        path.display(), born.0, born.1, asked.0, asked.1
    )]
    Node {
        /// The directory.
        path: PathBuf,
        /// What the operator asked for.
        asked: (NodeId, u16),
        /// What it is.
        born: (NodeId, u16),
    },

    /// Another number of cores than at its birth.
    #[error(
        "data directory {} was born with {born} core(s) and can not be served with {asked}: \
         start with --cores {born}", path.display()
    )]
    Cores {
        /// The directory.
        path: PathBuf,
        /// What the operator asked for.
        asked: u16,
        /// What it has.
        born: u16,
    },

    /// Another number of partitions than at its birth.
    #[error(
        "data directory {} was born with {born} partitions per core and can not be served with \
         {asked}: leave --partitions-per-core out", path.display()
    )]
    Partitions {
        /// The directory.
        path: PathBuf,
        /// What the operator asked for.
        asked: u16,
        /// What it has.
        born: u16,
    },
}

fn io_error(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { op, path, source }
}

/// For its owner alone: it holds everyone's values.
fn create(path: &Path) -> Result<(), Error> {
    if path.is_dir() {
        return Ok(());
    }
    let created = DirBuilder::new().recursive(true).mode(0o700).create(path);
    created.map_err(io_error("create", path))?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    sync_dir(parent.unwrap_or(Path::new(".")))
}

fn sync_dir(path: &Path) -> Result<(), Error> {
    sync_dir_of(path).map_err(io_error("sync", path))
}

fn sync_dir_of(path: &Path) -> io::Result<()> {
    File::open(path).and_then(|dir| dir.sync_all())
}

fn lock(dir: &Path) -> Result<File, Error> {
    let path = dir.join(LOCK);
    let mut options = OpenOptions::new();
    let opened = options.read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = opened.map_err(io_error("open", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(locked(dir, &mut file)),
        Err(TryLockError::Error(error)) => return Err(io_error("lock", &path)(error)),
    }
    // Over what is there, and cut only then: a full disk has no room for a new block.
    let line = format!("{}\n", std::process::id());
    file.write_all(line.as_bytes())
        .and_then(|()| file.set_len(line.len() as u64))
        .map_err(io_error("write", &path))?;
    Ok(file)
}

/// Another has `lock`.
fn locked(dir: &Path, lock: &mut File) -> Error {
    let mut pid = String::new();
    let known = lock.read_to_string(&mut pid).is_ok() && !pid.trim().is_empty();
    let pid = if known { pid.trim().to_owned() } else { "unknown".to_owned() };
    Error::Locked { path: dir.to_owned(), pid }
}

/// A directory without an identity must be empty but for what an interrupted birth leaves behind,
/// and `lost+found`: it may be the root of a file system.
fn refuse_foreign(dir: &Path) -> Result<(), Error> {
    let ours = [LOCK, IDENTITY_TMP, "lost+found"];
    for entry in fs::read_dir(dir).map_err(io_error("list", dir))? {
        let name = entry.map_err(io_error("list", dir))?.file_name();
        let name = name.to_string_lossy();
        if !ours.contains(&&*name) {
            return Err(Error::Foreign { path: dir.to_owned(), found: name.into_owned() });
        }
    }
    Ok(())
}

/// Nothing is taken otherwise than the operator asked for.
fn check_shape(path: &Path, identity: &Identity, shape: Shape) -> Result<(), Error> {
    let (path, born) = (path.to_owned(), identity.cores);
    if shape.asked.cores && born != shape.cores {
        return Err(Error::Cores { path, asked: shape.cores, born });
    }
    let (asked, born) = (shape.partitions_per_core, identity.partitions_per_core());
    if shape.asked.partitions && born != asked {
        return Err(Error::Partitions { path, asked, born });
    }
    Ok(())
}

/// A directory stays the node that it was made as.
fn check_birth(path: &Path, identity: &Identity, asked: Option<Birth>) -> Result<(), Error> {
    let (id, nodes) = asked.map_or((NodeId(1), 1), |birth| (birth.node_id, birth.nodes));
    if (identity.nodes, identity.node_id) == (nodes, id) {
        return Ok(());
    }
    let (path, born) = (path.to_owned(), (identity.node_id, identity.nodes));
    Err(Error::Node { path, asked: (id, nodes), born })
}

/// Each shard that has begun has a file of its log.
fn check_logs(path: &Path, cores: u16) -> Result<(), Error> {
    if !path.join(BEGUN).exists() {
        return Ok(());
    }
    let is_segment = |entry: io::Result<fs::DirEntry>| {
        entry.is_ok_and(|entry| entry.file_name().to_str().and_then(segment_seq).is_some())
    };
    let has_log = |dir: &PathBuf| fs::read_dir(dir).is_ok_and(|mut names| names.any(is_segment));
    let mut dirs = (0..cores).map(|shard| log_dir(path, ShardId(shard)));
    match dirs.find(|dir| !has_log(dir)) {
        Some(path) => Err(Error::Lost { path }),
        None => Ok(()),
    }
}

fn random_id() -> Result<u128, Error> {
    let path = Path::new("/dev/urandom");
    let mut bytes = [0; 16];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(io_error("read", path))?;
    Ok(u128::from_le_bytes(bytes))
}

fn encode(identity: &Identity) -> String {
    let Identity { cluster_id, node_id, cores, partitions, nodes, incarnation } = identity;
    let body = format!(
        "# Stave's data directory. Written once, at its birth; not to be edited.\n\
         format = {FORMAT}\ncluster-id = \"{cluster_id:032x}\"\nnode-id = {node_id}\n\
         cores = {cores}\npartitions = {partitions}\nnodes = {nodes}\n\
         incarnation = {incarnation}\n"
    );
    let checksum = xxh3_64(body.as_bytes());
    format!("{body}checksum = \"{checksum:016x}\"\n")
}

fn write_identity(dir: &Path, identity: &Identity) -> Result<(), Error> {
    let (tmp, path) = (dir.join(IDENTITY_TMP), dir.join(IDENTITY));
    let write = || {
        let mut file = File::create(&tmp)?;
        file.write_all(encode(identity).as_bytes())?;
        file.sync_all()
    };
    write().map_err(io_error("write", &tmp))?;
    fs::rename(&tmp, &path).map_err(io_error("rename", &tmp))?;
    sync_dir(dir)
}

/// All that every format has.
#[derive(Deserialize)]
struct Versioned {
    format: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Fields {
    #[serde(rename = "format")]
    _format: u32,
    cluster_id: String,
    node_id: u64,
    cores: u16,
    partitions: u32,
    nodes: Option<u16>,
    incarnation: Option<u32>,
    checksum: String,
}

fn read_identity(dir: &Path) -> Result<Option<Identity>, Error> {
    let path = dir.join(IDENTITY);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("read", &path)(error)),
    };
    decode(&path, &bytes).map(Some)
}

fn decode(path: &Path, bytes: &[u8]) -> Result<Identity, Error> {
    let damaged = |what| Error::Damaged { path: path.to_owned(), what };
    let text = str::from_utf8(bytes).map_err(|_| damaged("not text"))?;
    let versioned: Versioned = toml::from_str(text).map_err(|_| damaged("no format"))?;
    if !(1..=FORMAT).contains(&versioned.format) {
        return Err(Error::Format { path: path.to_owned(), found: versioned.format });
    }
    let fields: Fields = toml::from_str(text).map_err(|_| damaged("unknown or missing fields"))?;
    let body = text.find("checksum =").map_or(text, |at| &text[..at]);
    if fields.checksum != format!("{:016x}", xxh3_64(body.as_bytes())) {
        return Err(damaged("wrong checksum"));
    }
    let cluster_id = u128::from_str_radix(&fields.cluster_id, 16);
    let identity = Identity {
        cluster_id: cluster_id.map_err(|_| damaged("cluster-id"))?,
        node_id: NodeId(fields.node_id),
        cores: fields.cores,
        partitions: fields.partitions,
        nodes: fields.nodes.unwrap_or(1),
        incarnation: fields.incarnation.unwrap_or(0),
    };
    let has = (fields.nodes.is_some(), fields.incarnation.is_some());
    if identity.nodes == 0 || has != (versioned.format > 1, versioned.format > 2) {
        return Err(damaged("nodes or incarnation"));
    }
    if identity.cores == 0 || identity.partitions == 0 || fields.node_id == 0 {
        return Err(damaged("a zero"));
    }
    Ok(identity)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A directory that is gone when its test is.
    pub(in crate::cli) struct TempDir(PathBuf);

    impl TempDir {
        pub(in crate::cli) fn new(name: &str) -> Self {
            let name = format!("stave-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir_all(&path).expect("the temporary directory takes files");
            Self(path)
        }

        pub(in crate::cli) fn path(&self) -> &Path {
            &self.0
        }
    }

    impl Drop for TempDir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    pub(in crate::cli) const SHAPE: Shape = Shape {
        cores: 2,
        partitions_per_core: 4,
        asked: Asked { cores: false, partitions: false },
    };

    #[test]
    fn a_second_process_is_refused_by_name() {
        let temp = TempDir::new("lock");
        let dir = temp.path().join("new/nested");
        let first = DataDir::open(&dir, SHAPE, None).expect("it is new");

        let error = DataDir::open(&dir, SHAPE, None).expect_err("it is locked");

        let pid = std::process::id();
        let expected = format!("data directory {} is in use by process {pid}", dir.display());
        assert_eq!(error.to_string(), expected);
        drop(first);
        DataDir::open(&dir, SHAPE, None).expect("the lock goes with its owner");
    }

    #[test]
    fn identity_outlives_its_process() {
        let temp = TempDir::new("identity");
        let first = DataDir::open(temp.path(), SHAPE, None).expect("it is new");
        let (identity, born) = (first.identity(), first.is_born());
        drop(first);

        let second =
            DataDir::open(temp.path(), Shape { cores: 8, ..SHAPE }, None).expect("it is its own");

        assert!(born && !second.is_born());
        assert_eq!(second.identity(), identity);
        assert_eq!((identity.cores, identity.partitions), (2, 8));
        assert_ne!(identity.cluster_id, 0);
    }

    #[test]
    fn another_shape_is_refused_with_the_cure() {
        let temp = TempDir::new("shape");
        drop(DataDir::open(temp.path(), SHAPE, None).expect("it is new"));
        let asked = Asked { cores: true, partitions: true };
        let cores = Shape { cores: 4, asked, ..SHAPE };
        let partitions = Shape { partitions_per_core: 7, asked, ..SHAPE };

        for (shape, expected, cure) in [
            (cores, "2 core(s) and can not be served with 4", "start with --cores 2"),
            (partitions, "4 partitions per core", "leave --partitions-per-core out"),
        ] {
            let shown = DataDir::open(temp.path(), shape, None).expect_err("other").to_string();
            assert!(shown.contains(expected) && shown.ends_with(cure), "{shown}");
        }
        let same = Shape { asked, ..SHAPE };
        DataDir::open(temp.path(), same, None).expect("it is as it was born");
    }

    #[test]
    fn a_directory_stays_the_node_that_it_was_made_as() {
        let temp = TempDir::new("node");
        let birth = Birth { cluster_id: 7, node_id: NodeId(2), nodes: 3 };
        let open = |birth| DataDir::open(temp.path(), SHAPE, birth);
        assert_eq!(open(Some(birth)).expect("it is new").identity().nodes, 3);

        for other in
            [None, Some(Birth { node_id: NodeId(1), ..birth }), Some(Birth { nodes: 5, ..birth })]
        {
            let shown = open(other).expect_err("it is node 2 of 3").to_string();
            assert!(shown.contains("born as node 2 of 3"), "{shown}");
        }
        open(Some(birth)).expect("it is");
    }

    #[test]
    fn an_edited_identity_is_refused() {
        let temp = TempDir::new("edited");
        drop(DataDir::open(temp.path(), SHAPE, None).expect("it is new"));
        let path = temp.path().join(IDENTITY);
        let text = fs::read_to_string(&path).expect("it was written");

        let outcomes = [
            text.replace("cores = 2", "cores = 3"),
            text.replace("cores = 2\n", ""),
            text.replace("format = 3", "format = 9"),
            String::new(),
        ]
        .map(|text| {
            fs::write(&path, text).expect("it is ours");
            DataDir::open(temp.path(), SHAPE, None).expect_err("edited").to_string()
        });

        for (shown, expected) in outcomes.iter().zip([
            "damaged (wrong checksum)",
            "damaged (unknown or missing fields)",
            "is of format 9, this program reads up to 3",
            "damaged (no format)",
        ]) {
            assert!(shown.contains(expected), "{shown}");
        }
    }

    #[test]
    fn no_flipped_bit_makes_another_identity() {
        for nodes in [1, 3] {
            let (cluster_id, node_id, cores, partitions) = (7, NodeId(1), 2, 32);
            let incarnation = 12_345;
            let identity = Identity { cluster_id, node_id, cores, partitions, nodes, incarnation };
            let text = encode(&identity);
            assert_eq!(decode(Path::new(IDENTITY), text.as_bytes()).ok(), Some(identity));

            for bit in 0..8 * text.len() {
                let mut bytes = text.clone().into_bytes();
                bytes[bit / 8] ^= 1 << (bit % 8);
                let found = decode(Path::new(IDENTITY), &bytes);
                assert!(found.is_err_and(|error| !error.to_string().is_empty()), "bit {bit}");
            }
        }
    }

    #[test]
    fn a_directory_of_something_else_is_refused() {
        let temp = TempDir::new("foreign");
        fs::write(temp.path().join("thesis.txt"), "x").expect("it is ours");

        let error = DataDir::open(temp.path(), SHAPE, None).expect_err("not empty");

        assert!(error.to_string().contains("holds thesis.txt but no identity.toml"), "{error}");
    }

    #[test]
    fn an_interrupted_birth_is_finished() {
        let temp = TempDir::new("birth");
        fs::write(temp.path().join(IDENTITY_TMP), "format = ").expect("it is ours");
        fs::write(temp.path().join(LOCK), "12\n").expect("it is ours");

        let dir = DataDir::open(temp.path(), SHAPE, None).expect("nothing of value is there");

        assert!(dir.is_born());
    }

    #[test]
    fn a_directory_that_lacks_a_log_which_it_had_is_refused_with_the_cure() {
        let temp = TempDir::new("lost");
        let dir = DataDir::open(temp.path(), SHAPE, None).expect("it is new");
        drop(dir);
        drop(DataDir::open(temp.path(), SHAPE, None).expect("a crash may have come first"));
        for shard in [0, 1] {
            let log = log_dir(temp.path(), ShardId(shard));
            fs::create_dir_all(&log).expect("it is ours");
            fs::write(crate::wal::segment_path(&log, 1), "x").expect("it is ours");
        }
        let dir = DataDir::open(temp.path(), SHAPE, None).expect("it is its own");
        dir.note_begun().expect("it is ours");
        dir.note_begun().expect("it may have begun before");
        drop(dir);
        drop(DataDir::open(temp.path(), SHAPE, None).expect("nothing is missing"));

        fs::remove_dir_all(temp.path().join("shard-01")).expect("it is ours");
        let error = DataDir::open(temp.path(), SHAPE, None).expect_err("half of it is gone");

        let text = error.to_string();
        assert!(text.contains("shard-01/wal holds no log, though it did"), "{text}");
    }

    #[test]
    fn formats_are_read_for_ever() {
        let decoded = |golden: &[u8]| decode(Path::new(IDENTITY), golden).expect("it was written");

        let expected = Identity {
            cluster_id: 0x9f86_d081_884c_7d65_9a2f_eaa0_c55a_d015,
            node_id: NodeId(1),
            cores: 2,
            partitions: 32,
            nodes: 1,
            incarnation: 0,
        };
        assert_eq!(decoded(include_bytes!("testdata/identity-1.toml")), expected);
        let second = Identity {
            cluster_id: 0xff50_3ca0_66c2_a582_46b3_cac2_f7bf_59c0,
            node_id: NodeId(2),
            nodes: 3,
            ..expected
        };
        assert_eq!(decoded(include_bytes!("testdata/identity-2.toml")), second);
        let expected = Identity { nodes: 3, incarnation: 0xdead_beef, ..expected };
        let newest = include_bytes!("testdata/identity-3.toml");
        assert_eq!(String::from_utf8_lossy(newest), encode(&expected));
        assert_eq!(decoded(newest), expected);
    }
}
