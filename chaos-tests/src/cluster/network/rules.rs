//! What becomes of a packet. No IO and no clock: the switch says what time it is.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::chaos::dice::Dice;

/// One way between two stations: nodes by their number, or [`CLIENTS`](super::CLIENTS).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    pub from: u64,
    pub to: u64,
}

impl Link {
    /// Both ways between two stations.
    pub fn between(a: u64, b: u64) -> [Link; 2] {
        [Link { from: a, to: b }, Link { from: b, to: a }]
    }
}

/// What befalls the packets on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// All are lost.
    Cut,
    /// All are lost for one span, then none for one, and so on.
    Flap(Duration),
    /// So many of 100 are lost.
    Lose { percent: u64 },
    /// Each is late by a time of its own between the two, and they stay in order, as in a queue.
    Delay { least: Duration, most: Duration },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Delivered,
    Lost,
    /// Delivered, but not before.
    Late(Instant),
}

/// A trouble on some links, until it is lifted.
#[derive(Debug)]
struct Imposed {
    trouble: Trouble,
    since: Instant,
    dice: Dice,
    links: BTreeMap<Link, State>,
}

#[derive(Debug, Default)]
struct State {
    /// Packets that were lost or late for it.
    touched: u64,
    /// When the last late packet is due.
    last_due: Option<Instant>,
}

/// All troubles there are at the moment. Those on the same link add up.
#[derive(Debug, Default)]
pub(super) struct Rules {
    imposed: BTreeMap<u64, Imposed>,
    next: u64,
    delivered: BTreeMap<Link, u64>,
}

impl Rules {
    /// Imposes a trouble. What is left to chance follows from `seed` and the packets.
    pub(super) fn impose(
        &mut self,
        trouble: Trouble,
        links: impl IntoIterator<Item = Link>,
        seed: u64,
        now: Instant,
    ) -> u64 {
        let id = self.next;
        self.next += 1;
        let links = links.into_iter().map(|link| (link, State::default())).collect();
        let dice = Dice::new(seed, 0);
        self.imposed.insert(id, Imposed { trouble, since: now, dice, links });
        id
    }

    pub(super) fn lift(&mut self, id: u64) {
        self.imposed.remove(&id);
    }

    /// How many packets on each of its links a trouble has touched.
    pub(super) fn touched(&self, id: u64) -> BTreeMap<Link, u64> {
        let links = self.imposed.get(&id).into_iter().flat_map(|imposed| &imposed.links);
        links.map(|(link, state)| (*link, state.touched)).collect()
    }

    /// How many packets have been let through on a link, late ones among them.
    pub(super) fn delivered(&self, link: Link) -> u64 {
        self.delivered.get(&link).copied().unwrap_or(0)
    }

    /// What becomes of a packet that is on `link` now.
    pub(super) fn fate(&mut self, link: Link, now: Instant) -> Fate {
        let (mut due, mut lost) = (now, false);
        // Each has its say, though another has lost the packet already: its touch is felt.
        for imposed in self.imposed.values_mut() {
            match imposed.fate(link, due, now) {
                Fate::Lost => lost = true,
                Fate::Late(later) => due = later,
                Fate::Delivered => {}
            }
        }
        if lost {
            return Fate::Lost;
        }
        *self.delivered.entry(link).or_default() += 1;
        if due > now { Fate::Late(due) } else { Fate::Delivered }
    }
}

impl Imposed {
    /// `sent` is when the packet would go on without this trouble.
    fn fate(&mut self, link: Link, sent: Instant, now: Instant) -> Fate {
        let Some(state) = self.links.get_mut(&link) else { return Fate::Delivered };
        let fate = match self.trouble {
            Trouble::Cut => Fate::Lost,
            Trouble::Flap(span) if is_down(now.duration_since(self.since), span) => Fate::Lost,
            Trouble::Lose { percent } if self.dice.chance(percent) => Fate::Lost,
            Trouble::Flap(_) | Trouble::Lose { .. } => Fate::Delivered,
            Trouble::Delay { least, most } => {
                let late = Duration::from_micros(self.dice.between(micros(least), micros(most)));
                let due = state.last_due.map_or(sent + late, |last| last.max(sent + late));
                state.last_due = Some(due);
                Fate::Late(due)
            }
        };
        if fate != Fate::Delivered {
            state.touched += 1;
        }
        fate
    }
}

fn is_down(for_now: Duration, span: Duration) -> bool {
    (for_now.as_micros() / span.as_micros().max(1)).is_multiple_of(2)
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).expect("a delay of less than a lifetime")
}

#[cfg(test)]
mod tests {
    use super::*;

    const AB: Link = Link { from: 1, to: 2 };
    const BA: Link = Link { from: 2, to: 1 };
    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_cut_touches_its_links_alone_until_it_is_lifted() {
        let (mut rules, now) = (Rules::default(), Instant::now());
        let both = rules.impose(Trouble::Cut, Link::between(1, 2), 0, now);
        let one = rules.impose(Trouble::Cut, [AB], 0, now);
        assert_eq!([rules.fate(AB, now), rules.fate(BA, now)], [Fate::Lost, Fate::Lost]);
        assert_eq!(rules.fate(Link { from: 1, to: 3 }, now), Fate::Delivered);
        assert_eq!(rules.touched(both), BTreeMap::from([(AB, 1), (BA, 1)]));
        assert_eq!(rules.touched(one), BTreeMap::from([(AB, 1)]), "both have touched it");
        rules.lift(both);
        assert_eq!([rules.fate(AB, now), rules.fate(BA, now)], [Fate::Lost, Fate::Delivered]);
        rules.lift(one);
        assert_eq!(rules.fate(AB, now), Fate::Delivered);
        assert_eq!((rules.delivered(AB), rules.delivered(BA)), (1, 1));
    }

    #[test]
    fn a_flapping_link_is_down_first_and_then_up() {
        let (mut rules, now) = (Rules::default(), Instant::now());
        rules.impose(Trouble::Flap(100 * MS), [AB], 0, now);
        let fates = [0, 99, 100, 199, 200, 300].map(|ms| rules.fate(AB, now + ms * MS) == Fate::Lost);
        assert_eq!(fates, [true, true, false, false, true, false]);
    }

    #[test]
    fn losses_are_as_frequent_as_told_and_follow_from_the_seed() {
        let draw = |seed| {
            let (mut rules, now) = (Rules::default(), Instant::now());
            rules.impose(Trouble::Lose { percent: 30 }, [AB], seed, now);
            (0..10_000).map(|_| rules.fate(AB, now) == Fate::Lost).collect::<Vec<_>>()
        };
        let lost = draw(1).into_iter().filter(|lost| *lost).count();
        assert!((2_800..3_200).contains(&lost), "{lost} of 10,000");
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn delays_stay_in_range_and_order_and_add_up() {
        let (mut rules, now) = (Rules::default(), Instant::now());
        rules.impose(Trouble::Delay { least: 20 * MS, most: 50 * MS }, [AB], 7, now);
        let mut last = now;
        for sent in (0..100).map(|ms| now + ms * MS) {
            let Fate::Late(due) = rules.fate(AB, sent) else { panic!("not late") };
            assert!(due >= sent + 20 * MS && due >= last && due <= sent + 50 * MS, "{:?}", due - sent);
            last = due;
        }
        rules.impose(Trouble::Delay { least: 100 * MS, most: 101 * MS }, [AB], 7, now);
        let sent = now + 1_000 * MS;
        let Fate::Late(due) = rules.fate(AB, sent) else { panic!("not late") };
        assert!(due >= sent + 120 * MS, "{:?}", due - sent);
    }
}
