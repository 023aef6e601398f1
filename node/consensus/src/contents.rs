//! What a snapshot holds, and how it is encoded: bit by bit, never in memory as a whole.

use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};

use muster_core::ClusterState;
use muster_storage::codec::{self, CodecError};

use crate::digest::Digest;
use crate::formats;

/// The newest format of a snapshot's data. History:
/// * 1, 2026-11: the state;
/// * 2, 2026-11: the digest of what was applied, if it is known, then the state, which ends with the
///   nodes' stores;
/// * 3, 2026-11: the state goes on with the authority's seed, with who may join and who is to go, with what the
///   ledger has rolled up, and with the functions' habits;
/// * 4, 2026-11: the state ends with the cluster version, and is of version 2 at least, and with the packages;
/// * 5, 2026-11: behind the format byte, one Zstandard frame of what format 4 is as a whole.
pub(crate) const DATA_FORMAT: u8 = 5;
pub(crate) const UNCOMPRESSED: u8 = 4;
pub(crate) const WITHOUT_VERSION: u8 = 3;
const WITHOUT_MEMBERS: u8 = 2;
const WITHOUT_STORES: u8 = 1;
/// Those that are read.
pub(crate) const KNOWN: [u8; 5] =
    [WITHOUT_STORES, WITHOUT_MEMBERS, WITHOUT_VERSION, UNCOMPRESSED, DATA_FORMAT];

/// The fields that the state has got since: empty, all of them are zeros.
const EMPTY_SINCE_THIRD: [u8; 2] = [0; 2];
const EMPTY_SINCE_SECOND: [u8; 13] = [0; 13];
const EMPTY_SINCE_FIRST: [u8; 14] = [0; 14];

/// The fastest of Zstandard's ordinary levels: a large ledger comes to a third of its size (`fill` of the benchmarks
/// prints how far, and in which time). At level 3 it took over three times as long, for a hundredth less.
const LEVEL: i32 = 1;
/// What a frame may make its reader keep, as a power of two: 8 MiB, far above the 512 KiB of that level.
const WINDOW_LOG_MAX: u32 = 23;

/// Bytes handed on at once.
pub(crate) const SLICE_BYTES: usize = 128 << 10;

#[derive(Clone, Debug, Default)]
pub(crate) struct Contents {
    pub(crate) state: ClusterState,
    /// Absent in a snapshot of format 1, and in what was built on one.
    pub(crate) digest: Option<Digest>,
}

impl Contents {
    /// Encodes them, in the format of the state's version, and gives them to `sink` in slices; the sink's error
    /// ends it.
    pub(crate) fn encode(&self, sink: impl FnMut(Vec<u8>) -> io::Result<()>) -> Result<(), CodecError> {
        let format = formats::of(self.state.version.get()).snapshot;
        let mut slices = Slices { slice: Vec::with_capacity(SLICE_BYTES), sink };
        let whole = (self.digest, &self.state);
        match format {
            DATA_FORMAT => {
                slices.write_all(&[format]).map_err(CodecError::Sink)?;
                let mut frame = zstd::Encoder::new(&mut slices, LEVEL).map_err(CodecError::Sink)?;
                frame.include_checksum(true).map_err(CodecError::Sink)?;
                // What is encoded comes number by number, which is much asking of a compressor.
                let mut gathered = BufWriter::with_capacity(SLICE_BYTES, frame);
                codec::encode_to(UNCOMPRESSED, &whole, &mut gathered)?;
                let frame = gathered.into_inner().map_err(|error| CodecError::Sink(error.into_error()))?;
                frame.finish().map_err(CodecError::Sink)?;
            }
            UNCOMPRESSED => codec::encode_to(format, &whole, &mut slices)?,
            WITHOUT_VERSION => {
                let mut shortened = Shortened { into: &mut slices, end: Vec::new() };
                codec::encode_to(format, &whole, &mut shortened)?;
                shortened.finish();
            }
            unknown => unreachable!("no version is written in format {unknown}"),
        }
        slices.flush().map_err(CodecError::Sink)
    }

    /// Decodes what a reader has, to its end.
    pub(crate) fn decode(reader: impl Read) -> Result<Contents, CodecError> {
        let mut reader = BufReader::with_capacity(SLICE_BYTES, reader);
        let (digest, state) = match codec::read_format::<ClusterState>(&KNOWN, &mut reader)? {
            WITHOUT_STORES => (None, codec::decode_from(&mut reader.chain(&EMPTY_SINCE_FIRST[..]))?),
            WITHOUT_MEMBERS => codec::decode_from(&mut reader.chain(&EMPTY_SINCE_SECOND[..]))?,
            WITHOUT_VERSION => codec::decode_from(&mut reader.chain(&EMPTY_SINCE_THIRD[..]))?,
            UNCOMPRESSED => codec::decode_from(&mut reader)?,
            _ => {
                let mut content = BufReader::with_capacity(SLICE_BYTES, Frame::of(reader)?);
                codec::read_format::<ClusterState>(&[UNCOMPRESSED], &mut content)?;
                let whole = codec::decode_from(&mut content)?;
                content.into_inner().finish()?;
                whole
            }
        };
        Ok(Contents { state, digest })
    }
}

/// Leaves out what the third format ends before: fields that are empty for as long as its version is in effect,
/// since what fills them is a command of a later one.
struct Shortened<'a, W> {
    into: &'a mut W,
    end: Vec<u8>,
}

impl<W> Shortened<'_, W> {
    /// # Panics
    /// Where what is left out is not empty: an older release would lose it.
    fn finish(self) {
        assert_eq!(self.end, EMPTY_SINCE_THIRD, "a state has more in it than its version knows");
    }
}

impl<W: Write> Write for Shortened<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.end.extend_from_slice(bytes);
        let sure = self.end.len().saturating_sub(EMPTY_SINCE_THIRD.len());
        self.into.write_all(&self.end[..sure])?;
        self.end.drain(..sure);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.into.flush()
    }
}

/// What is in a Zstandard frame.
struct Frame<R: BufRead>(zstd::Decoder<'static, R>);

impl<R: BufRead> Frame<R> {
    fn of(reader: R) -> Result<Self, CodecError> {
        let mut decoder = zstd::Decoder::with_buffer(reader).map_err(CodecError::Source)?.single_frame();
        decoder.window_log_max(WINDOW_LOG_MAX).map_err(CodecError::Source)?;
        Ok(Frame(decoder))
    }

    /// Nothing may come behind the frame.
    fn finish(self) -> Result<(), CodecError> {
        match self.0.finish().bytes().next() {
            None => Ok(()),
            Some(Ok(_)) => Err(CodecError::TrailingBytes { of: "compressed state", extra: 1 }),
            Some(Err(error)) => Err(CodecError::Source(error)),
        }
    }
}

impl<R: BufRead> Read for Frame<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        // An end within the frame must not pass for that of its content.
        self.0.read(into).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => io::Error::new(io::ErrorKind::InvalidData, error),
            _ => error,
        })
    }
}

/// Cuts what is written into slices.
struct Slices<F> {
    slice: Vec<u8>,
    sink: F,
}

impl<F: FnMut(Vec<u8>) -> io::Result<()>> Write for Slices<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(SLICE_BYTES - self.slice.len());
        self.slice.extend_from_slice(&bytes[..count]);
        if self.slice.len() == SLICE_BYTES {
            (self.sink)(std::mem::replace(&mut self.slice, Vec::with_capacity(SLICE_BYTES)))?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.slice.is_empty() { Ok(()) } else { (self.sink)(std::mem::take(&mut self.slice)) }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use muster_core::ids::{AccountName, FunctionName, Incarnation, InstanceId, NodeId};
    use muster_core::ledger::{self, Usage, UsageRow};
    use muster_core::units::{Hour, Timestamp};
    use muster_core::version::{self, SUPPORTED, Version};
    use muster_core::{Command, Entry, ProposalId};

    use super::*;

    /// An account that has used functions for some hours.
    pub(crate) fn used(rows: u64) -> ClusterState {
        let mut state = ClusterState::default();
        let row = |number: u64| UsageRow {
            account: AccountName::new("alice").expect("a valid name"),
            function: FunctionName::new(&format!("f{}", number % 10)).expect("a valid name"),
            instance: InstanceId(number),
            hour: Hour(400_000 + u32::try_from(number / 10).expect("few hours")),
            usage: Usage { invocations: number, busy_ms: number << 20, ..Usage::default() },
        };
        let batches = (0..rows).map(row).collect::<Vec<_>>();
        for (batch, rows) in (1..).zip(batches.chunks(100)) {
            let (node, incarnation, rows) = (NodeId(1), Incarnation(1), rows.to_vec());
            let command = ledger::Command::RecordUsage { node, incarnation, batch, rows };
            let proposal = ProposalId { node, incarnation, sequence: batch };
            let at = Timestamp(1_440_000_000_000 + batch);
            state.apply(&Entry { at, proposal, commands: vec![Command::Ledger(command)] });
        }
        state
    }

    /// The same at a later version.
    pub(crate) fn raised(mut state: ClusterState, version: Version) -> ClusterState {
        let proposal = ProposalId { node: NodeId(9), incarnation: Incarnation(1), sequence: 1 };
        let command = version::Command::Begin { version };
        state.apply(&Entry { at: state.clock, proposal, commands: vec![Command::Version(command)] });
        assert_eq!(state.version.get(), version);
        state
    }

    /// As it is in the frame of the newest format.
    fn uncompressed(contents: &Contents) -> Vec<u8> {
        codec::encode(UNCOMPRESSED, &(contents.digest, &contents.state)).expect("plain data")
    }

    #[test]
    fn what_comes_in_slices_is_what_comes_as_a_whole() {
        let contents = Contents { state: raised(used(20_000), Version(2)), digest: Some(Digest::default()) };
        let bytes = encoded(&contents);
        assert!(bytes.len() > 3 * SLICE_BYTES, "{} bytes are no test", bytes.len());
        assert_eq!(bytes, uncompressed(&contents));
        // Whatever pieces it is read in.
        for piece in [1, 7, 5_116, SLICE_BYTES, usize::MAX] {
            let decoded = Contents::decode(Pieces(&bytes, piece)).expect("what was just encoded");
            assert_eq!((&decoded.state, decoded.digest), (&contents.state, contents.digest), "{piece}");
        }
    }

    #[test]
    fn a_compressed_state_is_the_same_and_much_smaller() {
        let contents = Contents { state: raised(used(50_000), SUPPORTED.newest), digest: None };
        let (bytes, plain) = (encoded(&contents), uncompressed(&contents));
        assert!(bytes.len() > 2 * SLICE_BYTES, "{} bytes are no test", bytes.len());
        assert!(
            3 * bytes.len() < 2 * plain.len(),
            "{} bytes are not much less than {}",
            bytes.len(),
            plain.len()
        );
        assert_eq!(zstd::decode_all(&bytes[1..]).expect("a frame"), plain);
        for piece in [1, 5_116, usize::MAX] {
            let decoded = Contents::decode(Pieces(&bytes, piece)).expect("what was just encoded");
            assert_eq!((&decoded.state, decoded.digest), (&contents.state, contents.digest), "{piece}");
        }
    }

    #[test]
    fn a_frame_that_is_cut_off_changed_or_goes_on_is_refused() {
        let state = raised(used(150), SUPPORTED.newest);
        let bytes = encoded(&Contents { state, digest: Some(Digest::default()) });
        // The last four bytes are the checksum of what all before has told.
        for end in (1..bytes.len() - 1).rev().take(40).chain([1, 2, 9]) {
            let error = Contents::decode(&bytes[..end]).expect_err("it is cut off");
            let told = matches!(error, CodecError::Decode { .. } | CodecError::Empty { .. });
            assert!(told, "{end} bytes: {error:?}");
        }
        for at in [bytes.len() - 1, bytes.len() / 2] {
            let mut changed = bytes.clone();
            changed[at] ^= 4;
            Contents::decode(&changed[..]).expect_err("it is changed");
        }
        let frame = &bytes[1..];
        for (behind, named) in [(&[0][..], "followed by"), (frame, "followed by")] {
            let error = Contents::decode(&[&bytes, behind].concat()[..]).expect_err("more comes").to_string();
            assert!(error.contains(named), "{error}");
        }
        // A frame in a frame is no state: nobody is led on for ever.
        let within = zstd::encode_all(&bytes[..], 1).expect("memory");
        let error = Contents::decode(&[&[DATA_FORMAT], &within[..]].concat()[..]).expect_err("it is none");
        assert!(matches!(error, CodecError::UnknownFormat { found: DATA_FORMAT, .. }), "{error:?}");
    }

    /// Hands out at most so many bytes at once.
    struct Pieces<'a>(&'a [u8], usize);

    impl Read for Pieces<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let count = into.len().min(self.1);
            self.0.read(&mut into[..count])
        }
    }

    /// Byte for byte as they are on disks. `UPDATE_GOLDEN=1` writes the newest format's file anew.
    #[test]
    fn stored_snapshots_are_read_as_ever() {
        let old = Contents { state: used(150), digest: Some(Digest::default()) };
        let second = Contents { state: raised(used(150), Version(2)), ..old.clone() };
        let new = Contents { state: raised(used(150), SUPPORTED.newest), ..old.clone() };
        let path = |format| {
            let name = format!("tests/golden/snapshot_data.v{format}.hex");
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
        };
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            let mut hex = String::new();
            for line in encoded(&new).chunks(32) {
                line.iter().for_each(|byte| hex.push_str(&format!("{byte:02x}")));
                hex.push('\n');
            }
            std::fs::write(path(DATA_FORMAT), hex).expect("the file can be written");
        }
        for (format, contents, is_written) in [
            (WITHOUT_MEMBERS, &old, false),
            (WITHOUT_VERSION, &old, true),
            (UNCOMPRESSED, &second, true),
            (DATA_FORMAT, &new, true),
        ] {
            let text = std::fs::read_to_string(path(format)).expect("a golden file");
            let text = text.replace(char::is_whitespace, "");
            let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal");
            let golden: Vec<u8> = (0..text.len()).step_by(2).map(byte).collect();
            assert_eq!(golden[0], format);
            let decoded = Contents::decode(&golden[..]).expect("a format that was in use");
            assert_eq!(
                (&decoded.state, decoded.digest),
                (&contents.state, contents.digest),
                "format {format}"
            );
            assert!(!is_written || golden == encoded(contents), "format {format} is encoded differently");
        }
    }

    fn encoded(contents: &Contents) -> Vec<u8> {
        let mut bytes = Vec::new();
        contents
            .encode(|slice| {
                bytes.extend(slice);
                Ok(())
            })
            .expect("plain data");
        bytes
    }

    #[test]
    fn a_snapshot_without_a_digest_is_read_and_stays_without() {
        let mut state = ClusterState::default();
        state.clock = Timestamp(7);
        for digest in [None, Some(Digest::default())] {
            let bytes = encoded(&Contents { state: state.clone(), digest });
            let decoded = Contents::decode(&bytes[..]).expect("what was just encoded");
            assert_eq!((decoded.state, decoded.digest), (state.clone(), digest));
        }
    }

    #[test]
    fn snapshots_of_every_format_are_read_and_no_others() {
        let mut state = ClusterState::default();
        state.clock = Timestamp(7);
        let whole = codec::encode(UNCOMPRESSED, &(Some(Digest::default()), &state)).expect("plain data");
        let frame = [&[DATA_FORMAT], &zstd::encode_all(&whole[..], LEVEL).expect("memory")[..]].concat();
        // What older formats lack at the end, and format 1, too, at the beginning.
        let third = [&[WITHOUT_VERSION], &whole[1..whole.len() - EMPTY_SINCE_THIRD.len()]].concat();
        assert_eq!(third, encoded(&Contents { state: state.clone(), digest: Some(Digest::default()) }));
        let (second, zeros) = whole.split_at(whole.len() - EMPTY_SINCE_SECOND.len());
        assert_eq!(zeros, EMPTY_SINCE_SECOND);
        let second = [&[WITHOUT_MEMBERS], &second[1..]].concat();
        let first = codec::encode(WITHOUT_STORES, &state).expect("plain data");
        let (first, zeros) = first.split_at(first.len() - EMPTY_SINCE_FIRST.len());
        assert_eq!(zeros, EMPTY_SINCE_FIRST);
        for (bytes, digest) in [
            (first, None),
            (&second, Some(Digest::default())),
            (&third, Some(Digest::default())),
            (&whole, Some(Digest::default())),
            (&frame, Some(Digest::default())),
        ] {
            let decoded = Contents::decode(bytes).expect("a format that was in use");
            assert_eq!((decoded.state, decoded.digest), (state.clone(), digest), "format {}", bytes[0]);
        }
        let trailing = [&whole[..], &[0]].concat();
        for (bytes, named) in [
            (&[9, 0][..], "format 9"),
            (&[][..], "is empty"),
            (&whole[..9], "decode"),
            (&trailing, "followed by"),
        ] {
            let error = Contents::decode(bytes).expect_err("it is refused").to_string();
            assert!(error.contains(named), "{bytes:?}: {error}");
        }
    }

    #[test]
    #[should_panic(expected = "more in it than its version knows")]
    fn nothing_is_left_out_that_is_not_empty() {
        let mut written = Vec::new();
        let mut shortened = Shortened { into: &mut written, end: Vec::new() };
        shortened.write_all(&[1, 2, 3, 0, 7]).expect("memory");
        shortened.finish();
    }

    #[test]
    fn slices_are_of_one_size_and_a_failing_sink_ends_it() {
        let mut sizes = Vec::new();
        let mut slices = Slices {
            slice: Vec::new(),
            sink: |slice: Vec<u8>| {
                sizes.push(slice.len());
                if sizes.len() < 3 { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
            },
        };
        slices.write_all(&vec![7; 2 * SLICE_BYTES + 1]).expect("two slices");
        slices.flush().expect_err("the third");
        assert_eq!(sizes, [SLICE_BYTES, SLICE_BYTES, 1]);
    }
}
