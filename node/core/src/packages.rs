//! Packages: files that functions are made of, each known by its SHA-256. What is replicated is that the
//! cluster keeps them; the bytes are on the nodes' disks.

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use crate::ids::PackageDigest;
use crate::rejection::Rejection;
use crate::units::Timestamp;

/// One row each, and each a file on every host that runs it.
pub const PACKAGES_MAX: usize = 1_024;
/// All of them together: a host may come to hold them all. 64 GiB.
pub const PACKAGES_BYTES_MAX: u64 = 64 << 30;
/// In one [`Command::Forget`].
pub const FORGOTTEN_MAX: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// The file is on disks of the cluster. What is known already is kept for as long again.
    Store { package: PackageDigest, bytes: u64 },
    /// Forgets those that are unused since the moment that stands beside them; passes over others. The proposer
    /// decides how long a package is kept.
    Forget { packages: Vec<(PackageDigest, Timestamp)> },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    pub bytes: u64,
    pub stored_at: Timestamp,
    /// Versions of functions that it is of.
    uses: u32,
    /// Means something while nothing uses it.
    unused_since: Timestamp,
}

impl Package {
    /// Since when nothing uses it; `None` while something does.
    pub fn unused_since(&self) -> Option<Timestamp> {
        (self.uses == 0).then_some(self.unused_since)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packages(#[serde(deserialize_with = "crate::maps::map")] OrdMap<PackageDigest, Package>);

impl Packages {
    pub fn get(&self, package: PackageDigest) -> Option<&Package> {
        self.0.get(&package)
    }

    pub fn iter(&self) -> impl Iterator<Item = (PackageDigest, &Package)> {
        self.0.iter().map(|(digest, package)| (*digest, package))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn total_bytes(&self) -> u64 {
        self.0.values().map(|package| package.bytes).sum()
    }

    /// Whether there is room for one more of this size.
    pub fn check_room(&self, bytes: u64) -> Result<(), Rejection> {
        if self.0.len() >= PACKAGES_MAX {
            return Err(Rejection::Limit { what: "packages".into(), max: PACKAGES_MAX as u64 });
        }
        if self.total_bytes().saturating_add(bytes) > PACKAGES_BYTES_MAX {
            return Err(Rejection::Limit { what: "bytes of packages".into(), max: PACKAGES_BYTES_MAX });
        }
        Ok(())
    }

    /// Those that nothing has used since `before`, at most [`FORGOTTEN_MAX`].
    pub fn unused_before(&self, before: Timestamp) -> Vec<(PackageDigest, Timestamp)> {
        let unused = self.iter().filter_map(|(digest, package)| Some((digest, package.unused_since()?)));
        unused.filter(|(_, since)| *since < before).take(FORGOTTEN_MAX).collect()
    }

    pub(crate) fn check_known(&self, package: PackageDigest) -> Result<(), Rejection> {
        match self.0.contains_key(&package) {
            true => Ok(()),
            false => Err(Rejection::Conflict(format!(
                "the cluster has no package `{package}`: put it there first (`PUT /v1/packages/{package}`)"
            ))),
        }
    }

    pub(crate) fn execute(&mut self, command: &Command, now: Timestamp) -> Result<(), Rejection> {
        match command {
            Command::Store { package, bytes } => {
                if let Some(known) = self.0.get_mut(package) {
                    known.unused_since = now;
                    return Ok(());
                }
                self.check_room(*bytes)?;
                let stored = Package { bytes: *bytes, stored_at: now, uses: 0, unused_since: now };
                self.0.insert(*package, stored);
            }
            Command::Forget { packages } => {
                for (digest, since) in packages {
                    if self.0.get(digest).and_then(Package::unused_since) == Some(*since) {
                        self.0.remove(digest);
                    }
                }
            }
        }
        Ok(())
    }

    /// A function's versions were of the packages `before`, and are of those `after`; one row for each version.
    pub(crate) fn replace_uses(&mut self, before: &[PackageDigest], after: &[PackageDigest], now: Timestamp) {
        if before == after {
            return;
        }
        for digest in after {
            let package = self.0.get_mut(digest).expect("a package in use is not forgotten");
            package.uses += 1;
        }
        for digest in before {
            let package = self.0.get_mut(digest).expect("a package in use is not forgotten");
            package.uses -= 1;
            if package.uses == 0 {
                package.unused_since = now;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(byte: u8) -> PackageDigest {
        PackageDigest([byte; 32])
    }

    fn store(packages: &mut Packages, byte: u8, bytes: u64, at: u64) -> Result<(), Rejection> {
        packages.execute(&Command::Store { package: digest(byte), bytes }, Timestamp(at))
    }

    #[test]
    fn a_package_is_unused_until_a_version_uses_it_and_after_the_last() {
        let mut packages = Packages::default();
        store(&mut packages, 1, 10, 5).expect("there is room");
        let since = |packages: &Packages| packages.get(digest(1)).expect("it is known").unused_since();
        assert_eq!(since(&packages), Some(Timestamp(5)));
        packages.replace_uses(&[], &[digest(1)], Timestamp(6));
        packages.replace_uses(&[digest(1)], &[digest(1), digest(1)], Timestamp(7));
        assert_eq!(since(&packages), None);
        packages.replace_uses(&[digest(1), digest(1)], &[digest(1)], Timestamp(8));
        assert_eq!(since(&packages), None);
        packages.replace_uses(&[digest(1)], &[], Timestamp(9));
        assert_eq!(since(&packages), Some(Timestamp(9)));
    }

    #[test]
    fn only_what_is_unused_since_then_is_forgotten() {
        for (since, used, forgotten) in [(5, false, true), (4, false, false), (5, true, false)] {
            let mut packages = Packages::default();
            store(&mut packages, 1, 10, 5).expect("there is room");
            if used {
                packages.replace_uses(&[], &[digest(1)], Timestamp(5));
            }
            let command = Command::Forget { packages: vec![(digest(1), Timestamp(since))] };
            packages.execute(&command, Timestamp(9)).expect("never refused");
            assert_eq!(packages.is_empty(), forgotten, "{since} {used}");
        }
    }

    #[test]
    fn those_due_are_found_and_a_repeated_upload_keeps_them() {
        let mut packages = Packages::default();
        store(&mut packages, 1, 10, 5).expect("there is room");
        store(&mut packages, 2, 10, 6).expect("there is room");
        assert_eq!(packages.unused_before(Timestamp(6)), [(digest(1), Timestamp(5))]);
        store(&mut packages, 1, 10, 7).expect("it is known");
        assert!(packages.unused_before(Timestamp(6)).is_empty());
        assert_eq!(packages.total_bytes(), 20);
    }

    #[test]
    fn there_is_a_limit_on_bytes() {
        let mut packages = Packages::default();
        store(&mut packages, 1, PACKAGES_BYTES_MAX - 1, 1).expect("there is room");
        let refused = store(&mut packages, 2, 2, 1).expect_err("too much");
        assert_eq!(refused, Rejection::Limit { what: "bytes of packages".into(), max: PACKAGES_BYTES_MAX });
        store(&mut packages, 2, 1, 1).expect("just enough");
    }

    #[test]
    fn digests_have_one_text_form() {
        let text = format!("sha256:{}", "0f".repeat(32));
        assert_eq!(text.parse::<PackageDigest>().expect("valid").to_string(), text);
        for bad in ["", "sha256:", &text[..70], &text.to_uppercase(), &text[7..], &format!("{text}0")] {
            assert!(bad.parse::<PackageDigest>().is_err(), "{bad}");
        }
    }
}
