//! The time and the randomness that this process gets from its system, replaced on the simulation's
//! thread by its own.
//!
//! The C library's functions are defined here under their own names, so the linker takes these for
//! everyone in the process: the standard library (`Instant`, `SystemTime`, the keys of `HashMap`),
//! tokio's `select!`, `getrandom` and `rand`. Off the simulation's thread they pass on to the real
//! ones.

#![expect(unsafe_code, reason = "symbols of the C library can only be replaced by unsafe ones")]

use std::cell::Cell;
use std::ffi::CStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use libc::{c_int, c_long, c_uint, c_void, clockid_t, size_t, ssize_t, timespec};

thread_local! {
    static TAKEN: Cell<bool> = const { Cell::new(false) };
    static MONOTONIC: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    static WALL: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    static RANDOM: Cell<u64> = const { Cell::new(0) };
}

/// From now on this thread has the simulation's time, and randomness that follows from the seed.
pub fn take_over(seed: u64) {
    RANDOM.set(seed ^ 0x6d75_7374_6572_7369);
    TAKEN.set(true);
}

/// Sets the time that this thread sees.
pub fn set_time(monotonic: Duration, wall: Duration) {
    MONOTONIC.set(monotonic);
    WALL.set(wall);
}

/// The next of the seed's numbers (splitmix64, by Steele, Lea and Flood).
fn next() -> u64 {
    let state = RANDOM.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
    RANDOM.set(state);
    let mut mixed = state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// # Safety
/// As of getrandom(2): `buffer` is valid for `length` bytes.
unsafe fn fill(buffer: *mut c_void, length: size_t) {
    let mut number = [0; 8];
    for at in 0..length {
        if at % 8 == 0 {
            number = next().to_le_bytes();
        }
        // SAFETY: `at` is below the length that the caller vouches for.
        unsafe { buffer.cast::<u8>().add(at).write(number[at % 8]) };
    }
}

/// The C library's own function under a name that is defined here.
fn real(cache: &AtomicUsize, name: &CStr) -> usize {
    let known = cache.load(Ordering::Relaxed);
    if known != 0 {
        return known;
    }
    // SAFETY: the name is a C string; looking a symbol up has no other precondition.
    let found = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) } as usize;
    assert!(found != 0, "the C library has the function");
    cache.store(found, Ordering::Relaxed);
    found
}

type ClockGettime = unsafe extern "C" fn(clockid_t, *mut timespec) -> c_int;
type Getrandom = unsafe extern "C" fn(*mut c_void, size_t, c_uint) -> ssize_t;
type Syscall = unsafe extern "C" fn(c_long, c_long, c_long, c_long, c_long, c_long, c_long) -> c_long;

/// # Safety
/// As of clock_gettime(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: clockid_t, into: *mut timespec) -> c_int {
    static REAL: AtomicUsize = AtomicUsize::new(0);
    if !TAKEN.get() {
        // SAFETY: this is the symbol's type, and the caller keeps its contract.
        return unsafe {
            let real = std::mem::transmute::<usize, ClockGettime>(real(&REAL, c"clock_gettime"));
            real(clock, into)
        };
    }
    let wall = matches!(clock, libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE);
    let time = if wall { WALL.get() } else { MONOTONIC.get() };
    let seconds = time.as_secs().try_into().expect("a simulation ends before time does");
    let time = timespec { tv_sec: seconds, tv_nsec: time.subsec_nanos().into() };
    // SAFETY: the caller gives a pointer that is valid for writes.
    unsafe { into.write(time) };
    0
}

/// # Safety
/// As of getrandom(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut c_void, length: size_t, flags: c_uint) -> ssize_t {
    static REAL: AtomicUsize = AtomicUsize::new(0);
    if !TAKEN.get() {
        // SAFETY: this is the symbol's type, and the caller keeps its contract.
        return unsafe {
            let real = std::mem::transmute::<usize, Getrandom>(real(&REAL, c"getrandom"));
            real(buffer, length, flags)
        };
    }
    // SAFETY: the caller's buffer is that long.
    unsafe { fill(buffer, length) };
    ssize_t::try_from(length).expect("no buffer is longer than half of the memory")
}

/// Variadic in C; on every Linux ABI its arguments are passed as these are.
///
/// # Safety
/// As of syscall(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn syscall(
    number: c_long,
    a: c_long,
    b: c_long,
    c: c_long,
    d: c_long,
    e: c_long,
    f: c_long,
) -> c_long {
    static REAL: AtomicUsize = AtomicUsize::new(0);
    if number == libc::SYS_getrandom && TAKEN.get() {
        let length = size_t::try_from(b).expect("a length is not negative");
        // SAFETY: the caller's buffer is that long.
        unsafe { fill(a as *mut c_void, length) };
        return b;
    }
    // SAFETY: this is how its arguments are passed, and the caller keeps its contract.
    unsafe {
        let real = std::mem::transmute::<usize, Syscall>(real(&REAL, c"syscall"));
        real(number, a, b, c, d, e, f)
    }
}
