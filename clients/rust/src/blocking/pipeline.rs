//! Many requests on one connection, sent before the first is answered.

use std::time::Instant;

use super::Client;
use crate::answer::decode;
use crate::error::Result;
use crate::op::{Item, Op, Outcome};
use crate::wire::{self, Asked, Request};

/// Requests to be sent together; see [`Client::pipeline`].
///
/// They are sent in order over one connection, without waiting; of those that name the same key the
/// server keeps the order. They are not one transaction: each succeeds or fails by itself. None is
/// tried again, since that would change the order; only the connection is. So none needs to be done
/// exactly once.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/server.rs"));
/// # fn main() -> stavekv_client::Result<()> {
/// # let server = Server::start();
/// # let client = stavekv_client::blocking::Client::connect(server.address.as_str())?;
/// let mut pipeline = client.pipeline();
/// pipeline.set("a", "1").set("b", "2").get("a");
/// let answers = pipeline.run();
///
/// let item = answers[2].clone()?.into_item().expect("it was set before");
/// assert_eq!(item.value, b"1");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "nothing is sent before run()"]
pub struct Pipeline<'a> {
    client: Client,
    requests: Vec<Queued<'a>>,
}

#[derive(Debug)]
enum Queued<'a> {
    Get(&'a [u8]),
    Write(Op<'a>),
}

/// The answer to a request of a [`Pipeline`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To a get.
    Item(Option<Item>),
    /// To a write.
    Outcome(Outcome),
}

impl Answer {
    /// What the key holds; none: it is absent, or this is the answer to a write.
    pub fn into_item(self) -> Option<Item> {
        match self {
            Self::Item(item) => item,
            Self::Outcome(_) => None,
        }
    }
}

impl<'a> Pipeline<'a> {
    pub(super) fn new(client: Client) -> Self {
        Self { client, requests: Vec::new() }
    }

    /// Adds a get.
    pub fn get(&mut self, key: &'a (impl AsRef<[u8]> + ?Sized)) -> &mut Self {
        self.requests.push(Queued::Get(key.as_ref()));
        self
    }

    /// Adds a set, for good.
    pub fn set(
        &mut self,
        key: &'a (impl AsRef<[u8]> + ?Sized),
        value: &'a (impl AsRef<[u8]> + ?Sized),
    ) -> &mut Self {
        self.write(Op::set(key, value))
    }

    /// Adds a delete.
    pub fn delete(&mut self, key: &'a (impl AsRef<[u8]> + ?Sized)) -> &mut Self {
        self.write(Op::delete(key))
    }

    /// Adds any write.
    pub fn write(&mut self, op: Op<'a>) -> &mut Self {
        self.requests.push(Queued::Write(op));
        self
    }

    /// How many were added.
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Whether none was.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Sends them all; the answers, in their order. The deadline is that of all together.
    pub fn run(&self) -> Vec<Result<Answer>> {
        let deadline = Instant::now() + self.client.deadline;
        let db = self.client.db;
        let requests = self.requests.iter().map(|queued| match queued {
            Queued::Get(key) => Request::Get { db, key },
            Queued::Write(op) => Request::Write { db, op },
        });
        let wishes = self.client.wishes;
        let requests: Vec<_> =
            requests.map(|request| Asked { request, once: None, wishes }).collect();
        let mut attempts = self.client.attempts(true, None);
        let mut conn = loop {
            match self.client.pool.get(deadline) {
                Ok(conn) => break conn,
                Err(error) => {
                    if let Err(error) = super::wait(&mut attempts, error, deadline) {
                        return vec![Err(error); requests.len()];
                    }
                }
            }
        };
        let answers = conn.exchange(&requests, deadline).into_iter().zip(&self.requests);
        let answers = answers.map(|(answer, queued)| match queued {
            Queued::Get(_) => {
                let item = answer.and_then(|frame| decode(frame, wire::item));
                item.map(Answer::Item).map_err(crate::Error::of_read)
            }
            Queued::Write(_) => {
                answer.and_then(|frame| decode(frame, wire::outcome)).map(Answer::Outcome)
            }
        });
        answers.collect()
    }
}
