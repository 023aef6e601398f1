//! What is asked: functions and the moments of their invocations.
//!
//! A trace is a CSV file with a head. One row is one invocation:
//!
//! ```csv
//! function,at_ms,duration_ms,memory_mb,startup_ms,concurrency
//! resize,0,140,128,900,1
//! resize,1200000,133
//! ```
//!
//! `at_ms` counts from the begin of the trace, in any order. `memory_mb`, `startup_ms` and `concurrency`
//! describe the function; the first row that gives them counts, and without any they are 128, 1000 and 1.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    pub name: String,
    pub memory_mb: u32,
    /// From launch to ready.
    pub startup_ms: u64,
    pub concurrency: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Invocation {
    pub at_ms: u64,
    /// Its place in [`Trace::functions`].
    pub function: usize,
    pub duration_ms: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    pub name: String,
    pub functions: Vec<Function>,
    /// In order of time.
    pub invocations: Vec<Invocation>,
    /// Instance time counts up to here.
    pub end_ms: u64,
}

/// Names a function may have in a trace: those that Muster takes.
const HEAD: [&str; 6] = ["function", "at_ms", "duration_ms", "memory_mb", "startup_ms", "concurrency"];

impl Trace {
    /// Ends an hour after its last invocation.
    ///
    /// # Errors
    /// Where the text is no trace; the error names the line.
    pub fn parse(name: &str, text: &str) -> Result<Trace> {
        let mut lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
        let (_, head) = lines.next().context("the trace is empty")?;
        let head: Vec<&str> = head.split(',').map(str::trim).collect();
        let known = (3..=HEAD.len()).any(|count| head == HEAD[..count]);
        ensure!(known, "line 1 must be `{}`, of which the last three may be left out", HEAD.join(","));
        let mut trace = Trace { name: name.to_owned(), ..Trace::default() };
        let mut places = BTreeMap::new();
        for (number, line) in lines {
            trace.take(line, &mut places).with_context(|| format!("line {number}: `{line}`"))?;
        }
        trace.invocations.sort();
        trace.end_ms = trace.invocations.last().map_or(0, |last| last.at_ms) + 3_600_000;
        Ok(trace)
    }

    fn take(&mut self, line: &str, places: &mut BTreeMap<String, usize>) -> Result<()> {
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        let [name, at_ms, duration_ms, rest @ ..] = &fields[..] else { bail!("needs at least 3 fields") };
        ensure!(fields.len() <= HEAD.len(), "has more than {} fields", HEAD.len());
        let number = |place: usize, otherwise: u64| match rest.get(place) {
            None | Some(&"") => Ok(otherwise),
            Some(text) => text.parse().with_context(|| format!("`{}` must be a number", HEAD[place + 3])),
        };
        let function = match places.get(*name) {
            Some(place) => *place,
            None => {
                muster_core::ids::FunctionName::new(name).context("`function`")?;
                self.functions.push(Function {
                    name: (*name).to_owned(),
                    memory_mb: u32::try_from(number(0, 128)?).context("`memory_mb`")?,
                    startup_ms: number(1, 1000)?,
                    concurrency: u32::try_from(number(2, 1)?).context("`concurrency`")?,
                });
                places.insert((*name).to_owned(), self.functions.len() - 1);
                self.functions.len() - 1
            }
        };
        let at_ms = at_ms.parse().context("`at_ms` must be a number")?;
        let duration_ms = duration_ms.parse().context("`duration_ms` must be a number")?;
        self.invocations.push(Invocation { at_ms, function, duration_ms });
        Ok(())
    }
}
