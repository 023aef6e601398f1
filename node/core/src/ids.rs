//! Typed identities. Each id is a newtype, so a node can never be passed where an instance is meant.

use std::cell::Cell;
use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// A text that is not a valid id or name, with the rule it breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a valid {kind}: {rule}")]
pub struct InvalidId {
    pub kind: &'static str,
    pub text: String,
    pub rule: &'static str,
}

/// A dispatcher node. Never reused: a wiped node comes back under a fresh id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<u64> for NodeId {
    fn from(raw: u64) -> Self {
        NodeId(raw)
    }
}

/// How many times a node has started, from 1. Persisted before anything is sent under it, so a
/// message from before a restart can be told from one after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Incarnation(pub u64);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The order in which instances were placed, cluster-wide, from 1. Assigned when a placement is
/// applied; what an agent says about an instance must carry the generation it acted on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Generation(pub u64);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Defines a 64-bit random id with a text form `<prefix><16 hex digits>`.
macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $shape:literal, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{:016x}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let digits = text.strip_prefix($prefix).filter(|d| {
                    d.len() == 16 && d.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
                });
                digits
                    .and_then(|d| u64::from_str_radix(d, 16).ok())
                    .map($name)
                    .ok_or_else(|| InvalidId {
                        kind: $kind,
                        text: text.to_owned(),
                        rule: concat!("expected ", $shape, "16 hexadecimal digits in lower case"),
                    })
            }
        }
    };
}

random_id!(
    /// One launched copy of a function. Chosen at random by the proposer of its placement.
    InstanceId, "i-", "`i-` and ", "instance id"
);
random_id!(
    /// A cluster, chosen at random when it is bootstrapped. Labels its containers.
    ClusterId, "c-", "`c-` and ", "cluster id"
);
random_id!(
    /// One node's data, chosen at random when its directory is first used. A directory that was wiped, or
    /// another in its place, has another.
    StoreId, "s-", "`s-` and ", "store id"
);
random_id!(
    /// The public half of an API key.
    KeyId, "", "", "key id"
);
random_id!(
    /// The public half of a token to join the cluster.
    TokenId, "", "", "token id"
);
random_id!(
    /// One change to a function's spec, chosen at random by its proposer. A repeated change is
    /// recognized by it.
    ChangeId, "v-", "`v-` and ", "change id"
);

/// A package, by the SHA-256 of its file. Its text form is `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PackageDigest(pub [u8; 32]);

impl PackageDigest {
    const PREFIX: &str = "sha256:";

    /// The digits alone, for the name of a file.
    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Of digits alone, in lower case.
    pub fn from_hex(digits: &str) -> Option<Self> {
        let plain = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if digits.len() != 64 || !digits.bytes().all(plain) {
            return None;
        }
        let mut bytes = [0; 32];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).ok()?;
        }
        Some(PackageDigest(bytes))
    }
}

impl fmt::Display for PackageDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", Self::PREFIX, self.hex())
    }
}

impl fmt::Debug for PackageDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PackageDigest {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        text.strip_prefix(Self::PREFIX).and_then(Self::from_hex).ok_or_else(|| InvalidId {
            kind: "package digest",
            text: text.chars().take(2 * NAME_MAX).collect(),
            rule: "expected `sha256:` and 64 hexadecimal digits in lower case",
        })
    }
}

/// The most characters in a function's or an account's name: it becomes a label, a path segment and
/// part of a container's name.
pub const NAME_MAX: usize = 63;

fn check_name(kind: &'static str, text: &str) -> Result<(), InvalidId> {
    let bytes = text.as_bytes();
    let edge = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let inner = |b: &u8| edge(b) || *b == b'-' || *b == b'_';
    let valid = (1..=NAME_MAX).contains(&bytes.len())
        && bytes.first().is_some_and(edge)
        && bytes.last().is_some_and(edge)
        && bytes.iter().all(inner);
    if valid {
        return Ok(());
    }
    Err(InvalidId {
        kind,
        text: text.chars().take(2 * NAME_MAX).collect(),
        rule: "use 1 to 63 of a-z, 0-9, `-` and `_`, with a letter or digit at both ends",
    })
}

/// Defines a validated name: lowercase letters, digits, `-` and `_`, at most 63 characters.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        ///
        /// Names that are decoded one after the other share their text where they are equal: most of the ledger is
        /// names, in order.
        #[derive(Clone, PartialEq, Eq, Hash, Serialize)]
        #[serde(into = "String")]
        pub struct $name(Arc<str>);

        impl Ord for $name {
            fn cmp(&self, other: &Self) -> Ordering {
                // Where the text is shared it need not be looked at, which is most of the time in a large map.
                if Arc::ptr_eq(&self.0, &other.0) { Ordering::Equal } else { self.0.cmp(&other.0) }
            }
        }

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl $name {
            pub fn new(text: &str) -> Result<Self, InvalidId> {
                check_name($kind, text)?;
                Ok($name(text.into()))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Comes before every name, and is none: where a range begins.
            pub(crate) fn before_all() -> Self {
                $name("".into())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                thread_local! {
                    static LAST: Cell<Option<$name>> = const { Cell::new(None) };
                }

                struct Text;

                impl Visitor<'_> for Text {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str(concat!("a valid ", $kind))
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        let name = match LAST.take() {
                            Some(last) if last.as_str() == text => last,
                            _ => $name::new(text).map_err(E::custom)?,
                        };
                        LAST.set(Some(name.clone()));
                        Ok(name)
                    }
                }

                deserializer.deserialize_string(Text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                $name::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;

            fn try_from(text: String) -> Result<Self, InvalidId> {
                $name::new(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name!(
    /// The name users invoke a function by.
    FunctionName, "function name"
);
name!(
    /// The name of an account: a person, a team or a program that owns functions or calls them.
    AccountName, "account name"
);

impl FunctionName {
    /// Comes after every name, and is none: where a range ends.
    pub(crate) fn after_all() -> Self {
        FunctionName("~".into())
    }
}

#[cfg(test)]
mod tests {
    use serde::de::IntoDeserializer;
    use serde::de::value::{self, SeqDeserializer};

    use super::*;

    #[test]
    fn names_by_rule() {
        for (text, ok) in [
            ("alpha", true),
            ("a", true),
            ("a-b_c9", true),
            ("", false),
            ("-a", false),
            ("a-", false),
            ("Alpha", false),
            ("a/b", false),
            ("a b", false),
            ("é", false),
            (&"a".repeat(63), true),
            (&"a".repeat(64), false),
        ] {
            assert_eq!(FunctionName::new(text).is_ok(), ok, "{text:?}");
        }
    }

    #[test]
    fn equal_names_in_a_row_share_their_text() {
        type Words = SeqDeserializer<std::array::IntoIter<&'static str, 4>, value::Error>;
        let names = Vec::<FunctionName>::deserialize(Words::new(["a", "a", "b", "a"].into_iter())).unwrap();
        let shared: Vec<bool> = names.windows(2).map(|pair| Arc::ptr_eq(&pair[0].0, &pair[1].0)).collect();
        assert_eq!(names, ["a", "a", "b", "a"].map(|name| FunctionName::new(name).unwrap()));
        assert_eq!(shared, [true, false, false]);
        let word: value::StrDeserializer<'_, value::Error> = "A".into_deserializer();
        let refused = AccountName::deserialize(word).unwrap_err().to_string();
        assert!(refused.contains("`A` is not a valid account name"), "{refused}");
    }

    #[test]
    fn every_name_lies_between_the_ends() {
        for name in ["0", "z", "a-_b", &"z".repeat(NAME_MAX)] {
            assert!(AccountName::before_all() < AccountName::new(name).unwrap(), "{name}");
            let name = FunctionName::new(name).unwrap();
            assert!(FunctionName::before_all() < name && name < FunctionName::after_all(), "{name}");
        }
    }

    #[test]
    fn ids_survive_their_text_form() {
        let id = InstanceId(0x00ab_cdef_0123_4567);
        assert_eq!(id.to_string(), "i-00abcdef01234567");
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "i-", "i-xyz", "i-00ABCDEF01234567", "00abcdef01234567", "i-+0abcdef01234567"] {
            assert!(bad.parse::<InstanceId>().is_err(), "{bad:?}");
        }
    }
}
