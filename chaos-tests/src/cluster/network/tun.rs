//! A TUN device: the file from which the packets that leave through a network interface are read, and
//! to which those that arrive there are written. The device goes with the file.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use nix::libc;

const PATH: &str = "/dev/net/tun";

/// Makes the device `name` in the calling thread's network namespace. Reads of the file do not block.
/// A name that is taken is refused with `ResourceBusy`, so that the maker of two is one alone.
pub(super) fn open(name: &str) -> io::Result<File> {
    let file = File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(PATH)?;
    attach(&file, name)?;
    Ok(file)
}

/// Why there can be no such device here, if there can be none.
pub(super) fn unfit() -> Option<String> {
    File::options()
        .read(true)
        .write(true)
        .open(PATH)
        .err()
        .map(|error| format!("cannot open {PATH}: {error}"))
}

#[expect(unsafe_code, reason = "the device is made by an ioctl, for which there is no checked call")]
fn attach(file: &File, name: &str) -> io::Result<()> {
    let mut ifr_name = [0; libc::IFNAMSIZ];
    // The last byte stays: it ends the name.
    if !name.is_ascii() || name.len() >= ifr_name.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no name of a device"));
    }
    for (to, from) in ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    // Packets alone, without a header that tells their protocol: they begin with their version.
    let flags = i16::try_from(libc::IFF_TUN | libc::IFF_NO_PI).expect("two low bits");
    let request = libc::ifreq { ifr_name, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags } };
    // SAFETY: the kernel reads one `ifreq` from the pointer during the call and keeps none of it; the
    // name in it ends with a zero byte, and the descriptor is open for as long as `file` is.
    let made = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw const request) };
    if made < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
