//! Persistent maps out of an encoding. `imbl` reserves room for as many entries as a length field claims; what comes
//! from a file or a peer may claim anything, and must not end the process.

use std::fmt;
use std::marker::PhantomData;

use imbl::{OrdMap, OrdSet};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// Entries that room is reserved for on the word of a length field alone.
const TRUSTED: usize = 4096;

/// For `deserialize_with` on a field that is a map.
pub(crate) fn map<'de, D, K, V>(deserializer: D) -> Result<OrdMap<K, V>, D::Error>
where
    D: Deserializer<'de>,
    K: Deserialize<'de> + Ord + Clone,
    V: Deserialize<'de> + Clone,
{
    struct Entries<K, V>(PhantomData<(K, V)>);

    impl<'de, K: Deserialize<'de>, V: Deserialize<'de>> Visitor<'de> for Entries<K, V> {
        type Value = Vec<(K, V)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a map")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Vec<(K, V)>, A::Error> {
            let mut entries = Vec::with_capacity(access.size_hint().unwrap_or(0).min(TRUSTED));
            while let Some(entry) = access.next_entry()? {
                entries.push(entry);
            }
            Ok(entries)
        }
    }

    Ok(deserializer.deserialize_map(Entries(PhantomData))?.into_iter().collect())
}

/// For `deserialize_with` on a field that is a set.
pub(crate) fn set<'de, D, T>(deserializer: D) -> Result<OrdSet<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Ord + Clone,
{
    Set::deserialize(deserializer).map(|set| set.0)
}

/// For `deserialize_with` on a field that is a map of sets.
pub(crate) fn map_of_sets<'de, D, K, T>(deserializer: D) -> Result<OrdMap<K, OrdSet<T>>, D::Error>
where
    D: Deserializer<'de>,
    K: Deserialize<'de> + Ord + Clone,
    T: Deserialize<'de> + Ord + Clone,
{
    let sets: OrdMap<K, Set<T>> = map(deserializer)?;
    Ok(sets.into_iter().map(|(key, set)| (key, set.0)).collect())
}

#[derive(Clone)]
struct Set<T: Ord + Clone>(OrdSet<T>);

impl<'de, T: Deserialize<'de> + Ord + Clone> Deserialize<'de> for Set<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Items<T> {
            type Value = Vec<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a set")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Vec<T>, A::Error> {
                let mut items = Vec::with_capacity(access.size_hint().unwrap_or(0).min(TRUSTED));
                while let Some(item) = access.next_element()? {
                    items.push(item);
                }
                Ok(items)
            }
        }

        Ok(Set(deserializer.deserialize_seq(Items(PhantomData))?.into_iter().collect()))
    }
}
