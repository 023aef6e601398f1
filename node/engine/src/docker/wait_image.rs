//! The image of the containers that hold a network namespace: one program that waits. No registry has to
//! be asked for it: the program is a dozen bytes, and the image is made of it in memory.

use bollard::Docker;
use bollard::query_parameters::CreateImageOptionsBuilder;
use bytes::Bytes;
use futures_util::TryStreamExt;

use super::{READ_DEADLINE, docker_status, within};
use crate::EngineError;

/// The number is raised with every change of the image.
pub(super) const IMAGE: &str = "muster-wait:1";
const REPOSITORY: &str = "muster-wait";
const TAG: &str = "1";
pub(super) const PROGRAM: &str = "/wait";

/// Calls `pause` for ever.
const CODE_X86_64: &[u8] = &[
    0xb8, 0x22, 0x00, 0x00, 0x00, // mov eax, 34 (pause)
    0x0f, 0x05, // syscall
    0xeb, 0xf7, // jmp to the first
];
const MACHINE_X86_64: u16 = 62;
/// Where the program is in memory: where linkers put it too.
const BASE: u64 = 0x40_0000;
const FILE_HEADER_BYTES: u16 = 64;
const SEGMENT_HEADER_BYTES: u16 = 56;

/// Whether there is a program for this host.
pub(super) fn is_available(architecture: Option<&str>) -> bool {
    architecture == Some("amd64")
}

/// Gives Docker the image unless it has it.
pub(super) async fn ensure(docker: &Docker) -> Result<(), EngineError> {
    match within("inspect the image", READ_DEADLINE, docker.inspect_image(IMAGE)).await {
        Err(error) if docker_status(&error) == Some(404) => {}
        found => return found.map(drop),
    }
    let archive = archive().map_err(|error| EngineError::Refused {
        operation: "make the image of a waiting container",
        source: error.into(),
    })?;
    let options = CreateImageOptionsBuilder::new().from_src("-").repo(REPOSITORY).tag(TAG).build();
    let body = bollard::body_full(Bytes::from(archive));
    let made = docker.create_image(Some(options), Some(body), None).try_collect::<Vec<_>>();
    within("import the image of a waiting container", READ_DEADLINE, made).await.map(drop)
}

/// Its file system.
fn archive() -> std::io::Result<Vec<u8>> {
    let program = elf(MACHINE_X86_64, CODE_X86_64);
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(program.len() as u64);
    header.set_mode(0o755);
    tar.append_data(&mut header, PROGRAM.trim_start_matches('/'), program.as_slice())?;
    tar.into_inner()
}

/// A static ELF program for Linux of one segment, which holds the headers and the code.
fn elf(machine: u16, code: &[u8]) -> Vec<u8> {
    let headers = u64::from(FILE_HEADER_BYTES + SEGMENT_HEADER_BYTES);
    let size = headers + code.len() as u64;
    let mut file = Vec::new();
    file.extend([0x7f, b'E', b'L', b'F', 2, 1, 1, 0]); // 64 bits, little-endian, version 1, System V
    file.extend([0; 8]);
    for half in [2, machine] {
        file.extend(half.to_le_bytes()); // executable
    }
    file.extend(1u32.to_le_bytes());
    for word in [BASE + headers, u64::from(FILE_HEADER_BYTES), 0] {
        file.extend(word.to_le_bytes()); // entry, segment headers, no sections
    }
    file.extend(0u32.to_le_bytes());
    for half in [FILE_HEADER_BYTES, SEGMENT_HEADER_BYTES, 1, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    file.extend(1u32.to_le_bytes()); // to be loaded
    file.extend(5u32.to_le_bytes()); // readable and executable
    for word in [0, BASE, BASE, size, size, 0x1000] {
        file.extend(word.to_le_bytes());
    }
    file.extend(code);
    file
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Command, Stdio};

    use super::*;

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_program_waits_until_it_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("wait");
        std::fs::write(&path, elf(MACHINE_X86_64, CODE_X86_64)).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut child = Command::new(&path).stdin(Stdio::null()).spawn().unwrap();
        // A program that is not one ends at once; this one is found in the system call.
        let stat = || std::fs::read_to_string(format!("/proc/{}/syscall", child.id())).unwrap_or_default();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while !stat().starts_with("34 ") && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert!(stat().starts_with("34 "), "{}", stat());
        child.kill().unwrap();
        assert!(!child.wait().unwrap().success());
    }
}
