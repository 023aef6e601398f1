//! Seeded bugs, to prove that tests and chaos runs see them. One at a time lives, and only in a build
//! with the feature `mutants`, which nothing in the workspace turns on. Where each one is caught
//! stands in `chaos-tests/src/mutants/table.rs`.
//!
//! ```ignore
//! if self.has_applied(entry.proposal) && !mutant!("proposal-applied-twice") {
//! ```

/// `mutant!("name")`: whether this bug is alive. `mutant!("name", kept by key => value)`: the value;
/// with the bug, the first one that was ever computed for the key. Without the feature these are
/// `false` and the value, and nothing else is compiled.
#[cfg(not(feature = "mutants"))]
#[macro_export]
macro_rules! mutant {
    ($name:literal) => {
        false
    };
    ($name:literal, kept by $key:expr => $value:expr) => {
        $value
    };
}

/// See its twin for builds without the feature.
#[cfg(feature = "mutants")]
#[macro_export]
macro_rules! mutant {
    ($name:literal) => {
        $crate::mutants::is_alive($name)
    };
    ($name:literal, kept by $key:expr => $value:expr) => {
        if $crate::mutants::is_alive($name) {
            $crate::mutants::kept(format!("{:?}", $key), $value)
        } else {
            $value
        }
    };
}

#[cfg(feature = "mutants")]
pub use alive::{choose, is_alive, kept};

#[cfg(feature = "mutants")]
mod alive {
    use std::any::Any;
    use std::collections::BTreeMap;
    use std::sync::{Mutex, OnceLock, PoisonError};

    static CHOSEN: OnceLock<Option<String>> = OnceLock::new();

    /// Says once, at the start of the process, which bug lives; `None` for none. The core reads no
    /// environment, so that whoever does must bring it here. Later words are not heard.
    pub fn choose(name: Option<String>) {
        let _first_word_holds = CHOSEN.set(name);
    }

    pub fn is_alive(name: &str) -> bool {
        CHOSEN.get_or_init(for_unit_tests).as_deref() == Some(name)
    }

    /// Unit tests of this crate have no start of their own to say it at.
    #[cfg(test)]
    #[expect(clippy::disallowed_methods, reason = "whoever runs the tests chooses")]
    fn for_unit_tests() -> Option<String> {
        std::env::var("MUSTER_MUTANT").ok()
    }

    #[cfg(not(test))]
    fn for_unit_tests() -> Option<String> {
        None
    }

    /// The first value that was brought with this key: a cache that never forgets.
    ///
    /// # Panics
    /// Where values of two types share a key, which their sites must not.
    pub fn kept<T: Clone + Send + 'static>(key: String, value: T) -> T {
        static KEPT: Mutex<BTreeMap<String, Box<dyn Any + Send>>> = Mutex::new(BTreeMap::new());
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        let first = kept.entry(key).or_insert_with(|| Box::new(value));
        first.downcast_ref::<T>().expect("a key keeps values of one type").clone()
    }
}
