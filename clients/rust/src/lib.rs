//! Client of Stave, a durable key-value store.
//!
//! Two clients that do the same: [`Client`] is async, on tokio; [`blocking::Client`] needs the
//! standard library alone. Both keep a bounded pool of connections, send many requests over one
//! without waiting, connect again by themselves, give every request a deadline that the server
//! knows too, and tell *not done* from *unknown* when something fails.
//!
//! ```
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/server.rs"));
//! use std::time::Duration;
//! use stavekv_client::{Client, Error, Op, Options, Scan};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> stavekv_client::Result<()> {
//! # let server = Server::start();
//! # let address = server.address.as_str(); // "127.0.0.1:7400"
//! let client = Client::connect(address).await?;
//!
//! client.set("user:1", "Ada").await?;
//! let item = client.get("user:1").await?.expect("it was just set");
//! assert_eq!(item.value, b"Ada");
//!
//! // A lock that goes by itself; whoever comes second is told.
//! let lock = Op::set("lock", "me").ttl(Duration::from_secs(30)).if_absent();
//! client.write(&lock).await?;
//! let refused = client.write(&lock).await.expect_err("it is taken");
//! assert!(refused.unmet().is_some());
//!
//! // All or none, for keys with the same {hash tag}.
//! client.batch(&[Op::set("{7}:name", "Grace"), Op::delete("{7}:draft")]).await?;
//!
//! let mut users = client.scan(Scan::prefix("user:").values());
//! while let Some(entry) = users.next().await? {
//!     println!("{:?} {:?}", entry.key, entry.value);
//! }
//!
//! // What became of a write when the answer is lost?
//! match client.set("user:1", "Ada Lovelace").await {
//!     Ok(outcome) => println!("durable, version {}", outcome.version),
//!     Err(Error::NotDone(reason)) => println!("nothing happened: {reason}"),
//!     Err(Error::Unknown(reason)) => println!("look before doing it again: {reason}"),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Deadlines and retries
//!
//! A request takes at most [`Options::deadline`], all attempts together. Within that reads are
//! tried again, and writes: the server does each write of a client once, however often it is asked
//! for, and gives the first answer again. So [`Error::Unknown`] is left for what the deadline ends,
//! and for what is asked again so late that the server has forgotten it. Without
//! [`Options::exactly_once`], and in a [`blocking::Pipeline`], a write of unknown fate is not tried
//! again. What to do then: if doing it twice is harmless, as with most unconditional sets, do it
//! again; else read the key, or give the write a condition on the version that you last saw.
//!
//! # Order
//!
//! Requests that run at the same time have no order. Await one before you begin the next, or, with
//! the blocking client, send them in a [`blocking::Pipeline`].
//!
//! # Features
//!
//! | | |
//! |---|---|
//! | `tokio` | the async client (default) |
//! | `blocking` | the blocking client (default) |

/// The examples of the README compile.
#[cfg(all(doctest, feature = "tokio", feature = "blocking"))]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(not(any(feature = "tokio", feature = "blocking")))]
compile_error!("stavekv-client: enable the feature `tokio` or `blocking`");

#[cfg(feature = "tokio")]
mod aio;
mod answer;
#[cfg(feature = "blocking")]
pub mod blocking;
mod changes;
mod error;
mod once;
mod op;
mod options;
mod retry;
mod scan;
mod wire;

#[cfg(feature = "tokio")]
pub use aio::{Client, Scanner};
pub use changes::{Changed, Changes, Done, Position, Rows};
pub use error::{Code, Error, Reason, Refusal, Result, Retry};
pub use op::{Ack, BatchOutcome, Change, Entry, Item, Op, Outcome, ServerInfo};
pub use options::Options;
pub use scan::Scan;
