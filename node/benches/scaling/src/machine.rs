//! The world that policies scale: requests, queues and instances, on virtual time in milliseconds.
//!
//! One model for all policies. A request takes a free slot of a ready instance: on its entry node before
//! others, of the least loaded and then of the oldest. Without one it waits, first come, first served, and the
//! policy is told. An instance is ready its start-up time after its launch; one that drains finishes what
//! it serves. Nothing fails.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use crate::measure::Measures;
use crate::policies::Policy;
use crate::trace::Trace;

/// From a queue that forms to the launch it causes: report, plan, commit. The same for all policies.
pub const REACTION_MS: u64 = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Ready(u64),
    Done { instance: u64 },
    Decide,
    Tick,
}

#[derive(Clone, Debug)]
pub struct Instance {
    pub function: usize,
    pub node: u64,
    pub launched_ms: u64,
    pub ready_ms: Option<u64>,
    pub draining: bool,
    pub in_flight: u32,
    /// Slot time so far, up to the last change.
    busy_ms: u64,
    changed_ms: u64,
    /// Slot time of requests that have ended.
    pub ended_busy_ms: u64,
    pub completed: u64,
    /// When it last served, or became ready.
    pub used_ms: u64,
}

impl Instance {
    pub fn busy_ms(&self, now: u64) -> u64 {
        self.busy_ms + u64::from(self.in_flight) * (now - self.changed_ms)
    }

    fn change(&mut self, now: u64, in_flight: u32) {
        self.busy_ms = self.busy_ms(now);
        (self.changed_ms, self.in_flight) = (now, in_flight);
    }
}

/// What a policy may want to know of one function.
#[derive(Clone, Debug, Default)]
pub struct Demand {
    /// Invocations that wait, by their place in the trace.
    pub waiting: VecDeque<usize>,
    /// Its live instances, oldest first.
    pub instances: Vec<u64>,
    in_flight: u32,
    /// Requests waiting or served, times how long, up to the last change.
    load_ms: u64,
    changed_ms: u64,
}

impl Demand {
    pub fn load(&self) -> u64 {
        u64::from(self.in_flight) + self.waiting.len() as u64
    }

    pub fn load_ms(&self, now: u64) -> u64 {
        self.load_ms + self.load() * (now - self.changed_ms)
    }

    fn settle(&mut self, now: u64) {
        self.load_ms = self.load_ms(now);
        self.changed_ms = now;
    }
}

/// What happened to instances since a policy last looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Ready(u64),
    Ended(u64),
}

/// All functions and instances at one moment.
#[derive(Debug)]
pub struct Fleet<'t> {
    pub trace: &'t Trace,
    pub now: u64,
    pub demand: Vec<Demand>,
    pub instances: BTreeMap<u64, Instance>,
    pub waiting: usize,
    pub nodes: u64,
    changes: Vec<Change>,
    measures: Measures,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    sequence: u64,
}

impl<'t> Fleet<'t> {
    fn new(trace: &'t Trace, nodes: u64) -> Self {
        Fleet {
            trace,
            now: 0,
            demand: vec![Demand::default(); trace.functions.len()],
            instances: BTreeMap::new(),
            waiting: 0,
            nodes,
            changes: Vec::new(),
            measures: Measures::new(trace),
            events: BinaryHeap::new(),
            sequence: 0,
        }
    }

    pub fn launch(&mut self, id: u64, function: usize, node: u64) {
        let now = self.now;
        let instance = Instance {
            function,
            node,
            launched_ms: now,
            ready_ms: None,
            draining: false,
            in_flight: 0,
            busy_ms: 0,
            changed_ms: now,
            ended_busy_ms: 0,
            completed: 0,
            used_ms: now,
        };
        let known = self.instances.insert(id, instance);
        assert!(known.is_none(), "an id names one instance");
        self.demand[function].instances.push(id);
        self.measures.launched(now, function);
        self.at(now + self.trace.functions[function].startup_ms, Event::Ready(id));
    }

    /// Gives it no more requests; it ends when it has served those it has.
    pub fn drain(&mut self, id: u64) {
        let Some(instance) = self.instances.get_mut(&id) else { return };
        instance.draining = true;
        if instance.in_flight == 0 {
            self.end(id);
        }
    }

    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// The node where an invocation comes in: each in turn.
    pub fn entry(&self, invocation: usize) -> u64 {
        invocation as u64 % self.nodes + 1
    }

    /// Instances of a function that are wanted: those that start, and those that are ready.
    pub fn wanted(&self, function: usize) -> (u32, u32) {
        let mut count = (0, 0);
        for id in &self.demand[function].instances {
            match &self.instances[id] {
                Instance { draining: true, .. } => {}
                Instance { ready_ms: None, .. } => count.0 += 1,
                _ => count.1 += 1,
            }
        }
        count
    }

    fn at(&mut self, when: u64, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((when, self.sequence, event)));
    }

    fn end(&mut self, id: u64) {
        let instance = self.instances.remove(&id).expect("it is live");
        self.demand[instance.function].instances.retain(|known| *known != id);
        self.measures.ended(self.now, &instance);
        self.changes.push(Change::Ended(id));
    }

    /// Serves it or lets it wait; answers whether it waits.
    fn arrive(&mut self, invocation: usize) -> bool {
        let function = self.trace.invocations[invocation].function;
        let entry = self.entry(invocation);
        let slots = self.trace.functions[function].concurrency;
        let free = self.demand[function].instances.iter().filter(|id| {
            let instance = &self.instances[id];
            instance.ready_ms.is_some() && !instance.draining && instance.in_flight < slots
        });
        match free
            .min_by_key(|id| (self.instances[id].node != entry, self.instances[id].in_flight, **id))
            .copied()
        {
            Some(id) => {
                self.serve(id, invocation);
                false
            }
            None => {
                self.demand[function].settle(self.now);
                self.demand[function].waiting.push_back(invocation);
                self.waiting += 1;
                true
            }
        }
    }

    fn serve(&mut self, id: u64, invocation: usize) {
        let now = self.now;
        let asked = self.trace.invocations[invocation];
        let instance = self.instances.get_mut(&id).expect("it is live");
        instance.change(now, instance.in_flight + 1);
        let ready_ms = instance.ready_ms.expect("only a ready instance serves");
        self.demand[asked.function].settle(now);
        self.demand[asked.function].in_flight += 1;
        self.measures.served(invocation, now - asked.at_ms, ready_ms > asked.at_ms);
        self.at(now + asked.duration_ms, Event::Done { instance: id });
    }

    /// Gives the instance's free slots to those who wait.
    fn offer(&mut self, id: u64) {
        while let Some(instance) = self.instances.get(&id)
            && !instance.draining
            && instance.in_flight < self.trace.functions[instance.function].concurrency
        {
            let function = instance.function;
            self.demand[function].settle(self.now);
            let Some(invocation) = self.demand[function].waiting.pop_front() else { return };
            self.waiting -= 1;
            self.serve(id, invocation);
        }
    }

    fn ready(&mut self, id: u64) {
        let now = self.now;
        let Some(instance) = self.instances.get_mut(&id) else { return };
        instance.ready_ms = Some(now);
        instance.used_ms = now;
        self.changes.push(Change::Ready(id));
        self.offer(id);
    }

    fn done(&mut self, id: u64) {
        let now = self.now;
        let instance = self.instances.get_mut(&id).expect("it serves, so it is live");
        instance.change(now, instance.in_flight - 1);
        instance.completed += 1;
        instance.used_ms = now;
        instance.ended_busy_ms = instance.busy_ms;
        let (function, over) = (instance.function, instance.draining && instance.in_flight == 0);
        self.demand[function].settle(now);
        self.demand[function].in_flight -= 1;
        if over {
            self.end(id);
        } else {
            self.offer(id);
        }
    }
}

/// Replays a trace under a policy.
///
/// # Panics
/// Where the policy leaves invocations waiting for a day after the trace: it does not work.
pub fn replay(trace: &Trace, policy: &mut dyn Policy, nodes: u64) -> Measures {
    let mut fleet = Fleet::new(trace, nodes);
    let mut next = 0;
    let mut deciding = false;
    let mut next_tick = 0;
    fleet.at(next_tick, Event::Tick);
    loop {
        let arrival = trace.invocations.get(next).map_or(u64::MAX, |invocation| invocation.at_ms);
        let event = fleet.events.peek().map_or(u64::MAX, |Reverse((when, _, _))| *when);
        let over = fleet.measures.all_served() && arrival.min(event) > trace.end_ms;
        if over {
            break;
        }
        // Slots that become free at the moment of an arrival are free for it.
        if arrival < event {
            fleet.now = arrival;
            let waits = fleet.arrive(next);
            if waits && !deciding && policy.reacts(&fleet, trace.invocations[next].function) {
                deciding = true;
                fleet.at(arrival + REACTION_MS, Event::Decide);
            }
            next += 1;
            continue;
        }
        let Some(Reverse((when, _, event))) = fleet.events.pop() else { break };
        assert!(when < trace.end_ms + 86_400_000, "{} leaves {} waiting", policy.name(), fleet.waiting);
        fleet.now = when;
        match event {
            Event::Ready(id) => fleet.ready(id),
            Event::Done { instance } => fleet.done(instance),
            Event::Decide => {
                deciding = false;
                policy.decide(&mut fleet);
                // A tick that was set while nothing waited may be too late for those who wait now.
                let soon = when + policy.tick_ms(fleet.waiting > 0);
                if fleet.waiting > 0 && soon < next_tick {
                    next_tick = soon;
                    fleet.at(next_tick, Event::Tick);
                }
            }
            // Another took its place.
            Event::Tick if when != next_tick => {}
            Event::Tick => {
                policy.decide(&mut fleet);
                next_tick = when + policy.tick_ms(fleet.waiting > 0);
                fleet.at(next_tick, Event::Tick);
            }
        }
    }
    for instance in std::mem::take(&mut fleet.instances).values() {
        fleet.measures.ended(fleet.now.max(trace.end_ms), instance);
    }
    fleet.measures
}
