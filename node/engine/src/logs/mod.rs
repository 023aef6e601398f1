//! What instances write: a line at a time, with the moment it was read and the stream it came from.
//!
//! [`Store`] keeps lines in files, bounded; [`splitting`] makes lines of bytes, [`reading`] reads files
//! that are being written, [`pruning`] says which to give up. The process engine writes into the store as
//! its children do. The Docker engine leaves the output of a container to Docker for as long as the
//! container is there, so that one that outlives its node loses nothing, and copies it here before
//! the container is removed.

mod pruning;
mod reading;
pub(crate) mod splitting;
mod store;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::stream::BoxStream;
use muster_core::ids::{FunctionName, Generation, InstanceId};
use muster_core::units::Timestamp;

pub use store::Store;
pub(crate) use store::Writer;

use crate::EngineError;

/// The longest line; what is longer is cut into several. Docker's own limit.
pub const LINE_MAX: usize = 16 * 1024;

/// Nanoseconds since 1970, by the host's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nanos(pub u64);

impl Nanos {
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Nanos(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }
}

/// Where a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stream {
    Stdout,
    Stderr,
    /// A remark of Muster's about the output, such as that some of it was not kept.
    Muster,
}

/// One line, without its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Grows from line to line of one stream. Docker reads the two streams of an instance apart, so two lines
    /// written to them within microseconds may be kept the other way around.
    pub at: Nanos,
    pub stream: Stream,
    /// As it was written: not always UTF-8.
    pub text: Vec<u8>,
}

/// Whose output it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub instance: InstanceId,
    pub generation: Generation,
    pub function: FunctionName,
    /// When the function was created: tells it from an earlier one that had its name.
    pub born: Timestamp,
}

/// What to read of an instance's output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogRead {
    /// Lines later than this.
    pub after: Nanos,
    /// Whether to wait for more until the instance has ended.
    pub follow: bool,
}

/// Lines of one instance, oldest first. Dropping it ends the reading.
pub type LogStream = BoxStream<'static, Result<Line, EngineError>>;

/// How much of the output of instances is kept on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one file. An instance has two: when one is full it becomes the older, and the one before
    /// it is removed.
    pub file_bytes: u64,
    /// Bytes of the ended instances of one function.
    pub function_bytes: u64,
    /// Ended instances of one function.
    pub function_instances: usize,
    /// Bytes of all ended instances.
    pub node_bytes: u64,
    /// How long the output of an ended instance is kept.
    pub age: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            // As much as Docker is told to keep of a container: see `docker::container`.
            file_bytes: 4 << 20,
            function_bytes: 32 << 20,
            // Each is an open file for whoever reads them all.
            function_instances: 128,
            node_bytes: 512 << 20,
            age: Duration::from_secs(3 * 24 * 3600),
        }
    }
}
