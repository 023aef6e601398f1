//! The end of what an instance wrote, bounded: output is read so that a writer never blocks, and most
//! of it is forgotten.

use std::collections::VecDeque;

use crate::instance::LAST_OUTPUT_MAX;

/// How many of the last lines tell why a program ended: a panic message and the hint below it.
const LAST_LINES: usize = 3;

/// The last `limit` bytes of a stream.
#[derive(Debug)]
pub(crate) struct Tail {
    bytes: VecDeque<u8>,
    limit: usize,
}

impl Tail {
    pub(crate) fn new(limit: usize) -> Self {
        Tail { bytes: VecDeque::new(), limit }
    }

    pub(crate) fn push(&mut self, chunk: &[u8]) {
        let chunk = &chunk[chunk.len().saturating_sub(self.limit)..];
        let surplus = (self.bytes.len() + chunk.len()).saturating_sub(self.limit);
        self.bytes.drain(..surplus);
        self.bytes.extend(chunk);
    }

    pub(crate) fn to_vec(&self) -> Vec<u8> {
        self.bytes.iter().copied().collect()
    }

    /// The last lines as text fit for a terminal or a log line, at most [`LAST_OUTPUT_MAX`] bytes.
    pub(crate) fn last_lines(&self) -> String {
        let text = String::from_utf8_lossy(&self.to_vec()).into_owned();
        let mut lines: Vec<String> = text
            .lines()
            .rev()
            .map(|line| line.trim().chars().filter(|c| !c.is_control()).collect::<String>())
            .filter(|line| !line.is_empty())
            .take(LAST_LINES)
            .collect();
        lines.reverse();
        end_of(&lines.join("\n"), LAST_OUTPUT_MAX).to_owned()
    }
}

/// The last `max` bytes of `text`, or a little less so as not to cut a character.
fn end_of(text: &str, max: usize) -> &str {
    let from = text.len().saturating_sub(max);
    let from = (from..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    &text[from..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_is_kept() {
        for (chunks, kept) in [
            (&["ab", "c"][..], "abc"),
            (&["abcd", "e"][..], "bcde"),
            (&["abcdefgh"][..], "efgh"),
            (&["", "abcd", ""][..], "abcd"),
            (&["abc", "defghij"][..], "ghij"),
        ] {
            let mut tail = Tail::new(4);
            chunks.iter().for_each(|chunk| tail.push(chunk.as_bytes()));
            assert_eq!(tail.to_vec(), kept.as_bytes(), "{chunks:?}");
        }
    }

    #[test]
    fn last_lines_are_short_and_printable() {
        let long = "é".repeat(400);
        for (output, lines) in [
            ("", ""),
            ("one\n", "one"),
            ("one\ntwo\nthree\nfour\n\n", "two\nthree\nfour"),
            ("\u{1b}[31mred\u{7}\r\n", "[31mred"),
            (&long, &"é".repeat(256)),
        ] {
            let mut tail = Tail::new(crate::OUTPUT_MAX);
            tail.push(output.as_bytes());
            assert_eq!(tail.last_lines(), lines);
        }
    }
}
