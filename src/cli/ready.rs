//! The ready file: says that the server serves, and where.
//!
//! ```text
//! {"pid":4242,"node_id":1,"resp_port":6379,"binary_port":null,"http_port":null,"peer_port":null,
//!  "shard_ports":[7500,7501]}
//! ```
//! One line. It appears whole, by a rename, and is gone when the server is. Fields are never
//! removed; a port that is not served is null.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The file's one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ready {
    pub(super) pid: u32,
    pub(super) node_id: u64,
    pub(super) resp_port: u16,
    pub(super) binary_port: Option<u16>,
    pub(super) http_port: Option<u16>,
    pub(super) peer_port: Option<u16>,
    pub(super) shard_ports: Vec<u16>,
}

/// The file; removed when dropped.
#[derive(Debug)]
pub(super) struct ReadyFile {
    path: PathBuf,
}

impl ReadyFile {
    /// Removes what an earlier run may have left, so that nobody takes it for this one's.
    ///
    /// # Errors
    /// It is there and can not be removed.
    pub(super) fn clear(path: &Path) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Writes the file.
    ///
    /// # Errors
    /// As writing and renaming.
    pub(super) fn write(path: &Path, ready: &Ready) -> io::Result<Self> {
        let mut name = path.to_owned().into_os_string();
        name.push(".tmp");
        fs::write(&name, ready.line())?;
        fs::rename(&name, path)?;
        Ok(Self { path: path.to_owned() })
    }
}

impl Drop for ReadyFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "ready file not removed");
        }
    }
}

impl Ready {
    fn line(&self) -> String {
        let port = |port: Option<u16>| port.map_or("null".to_owned(), |port| port.to_string());
        let shard_ports: Vec<_> = self.shard_ports.iter().map(u16::to_string).collect();
        format!(
            "{{\"pid\":{},\"node_id\":{},\"resp_port\":{},\"binary_port\":{},\"http_port\":{},\
             \"peer_port\":{},\"shard_ports\":[{}]}}\n",
            self.pid,
            self.node_id,
            self.resp_port,
            port(self.binary_port),
            port(self.http_port),
            port(self.peer_port),
            shard_ports.join(",")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_one_line_of_json_and_goes_with_its_owner() {
        let dir = super::super::directory::tests::TempDir::new("ready");
        let path = dir.path().join("ready.json");
        let ready = Ready {
            pid: 7,
            node_id: 1,
            resp_port: 6379,
            binary_port: None,
            http_port: None,
            peer_port: None,
            shard_ports: vec![7500, 7501],
        };

        let file = ReadyFile::write(&path, &ready).expect("the directory is there");
        let text = fs::read_to_string(&path).expect("it was written");
        drop(file);

        assert_eq!(
            text,
            "{\"pid\":7,\"node_id\":1,\"resp_port\":6379,\"binary_port\":null,\
             \"http_port\":null,\"peer_port\":null,\"shard_ports\":[7500,7501]}\n"
        );
        assert!(!path.exists());
        ReadyFile::clear(&path).expect("nothing to clear is fine");
    }
}
