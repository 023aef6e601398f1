//! Clocks for tests that are wrong on command.
//!
//! Preloaded (`LD_PRELOAD`) into a program, it stands before the C library's `clock_gettime`,
//! `gettimeofday` and `time`. What is told follows from the file named in `MUSTER_CLOCK_FILE`; without that
//! variable all clocks are right.
//!
//! * The wall clock is *shifted*, while monotonic clocks are left alone, as when someone sets a machine's
//!   clock.
//! * All clocks *drift*, as when a machine's oscillator is bad: they gain or lose so much in a million.
//!
//! The file, in the machine's order, has 8 bytes for each: the shift in nanoseconds; how often a shifted time
//! was told; how often one that had drifted; how many stretches of drift have ever begun; then 64 stretches,
//! the oldest of which is written over: since when (nanoseconds of the right monotonic clock), how far ahead
//! at its beginning (nanoseconds), the rate (in a million), and when clocks gain no more. The second and the
//! third are written here: so a test can tell that the fault was felt.

pub mod preload;
