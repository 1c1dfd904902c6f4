//! `stave info`: the figures of a node.

use std::collections::BTreeMap;

use super::EXIT_OK;
use super::ask::{Ask, Session};
use super::failure::Failure;

const EXAMPLES: &str = "\
Examples:
  stave info                                     the usual sections
  stave info memory                              one: server, clients, memory, persistence, stats...
  stave info everything --json | jq .Memory.used_memory";

/// Print the figures of a node
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Info {
    /// Which; the usual ones unless said
    #[arg(default_value = "", hide_default_value = true)]
    section: String,
}

/// The sections of `text` and their figures, as they are written.
fn sections(text: &str) -> BTreeMap<&str, BTreeMap<&str, &str>> {
    let mut sections = BTreeMap::new();
    let mut section = "";
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("# ") {
            section = name;
        } else if let Some((name, figure)) = line.split_once(':') {
            sections.entry(section).or_insert_with(BTreeMap::new).insert(name, figure);
        }
    }
    sections
}

impl Ask for Info {
    fn ask(&self, session: &mut Session<'_>) -> Result<u8, Failure> {
        let text = session.client.info(&self.section)?;
        if text.trim().is_empty() {
            let text = format!("the server has no section \"{}\"", self.section);
            return Err(Failure::Usage(text));
        }
        session.print(&sections(&text), text.replace('\r', "").trim_end())?;
        Ok(EXIT_OK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_have_their_figures() {
        let text = "# Server\r\nversion:7\r\nos:Linux: 6\r\n\r\n# Keyspace\r\ndb0:keys=1\r\n";

        let json = serde_json::to_string(&sections(text)).expect("maps of strings");

        let expected = r#"{"Keyspace":{"db0":"keys=1"},"Server":{"os":"Linux: 6","version":"7"}}"#;
        assert_eq!(json, expected);
    }
}
