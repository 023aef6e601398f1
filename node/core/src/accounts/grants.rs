//! What an account may do to which functions.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::{InvalidId, NAME_MAX};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Action {
    /// Call it.
    Invoke,
    /// Create, change and delete it, and see its instances.
    Manage,
}

/// The functions a grant covers: a function's name in which each `*` stands for any characters,
/// also none.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern(Arc<str>);

impl Pattern {
    pub fn new(text: &str) -> Result<Self, InvalidId> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_*".contains(&b);
        if (1..=NAME_MAX).contains(&text.len()) && text.bytes().all(allowed) {
            return Ok(Pattern(text.into()));
        }
        Err(InvalidId {
            kind: "function pattern",
            text: text.chars().take(2 * NAME_MAX).collect(),
            rule: "use 1 to 63 of a-z, 0-9, `-`, `_` and `*`",
        })
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Greedy matching with one point of return: linear space, and quadratic time at the worst, in
    /// texts of at most 63 bytes.
    pub fn matches(&self, name: &str) -> bool {
        let (pattern, name) = (self.0.as_bytes(), name.as_bytes());
        let (mut p, mut n) = (0, 0);
        let mut last_star: Option<(usize, usize)> = None;
        while n < name.len() {
            if p < pattern.len() && pattern[p] == b'*' {
                last_star = Some((p, n));
                p += 1;
            } else if p < pattern.len() && pattern[p] == name[n] {
                p += 1;
                n += 1;
            } else if let Some((star, matched)) = last_star {
                last_star = Some((star, matched + 1));
                p = star + 1;
                n = matched + 1;
            } else {
                return false;
            }
        }
        pattern[p..].iter().all(|b| *b == b'*')
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Pattern {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        Pattern::new(text)
    }
}

impl TryFrom<String> for Pattern {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        Pattern::new(&text)
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> String {
        pattern.0.as_ref().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, name, matches) in [
            ("alpha", "alpha", true),
            ("alpha", "alpha2", false),
            ("alpha", "alph", false),
            ("*", "anything", true),
            ("team-*", "team-a", true),
            ("team-*", "team-", true),
            ("team-*", "steam-a", false),
            ("*-prod", "x-prod-prod", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-b-b-d", false),
            ("**", "a", true),
        ] {
            assert_eq!(Pattern::new(pattern).unwrap().matches(name), matches, "{pattern} on {name}");
        }
    }
}
