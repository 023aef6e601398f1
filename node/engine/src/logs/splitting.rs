//! Lines out of a stream of bytes.

use super::{LINE_MAX, Line, Nanos, Stream};

/// One stream's unfinished line.
#[derive(Debug)]
pub(crate) struct Splitter {
    stream: Stream,
    partial: Vec<u8>,
}

impl Splitter {
    pub(crate) fn new(stream: Stream) -> Self {
        Splitter { stream, partial: Vec::new() }
    }

    /// The lines that `chunk` completes. `last` is the time of the instance's latest line.
    pub(crate) fn push(&mut self, chunk: &[u8], last: &mut Nanos) -> Vec<Line> {
        let mut lines = Vec::new();
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            let mut text = text;
            while self.partial.len() + text.len() > LINE_MAX {
                let (now, later) = text.split_at(LINE_MAX - self.partial.len());
                self.partial.extend_from_slice(now);
                text = later;
                lines.push(self.take(last));
            }
            self.partial.extend_from_slice(text);
            if ends {
                lines.push(self.take(last));
            }
        }
        lines
    }

    /// What was written without an end.
    pub(crate) fn rest(&mut self, last: &mut Nanos) -> Option<Line> {
        (!self.partial.is_empty()).then(|| self.take(last))
    }

    fn take(&mut self, last: &mut Nanos) -> Line {
        // Strictly later than the one before, so that a reader can go on after the last line it saw.
        let at = Nanos::now().max(Nanos(last.0 + 1));
        *last = at;
        Line { at, stream: self.stream, text: std::mem::take(&mut self.partial) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_by_the_chunks_they_come_in() {
        let long = "x".repeat(LINE_MAX);
        let longer = format!("{long}yz\n");
        for (chunks, want) in [
            (&["a\nb\n"][..], &["a", "b"][..]),
            (&["a", "b\nc"], &["ab", "c"]),
            (&["\n\n"], &["", ""]),
            (&["a\r\n"], &["a\r"]),
            (&[&longer], &[&long, "yz"]),
            (&[&long, "\n"], &[&long]),
            (&[], &[]),
        ] {
            let mut splitter = Splitter::new(Stream::Stdout);
            let mut last = Nanos(0);
            let mut lines: Vec<Line> =
                chunks.iter().flat_map(|chunk| splitter.push(chunk.as_bytes(), &mut last)).collect();
            lines.extend(splitter.rest(&mut last));
            let texts: Vec<_> = lines.iter().map(|line| String::from_utf8_lossy(&line.text)).collect();
            assert_eq!(texts, want);
            assert!(lines.is_sorted_by(|one, two| one.at < two.at), "{lines:?}");
        }
    }
}
