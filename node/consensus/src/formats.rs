//! Which formats go with which cluster version: what is written follows the version in effect, what is read
//! may be any that is known.

use muster_core::version::{SUPPORTED, Version};

use crate::{contents, messages};

/// What is written for other nodes, or may have to be read by an older release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Formats {
    pub(crate) message: u8,
    /// Of what the controllers say to each other.
    pub(crate) report: u8,
    pub(crate) snapshot: u8,
}

const TABLE: [(Version, Formats); 3] = [
    (Version(1), Formats { message: messages::FORMAT, report: 1, snapshot: contents::WITHOUT_VERSION }),
    (Version(2), Formats { message: messages::FORMAT, report: 1, snapshot: contents::UNCOMPRESSED }),
    (Version(3), Formats { message: messages::FORMAT, report: 1, snapshot: contents::DATA_FORMAT }),
];

const _: () = assert!(
    TABLE[0].0.0 == SUPPORTED.oldest.0 && TABLE[TABLE.len() - 1].0.0 == SUPPORTED.newest.0,
    "each supported version has its formats"
);

/// The formats of a version. A node that has not learnt of its cluster's takes the nearest that it knows.
pub(crate) fn of(version: Version) -> Formats {
    let known = TABLE.iter().rev().find(|(from, _)| *from <= version).unwrap_or(&TABLE[0]);
    known.1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_has_its_formats_and_none_goes_back() {
        for (version, message, report, snapshot) in
            [(0, 3, 1, 3), (1, 3, 1, 3), (2, 3, 1, 4), (3, 3, 1, 5), (9, 3, 1, 5)]
        {
            assert_eq!(of(Version(version)), Formats { message, report, snapshot }, "{version}");
        }
        for pair in TABLE.windows(2) {
            let [(before, old), (after, new)] = pair else { unreachable!("windows of two") };
            assert_eq!(after.0, before.0 + 1);
            assert!(new.message >= old.message && new.report >= old.report && new.snapshot >= old.snapshot);
        }
        for (_, formats) in TABLE {
            assert!(messages::KNOWN.contains(&formats.message));
            assert!(contents::KNOWN.contains(&formats.snapshot));
        }
    }
}
