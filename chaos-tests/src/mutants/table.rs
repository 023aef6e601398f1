//! The seeded bugs: what is wrong, who should notice, and what provokes it.

/// One bug, by the name at its site.
#[derive(Clone, Copy, Debug)]
pub struct Mutant {
    pub name: &'static str,
    pub wrong: &'static str,
    pub proof: Proof,
    /// Of a chaos run: the invariants that may catch it. A violation of another one does not count,
    /// since it could have come of anything.
    pub catchers: &'static [&'static str],
}

/// What must fail with the bug alive, and must not without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Proof {
    /// A chaos run. Timing decides what a seed meets, so a few are tried, one after the other.
    Chaos { faults: &'static str, seconds: u64, seeds: &'static [u64] },
    /// The tests of a package whose names contain the filter; the package has the feature.
    Tests { package: &'static str, filter: &'static str },
    /// Simulated clusters, one after the other from the first seed on.
    Simulation { seconds: u64, seeds: u64 },
    /// The tests of real clusters here whose names contain the filter.
    Cluster { filter: &'static str },
}

/// The run itself as a catcher: a node never came back, or nothing ever settled.
pub const RUN: &str = "run";
/// A fault as a catcher: the product withstood it otherwise than it should, so it was not felt.
pub const FAULT: &str = "fault";

const CALM: Proof = Proof::Chaos { faults: "none", seconds: 12, seeds: &[1, 2, 3] };
const KILLS: Proof = Proof::Chaos { faults: "kill", seconds: 25, seeds: &[1, 2, 3, 4] };
const PAUSES: Proof = Proof::Chaos { faults: "pause", seconds: 25, seeds: &[1, 2, 3, 4] };

const fn tests(package: &'static str, filter: &'static str) -> Proof {
    Proof::Tests { package, filter }
}

pub const MUTANTS: &[Mutant] = &[
    // The log and its store.
    Mutant {
        name: "acknowledge-before-flush",
        wrong: "the store acknowledges what it has not flushed",
        proof: KILLS,
        // openraft panics in a leader whose follower has lost what it had acknowledged.
        catchers: &["durability", "linearizability", "replicas", "usage", "panics", RUN],
    },
    Mutant {
        name: "flush-without-sync",
        wrong: "the store flushes and does not sync: a power cut takes what was acknowledged",
        proof: tests("muster-storage", "barrier"),
        catchers: &[],
    },
    Mutant {
        name: "vote-not-saved",
        wrong: "a node forgets whom it voted for when it restarts",
        proof: tests("muster-storage", "a_reopened_log_is_the_same"),
        catchers: &[],
    },
    Mutant {
        name: "vote-not-synced",
        wrong: "a node grants a vote before it is synced: a power cut takes it away",
        proof: Proof::Simulation { seconds: 10, seeds: 40 },
        catchers: &[],
    },
    Mutant {
        name: "incarnation-not-raised",
        wrong: "a restarted node numbers its proposals as if it had never run",
        proof: KILLS,
        catchers: &[RUN, "durability", "liveness"],
    },
    Mutant {
        name: "node-id-reused",
        wrong: "a node that lost its data takes part under its old id",
        proof: Proof::Chaos { faults: "wipe", seconds: 12, seeds: &[1, 2, 3] },
        catchers: &[FAULT, RUN, "durability", "replicas", "panics"],
    },
    Mutant {
        name: "snapshot-omits-the-ledger",
        wrong: "a snapshot leaves one aggregate out",
        proof: KILLS,
        catchers: &["replicas", "usage"],
    },
    Mutant {
        name: "replicas-use-their-clocks",
        wrong: "apply takes the time from its own host's clock",
        proof: CALM,
        catchers: &["replicas"],
    },
    Mutant {
        name: "clock-runs-back",
        wrong: "a leader whose clock is behind turns the replicated clock back",
        proof: tests("muster-core", "invariants_hold_after_every_entry"),
        catchers: &[],
    },
    // Releases.
    Mutant {
        name: "silent-members-agree",
        wrong: "the version is raised while a member is away that may be old",
        proof: Proof::Simulation { seconds: 10, seeds: 40 },
        catchers: &[],
    },
    Mutant {
        name: "newer-commands-proposed",
        wrong: "a node proposes what an older member cannot read",
        proof: tests("muster-consensus", "what_the_version_in_effect_does_not_have"),
        catchers: &[],
    },
    Mutant {
        name: "any-version-applied",
        wrong: "a node goes along with a version that its release does not support",
        proof: tests("muster-consensus", "versions::a_node_that"),
        catchers: &[],
    },
    // Proposals and reads.
    Mutant {
        name: "proposal-applied-twice",
        wrong: "a proposal that was sent again is applied again",
        proof: tests("muster-core", "repeats_are_harmless"),
        catchers: &[],
    },
    Mutant {
        name: "local-reads",
        wrong: "a linearizable read is answered from whatever this node has",
        proof: CALM,
        catchers: &["linearizability", "recency"],
    },
    Mutant {
        name: "leads-on-after-restart",
        wrong: "a leader that restarts goes on in its term, whose entries a power cut may have taken",
        proof: tests("muster-storage", "a_leader_that_ran_ahead"),
        catchers: &[],
    },
    Mutant {
        name: "appends-answered-before-sync",
        wrong: "a follower says that it has entries which it has not synced",
        proof: tests("muster-consensus", "a_follower_answers_for_nothing"),
        catchers: &[],
    },
    Mutant {
        name: "applied-before-sync",
        wrong: "a leader acknowledges a write that its own disk may still lose",
        proof: tests("muster-consensus", "a_follower_answers_for_nothing"),
        catchers: &[],
    },
    Mutant {
        name: "commit-told-before-sync",
        wrong: "a leader tells followers to apply what its own disk may still lose",
        proof: tests("muster-consensus", "a_commit_is_told_once"),
        catchers: &[],
    },
    Mutant {
        name: "answer-before-publish",
        wrong: "a write is answered before the asked node shows it",
        proof: CALM,
        catchers: &["own writes"],
    },
    Mutant {
        name: "panic-on-lost-leadership",
        wrong: "a proposal that a leader took and lost makes it panic",
        proof: PAUSES,
        catchers: &["panics"],
    },
    Mutant {
        name: "readyz-without-quorum",
        wrong: "/readyz says what the node believes, not what a quorum confirmed",
        proof: Proof::Chaos { faults: "partition", seconds: 25, seeds: &[1, 2, 3, 4] },
        catchers: &["readiness"],
    },
    // Permissions.
    Mutant {
        name: "admins-kept",
        wrong: "a node that has let an admin rule never looks at its account and key again",
        proof: CALM,
        catchers: &["administration"],
    },
    Mutant {
        name: "permissions-kept",
        wrong: "a node that has admitted a key never looks at its rights again",
        proof: CALM,
        catchers: &["revocation"],
    },
    // Usage and billing.
    Mutant {
        name: "usage-counted-twice",
        wrong: "a usage batch that was sent again is counted again",
        proof: Proof::Cluster { filter: "a_killed_host_has_lost_and_doubled_no_usage" },
        catchers: &[],
    },
    Mutant {
        name: "journal-not-replayed",
        wrong: "usage that was journaled and not shipped is forgotten in a crash",
        proof: Proof::Cluster { filter: "a_killed_host_has_lost_and_doubled_no_usage" },
        catchers: &[],
    },
    Mutant {
        name: "split-loses-the-rest",
        wrong: "an instance's time split among its callers loses the remainder",
        proof: CALM,
        catchers: &["usage"],
    },
    // Instances.
    Mutant {
        name: "orphans-stay",
        wrong: "an agent leaves running what the cluster has given up",
        proof: PAUSES,
        catchers: &["leaks"],
    },
    Mutant {
        name: "launch-not-fenced",
        wrong: "an agent takes a container of an older generation for the one that was placed",
        proof: tests("muster-core", "reconcile"),
        catchers: &[],
    },
    Mutant {
        name: "launch-per-request",
        wrong: "each waiting request launches an instance, whatever one can serve",
        proof: tests("muster-core", "autoscaler"),
        catchers: &[],
    },
    Mutant {
        name: "failures-not-placed",
        wrong: "what has failed to start on a node is launched there again as soon as anywhere else",
        proof: tests("muster-core", "a_node_where_nothing_starts"),
        catchers: &[],
    },
    // Where no Docker Engine answers, its proof shows nothing.
    Mutant {
        name: "removed-leaves-instances",
        wrong: "a node that was removed leaves its containers running on its host",
        proof: Proof::Cluster { filter: "a_node_that_was_given_up_leaves_no_containers" },
        catchers: &[],
    },
    Mutant {
        name: "drain-does-not-wait",
        wrong: "an instance that is brought down takes the requests it serves with it",
        proof: CALM,
        catchers: &["service"],
    },
    // Invocations.
    Mutant {
        name: "waiters-not-woken",
        wrong: "who waits for a cold start is not told that the instance is there",
        proof: tests("muster-gateway", "who_waits_alone"),
        catchers: &[],
    },
    Mutant {
        name: "retry-after-start",
        wrong: "an invocation that may have run is run again, though it is not idempotent",
        proof: CALM,
        catchers: &["executions"],
    },
    Mutant {
        name: "lost-counts-as-not-run",
        wrong: "an invocation that broke off on another node counts as never started",
        proof: KILLS,
        catchers: &["executions", "usage"],
    },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::chaos::{faults, invariants};
    use crate::cluster::programs::repository;

    /// The names at the sites, in the sources of the node and its crates.
    fn sites(dir: &Path, names: &mut Vec<String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sites(&path, names);
            } else if path.extension().is_some_and(|extension| extension == "rs")
                && path.file_name().is_some_and(|name| name != "mutants.rs")
            {
                let text = fs::read_to_string(&path).unwrap();
                let found = text.split("mutant!(\"").skip(1).filter_map(|rest| rest.split('"').next());
                names.extend(found.map(str::to_owned));
            }
        }
    }

    #[test]
    fn every_site_is_listed_and_every_mutant_has_a_site() {
        let mut names = Vec::new();
        sites(&repository().join("node"), &mut names);
        let sites: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        let listed: BTreeSet<&str> = MUTANTS.iter().map(|mutant| mutant.name).collect();
        assert_eq!(sites, listed);
        assert_eq!(names.len(), sites.len(), "each has one site: {names:?}");
        assert_eq!(listed.len(), MUTANTS.len(), "each is listed once");
    }

    #[test]
    fn proofs_name_what_there_is() {
        let invariants: BTreeSet<&str> =
            invariants::all().iter().map(|i| i.name()).chain([RUN, FAULT]).collect();
        for Mutant { name, proof, catchers, .. } in MUTANTS {
            assert!(catchers.iter().all(|catcher| invariants.contains(catcher)), "{name}: {catchers:?}");
            match proof {
                Proof::Chaos { faults, seeds, .. } => {
                    assert!(!catchers.is_empty() && !seeds.is_empty(), "{name}");
                    let known = |fault: &str| fault == "none" || faults::by_name(fault).is_some();
                    assert!(faults.split(',').all(known), "{name}: {faults}");
                }
                Proof::Tests { .. } | Proof::Simulation { .. } | Proof::Cluster { .. } => {
                    assert!(catchers.is_empty(), "{name}: whatever fails of them catches it")
                }
            }
        }
    }
}
