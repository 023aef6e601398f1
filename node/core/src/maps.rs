//! Persistent maps out of an encoding. `imbl` reserves room for as many entries as a length field claims; what comes
//! from a file or a peer may claim anything, and must not end the process.

use std::fmt;
use std::marker::PhantomData;

use imbl::{OrdMap, OrdSet};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// For `deserialize_with` on a field that is a map.
pub(crate) fn map<'de, D, K, V>(deserializer: D) -> Result<OrdMap<K, V>, D::Error>
where
    D: Deserializer<'de>,
    K: Deserialize<'de> + Ord + Clone,
    V: Deserialize<'de> + Clone,
{
    struct Entries<K, V>(PhantomData<(K, V)>);

    impl<'de, K: Deserialize<'de> + Ord + Clone, V: Deserialize<'de> + Clone> Visitor<'de> for Entries<K, V> {
        type Value = OrdMap<K, V>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a map")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<OrdMap<K, V>, A::Error> {
            let mut entries = OrdMap::new();
            while let Some((key, value)) = access.next_entry()? {
                entries.insert(key, value);
            }
            Ok(entries)
        }
    }

    deserializer.deserialize_map(Entries(PhantomData))
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

        impl<'de, T: Deserialize<'de> + Ord + Clone> Visitor<'de> for Items<T> {
            type Value = OrdSet<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a set")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<OrdSet<T>, A::Error> {
                let mut items = OrdSet::new();
                while let Some(item) = access.next_element()? {
                    items.insert(item);
                }
                Ok(items)
            }
        }

        deserializer.deserialize_seq(Items(PhantomData)).map(Set)
    }
}
