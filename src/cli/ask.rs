//! Commands that ask a server: where it is, how they are run, and what becomes of the result.
//!
//! They go over the binary protocol with the client library, `clients/rust`, so that the program
//! and other people's programs take one road. Each command is a type that clap fills from a command
//! line, or from a line of the repl, and that runs in a [`Session`].

use std::io::{self, BufWriter, IsTerminal as _, Read as _, Write};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde::Serialize;
use stavekv_client::Options;
use stavekv_client::blocking::Client;

use super::duration;
use super::failure::Failure;

/// Where the server is and how to talk to it.
#[derive(clap::Args)]
pub(super) struct Connection {
    /// Binary port of the server
    #[arg(
        long,
        value_name = "HOST:PORT",
        env = "STAVE_SERVER",
        default_value = "127.0.0.1:7400",
        help_heading = "Server"
    )]
    server: String,

    /// Its password; better in the variable: a flag shows in the process list
    #[arg(
        long,
        value_name = "TEXT",
        env = "STAVE_PASSWORD",
        hide_env_values = true,
        help_heading = "Server"
    )]
    password: Option<String>,

    /// Which database
    #[arg(long, value_name = "NUMBER", default_value_t = 0, help_heading = "Server")]
    db: u8,

    /// How long to wait for the answer, connecting and retries included
    #[arg(
        long,
        value_name = "TIME",
        default_value = "5s",
        value_parser = duration::parse,
        help_heading = "Server"
    )]
    deadline: Duration,

    /// Print JSON, one line for each answer; errors too, on standard error
    #[arg(long)]
    pub(super) json: bool,
}

impl Connection {
    /// How a server is reached that is somewhere else.
    fn options(&self, server: &str) -> Options {
        let options = Options::new(server).name("stave-cli").db(self.db);
        let options = options.deadline(self.deadline).connections_max(1);
        match &self.password {
            Some(password) => options.password(password.as_str()),
            None => options,
        }
    }

    fn client(&self, interrupted: Option<&'static AtomicBool>) -> Client {
        let options = self.options(&self.server);
        let options = match interrupted {
            Some(flag) => options.interrupted_by(flag),
            None => options,
        };
        options.connect_blocking_lazily()
    }

    /// As the repl shows it.
    pub(super) fn prompt(&self) -> String {
        match self.db {
            0 => format!("{}> ", self.server),
            db => format!("{}[{db}]> ", self.server),
        }
    }
}

/// What a command runs in.
pub(super) struct Session<'a> {
    /// Connects when first used.
    pub client: Client,
    /// Where it connects to.
    pub address: &'a str,
    connection: &'a Connection,
    out: BufWriter<&'a mut dyn Write>,
    json: bool,
    /// Somebody looks at what is printed.
    seen: bool,
    /// A value of `-` is standard input. Not in the repl, which reads its lines there.
    reads_input: bool,
}

impl<'a> Session<'a> {
    /// A session that prints to `out`.
    pub fn new(connection: &'a Connection, out: &'a mut dyn Write, reads_input: bool) -> Self {
        Self {
            client: connection.client(None),
            address: &connection.server,
            connection,
            out: BufWriter::new(out),
            json: connection.json,
            seen: io::stdout().is_terminal(),
            reads_input,
        }
    }

    /// Ends requests while `flag` is true, and when it becomes true by a signal.
    pub fn end_requests_by(&mut self, connection: &Connection, flag: &'static AtomicBool) {
        self.client = connection.client(Some(flag));
    }

    /// How another server is reached, with the same password.
    pub fn options(&self, server: &str) -> Options {
        self.connection.options(server)
    }

    /// Runs a command to its end; returns the exit code.
    pub fn run(&mut self, ask: &dyn Ask) -> u8 {
        let result = ask.ask(self);
        // Also what came before a failure.
        let flushed = self.out.flush().map_err(Failure::Output);
        match result.and_then(|code| flushed.map(|()| code)) {
            Ok(code) => code,
            Err(failure) => failure.tell(self.json),
        }
    }

    /// Prints a line: `record` as JSON, or `text`.
    pub fn print(&mut self, record: &impl Serialize, text: &str) -> Result<(), Failure> {
        let line = match self.json {
            true => serde_json::to_string(record).expect("records have no odd keys"),
            false => text.to_owned(),
        };
        writeln!(self.out, "{line}").map_err(Failure::Output)
    }

    /// Prints a value to the byte; before a person's eyes it ends its line.
    pub fn print_value(&mut self, record: &impl Serialize, value: &[u8]) -> Result<(), Failure> {
        if self.json {
            return self.print(record, "");
        }
        let written = self.out.write_all(value);
        let end = if self.seen || !self.reads_input { "\n" } else { "" };
        written.and_then(|()| self.out.write_all(end.as_bytes())).map_err(Failure::Output)
    }

    /// Prints that there is nothing to print: to a person beside the output, which stays empty.
    pub fn print_absence(&mut self, record: &impl Serialize, text: &str) -> Result<(), Failure> {
        if self.json {
            return self.print(record, "");
        }
        eprintln!("stave: {text}");
        Ok(())
    }

    /// All of standard input, if the server would take it for a value.
    pub fn read_value(&self) -> Result<Vec<u8>, Failure> {
        if !self.reads_input {
            let text = "standard input is the repl's own: type the value, or use `stave set KEY -`";
            return Err(Failure::Usage(text.to_owned()));
        }
        let len_max = u64::from(self.client.server()?.value_len_max);
        let mut value = Vec::new();
        let read = io::stdin().lock().take(len_max + 1).read_to_end(&mut value);
        match read.map_err(Failure::Input)? as u64 {
            len if len > len_max => {
                let text = format!("standard input has more than the {len_max} bytes of a value");
                Err(Failure::Usage(text))
            }
            _ => Ok(value),
        }
    }
}

/// A command for a server.
pub(super) trait Ask {
    /// Asks and prints; returns the exit code.
    ///
    /// # Errors
    /// Nothing, or not all, was done; it is still to be told.
    fn ask(&self, session: &mut Session<'_>) -> Result<u8, Failure>;
}

// A command, and where its server is. What help says is the command's: clap takes it from the
// doc comment of whatever comes last, this one's own before all.
#[derive(clap::Args)]
pub(super) struct Remote<A: clap::Args> {
    #[command(flatten)]
    connection: Connection,

    #[command(flatten)]
    ask: A,
}

impl<A: clap::Args + Ask> Remote<A> {
    /// Runs it; returns the exit code.
    pub(super) fn run(&self, out: &mut impl Write) -> u8 {
        Session::new(&self.connection, out, true).run(&self.ask)
    }
}
