//! The function registry: names, numbered versions of their specs, and how their launches fare.

mod health;
mod scaling;
mod spec;

use std::sync::Arc;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

pub use health::*;
pub use scaling::*;
pub use spec::*;

use crate::ids::{AccountName, ChangeId, FunctionName};
use crate::rejection::{Kind, Rejection};
use crate::units::Timestamp;

/// Functions in one cluster: each costs memory on every node.
pub const FUNCTIONS_MAX: usize = 100_000;
/// Old versions kept for reference. Live instances carry what they need of theirs.
pub const VERSIONS_MAX: usize = 10;

#[expect(clippy::large_enum_variant, reason = "nearly all of them are `Put`; a box would only cost")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Creates the function or gives it a new version. `change` tells a repeat from a new change.
    Put { name: FunctionName, spec: Spec, owner: AccountName, change: ChangeId },
    /// Removes it. Without `force` it must have no live instances.
    Delete { name: FunctionName, force: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PutOutcome {
    Created,
    Changed,
    Unchanged,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// From 1, never reused within the life of the function.
    pub number: u64,
    pub change: ChangeId,
    pub spec: Arc<Spec>,
    pub created_at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Function {
    pub owner: AccountName,
    pub created_at: Timestamp,
    /// Oldest first, at least one, at most [`VERSIONS_MAX`].
    versions: Vec<Version>,
    pub health: LaunchHealth,
}

impl Function {
    pub fn current(&self) -> &Version {
        self.versions.last().expect("a function has at least one version")
    }

    pub fn versions(&self) -> &[Version] {
        &self.versions
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Functions {
    #[serde(deserialize_with = "crate::maps::map")]
    by_name: OrdMap<FunctionName, Arc<Function>>,
}

impl Functions {
    pub fn get(&self, name: &str) -> Option<&Arc<Function>> {
        self.by_name.get(name)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&FunctionName, &Arc<Function>)> {
        self.by_name.iter()
    }

    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    pub fn owned_by(&self, account: &AccountName) -> Option<&FunctionName> {
        self.by_name.iter().find(|(_, f)| f.owner == *account).map(|(name, _)| name)
    }

    pub(crate) fn put(
        &mut self,
        name: &FunctionName,
        spec: &Spec,
        owner: &AccountName,
        change: ChangeId,
        now: Timestamp,
    ) -> Result<(u64, PutOutcome), Rejection> {
        spec.validate().map_err(Rejection::Invalid)?;
        let Some(existing) = self.by_name.get(name) else {
            if self.by_name.len() >= FUNCTIONS_MAX {
                return Err(Rejection::Limit { what: "functions".into(), max: FUNCTIONS_MAX as u64 });
            }
            let first = Version { number: 1, change, spec: Arc::new(spec.clone()), created_at: now };
            let function = Function {
                owner: owner.clone(),
                created_at: now,
                versions: vec![first],
                health: LaunchHealth::default(),
            };
            self.by_name.insert(name.clone(), Arc::new(function));
            return Ok((1, PutOutcome::Created));
        };
        if let Some(known) = existing.versions.iter().find(|v| v.change == change) {
            return Ok((known.number, PutOutcome::Unchanged));
        }
        let current = existing.current();
        if *current.spec == *spec {
            return Ok((current.number, PutOutcome::Unchanged));
        }
        let number = current.number + 1;
        let mut function = Function::clone(existing);
        function.versions.push(Version { number, change, spec: Arc::new(spec.clone()), created_at: now });
        if function.versions.len() > VERSIONS_MAX {
            function.versions.remove(0);
        }
        // A new version deserves a fresh start: its owner may just have mended the crash.
        function.health = LaunchHealth::default();
        self.by_name.insert(name.clone(), Arc::new(function));
        Ok((number, PutOutcome::Changed))
    }

    pub(crate) fn remove(&mut self, name: &FunctionName) -> Result<(), Rejection> {
        match self.by_name.remove(name) {
            Some(_) => Ok(()),
            None => Err(Rejection::missing(Kind::Function, name)),
        }
    }

    pub(crate) fn update_health(&mut self, name: &FunctionName, update: impl FnOnce(&mut LaunchHealth)) {
        if let Some(function) = self.by_name.get(name) {
            let mut function = Function::clone(function);
            update(&mut function.health);
            self.by_name.insert(name.clone(), Arc::new(function));
        }
    }
}
