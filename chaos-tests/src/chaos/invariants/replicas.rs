//! Replicas are identical: having applied the same entries, every node answers the same from its own
//! state.

use super::super::evidence::Evidence;
use super::{Finding, Invariant};

/// What is shown of two answers that differ, around the first difference.
const SHOWN_CHARS: usize = 200;

pub(super) struct Replicas;

impl Invariant for Replicas {
    fn name(&self) -> &'static str {
        "replicas"
    }

    fn statement(&self) -> &'static str {
        "nodes that have applied the same entries answer the same from their own state"
    }

    fn check(&self, run: &Evidence) -> Finding {
        let mut finding = Finding::needing(run.plan.nodes);
        let finals = &run.finals;
        if finals.replicas.len() as u64 != run.plan.nodes {
            finding.violate("the nodes never came to rest at one applied index");
            return finding;
        }
        let Some((first, reference)) = finals.replicas.first_key_value() else { return finding };
        for (node, views) in &finals.replicas {
            for (path, view) in views {
                finding.examined += 1;
                let Some(known) = reference.get(path).filter(|known| *known != view) else { continue };
                let (a, b) = difference(known, view);
                finding.violate(format!("{path} at node {first}: …{a}… but at node {node}: …{b}…"));
            }
        }
        if let Some(index) = finals.applied.values().max() {
            finding.notes.push(format!("compared at the applied index {index}"));
        }
        finding
    }
}

fn difference(a: &str, b: &str) -> (String, String) {
    let same = a.chars().zip(b.chars()).take_while(|(a, b)| a == b).count();
    let around =
        |text: &str| text.chars().skip(same.saturating_sub(SHOWN_CHARS / 2)).take(SHOWN_CHARS).collect();
    (around(a), around(b))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::super::evidence::tests::evidence;
    use super::*;

    #[test]
    fn one_that_differs_is_named() {
        let mut run = evidence();
        assert!(!Replicas.check(&run).holds(), "nothing to compare is no agreement");
        for node in 1..=3 {
            let views = BTreeMap::from([("/v1/functions".to_owned(), "[1,2]".to_owned())]);
            run.finals.replicas.insert(node, views);
        }
        let good = Replicas.check(&run);
        assert!(good.holds() && good.saw_enough());
        run.finals.replicas.get_mut(&3).unwrap().insert("/v1/functions".into(), "[1,3]".into());
        let bad = Replicas.check(&run);
        assert!(bad.violations[0].contains("node 3"), "{bad:?}");
    }
}
