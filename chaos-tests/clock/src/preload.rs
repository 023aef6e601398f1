//! The functions that take the place of the C library's, and the file they share with the test.
//!
//! All of the crate's `unsafe` is here: functions with C's calling convention that are given
//! pointers, and a mapped file. Nothing here allocates, locks or panics: it may be called anywhere.

#![expect(unsafe_code, reason = "C functions that write through pointers, and a mapped file")]

use std::ffi::{c_int, c_long, c_void};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicI64, AtomicPtr, AtomicU64, Ordering};

use libc::{clockid_t, time_t, timespec, timeval};

const FILE_VARIABLE: &std::ffi::CStr = c"MUSTER_CLOCK_FILE";
const SECOND_NS: i64 = 1_000_000_000;

/// Stretches of drift that are remembered: of older ones nobody is told a time any more.
const STRETCHES: usize = 64;
const MILLION: i64 = 1_000_000;

/// What the file holds.
#[repr(C)]
struct Shared {
    shift_ns: AtomicI64,
    shifted: AtomicU64,
    drifted: AtomicU64,
    /// Stretches ever begun. The last is at `(begun - 1) % STRETCHES`, and is written before it counts.
    begun: AtomicU64,
    stretches: [Stretch; STRETCHES],
}

/// From one time on, by the right monotonic clock, all clocks go at one rate.
#[repr(C)]
struct Stretch {
    since_ns: AtomicI64,
    /// How far ahead they are as it begins.
    ahead_ns: AtomicI64,
    /// How much they gain in a million.
    rate_ppm: AtomicI64,
    /// When they gain no more.
    until_ns: AtomicI64,
}

impl Stretch {
    /// How far ahead of the right time clocks are at `now_ns`; `None` before it has begun.
    fn ahead_ns(&self, now_ns: i64) -> Option<i64> {
        let since_ns = self.since_ns.load(Ordering::Relaxed);
        if now_ns < since_ns {
            return None;
        }
        let gaining_ns = now_ns.min(self.until_ns.load(Ordering::Relaxed)).saturating_sub(since_ns);
        let rate_ppm = self.rate_ppm.load(Ordering::Relaxed);
        // By parts: a product with a million would not fit for more than some hours.
        let gained_ns = (gaining_ns / MILLION)
            .saturating_mul(rate_ppm)
            .saturating_add((gaining_ns % MILLION).saturating_mul(rate_ppm) / MILLION);
        Some(self.ahead_ns.load(Ordering::Relaxed).saturating_add(gained_ns))
    }
}

/// Where it is mapped: null before the first look, dangling where there is none.
static SHARED: AtomicPtr<Shared> = AtomicPtr::new(ptr::null_mut());

/// `clock_gettime(2)`, with a wall clock that may be wrong, and clocks that may go too fast or too slowly.
///
/// # Safety
/// As for the system call, which does not trust the pointer: a bad one is answered with `EFAULT`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: clockid_t, time: *mut timespec) -> c_int {
    // SAFETY: the kernel checks the pointer, and answers before anything here looks behind it.
    let answer = unsafe { libc::syscall(libc::SYS_clock_gettime, c_long::from(clock), time) };
    let wall = matches!(clock, libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE);
    let monotonic = matches!(
        clock,
        libc::CLOCK_MONOTONIC
            | libc::CLOCK_MONOTONIC_COARSE
            | libc::CLOCK_MONOTONIC_RAW
            | libc::CLOCK_BOOTTIME
    );
    if answer == 0 && (wall || monotonic) {
        // SAFETY: the kernel has just written a time there.
        let time = unsafe { &mut *time };
        *time = told(*time, wall);
    }
    if answer == 0 { 0 } else { -1 }
}

/// `gettimeofday(2)`, by the same clock.
///
/// # Safety
/// `time` is null or may be written to. The time zone was never of use, and is not set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gettimeofday(time: *mut timeval, _zone: *mut c_void) -> c_int {
    let mut now = timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it is given a place of its own.
    let answer = unsafe { clock_gettime(libc::CLOCK_REALTIME, &raw mut now) };
    if let Some(mut time) = NonNull::new(time).filter(|_| answer == 0) {
        // SAFETY: what the caller promises.
        *unsafe { time.as_mut() } = timeval { tv_sec: now.tv_sec, tv_usec: now.tv_nsec / 1_000 };
    }
    answer
}

/// `time(2)`, by the same clock.
///
/// # Safety
/// `time` is null or may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn time(time: *mut time_t) -> time_t {
    let mut now = timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it is given a place of its own.
    let answer = unsafe { clock_gettime(libc::CLOCK_REALTIME, &raw mut now) };
    let seconds = if answer == 0 { now.tv_sec } else { -1 };
    if let Some(mut time) = NonNull::new(time) {
        // SAFETY: what the caller promises.
        *unsafe { time.as_mut() } = seconds;
    }
    seconds
}

/// What is told where it is really `time`.
fn told(time: timespec, wall: bool) -> timespec {
    let Some(shared) = shared() else { return time };
    let shift_ns = if wall { shared.shift_ns.load(Ordering::Relaxed) } else { 0 };
    if shift_ns != 0 {
        shared.shifted.fetch_add(1, Ordering::Relaxed);
    }
    let ahead_ns = ahead_ns(shared, time, wall);
    if ahead_ns != 0 {
        shared.drifted.fetch_add(1, Ordering::Relaxed);
    }
    if shift_ns == 0 && ahead_ns == 0 {
        return time;
    }
    // Before 1970, or before the machine was started, nobody has a clock.
    let told = nanoseconds(time).saturating_add(shift_ns).saturating_add(ahead_ns).max(0);
    timespec { tv_sec: told / SECOND_NS, tv_nsec: told % SECOND_NS }
}

/// How far ahead all clocks are.
fn ahead_ns(shared: &Shared, time: timespec, wall: bool) -> i64 {
    let begun = shared.begun.load(Ordering::Acquire);
    if begun == 0 {
        return 0;
    }
    let now_ns = match wall {
        false => nanoseconds(time),
        true => {
            let mut now = timespec { tv_sec: 0, tv_nsec: 0 };
            let monotonic = c_long::from(libc::CLOCK_MONOTONIC);
            // SAFETY: it is given a place of its own.
            let answer = unsafe { libc::syscall(libc::SYS_clock_gettime, monotonic, &raw mut now) };
            if answer != 0 {
                return 0;
            }
            nanoseconds(now)
        }
    };
    // Each is written a moment before it begins, so that no clock is ever set back; in that moment more may be.
    let stretch = |number: u64| {
        let place = usize::try_from(number % STRETCHES as u64).ok()?;
        shared.stretches.get(place)?.ahead_ns(now_ns)
    };
    (begun.saturating_sub(STRETCHES as u64)..begun).rev().find_map(stretch).unwrap_or(0)
}

fn nanoseconds(time: timespec) -> i64 {
    time.tv_sec.saturating_mul(SECOND_NS).saturating_add(time.tv_nsec)
}

fn shared() -> Option<&'static Shared> {
    let mut mapped = SHARED.load(Ordering::Acquire);
    if mapped.is_null() {
        // Two threads may both map it: they see the same.
        mapped = map().unwrap_or(ptr::dangling_mut());
        SHARED.store(mapped, Ordering::Release);
    }
    if mapped == ptr::dangling_mut() {
        return None;
    }
    // SAFETY: `map` gave it: it is mapped for good, is large enough, and has atomics alone.
    Some(unsafe { &*mapped })
}

/// Maps the file; none where there is no file of the right size.
fn map() -> Option<*mut Shared> {
    // SAFETY: the name and the path are C strings; the file is checked to be as long as what is
    // mapped; the descriptor is closed once, and the mapping stays without it.
    unsafe {
        let path = libc::getenv(FILE_VARIABLE.as_ptr());
        if path.is_null() {
            return None;
        }
        let file = libc::open(path, libc::O_RDWR | libc::O_CLOEXEC);
        if file < 0 {
            return None;
        }
        let bytes = size_of::<Shared>();
        let long_enough = usize::try_from(libc::lseek(file, 0, libc::SEEK_END)).is_ok_and(|end| end >= bytes);
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        let mapped = match long_enough {
            true => libc::mmap(ptr::null_mut(), bytes, rights, libc::MAP_SHARED, file, 0),
            false => libc::MAP_FAILED,
        };
        libc::close(file);
        (mapped != libc::MAP_FAILED).then_some(mapped.cast())
    }
}
