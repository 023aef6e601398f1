//! The order of system calls: no acknowledgement before an `fdatasync` of sled's `db` file that
//! began after the last write of the append had ended. Killing a process can never show a missing
//! sync, since the kernel keeps what was written; its system calls can.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::{CHILD_DIR, Log, append, as_child, block_on, open, say};
use crate::durability::SyncPolicy;
use crate::{Options, Store};

const APPENDS: u64 = 12;

#[test]
fn an_append_is_synced_before_it_is_acknowledged() {
    if let Some(dir) = std::env::var_os(CHILD_DIR) {
        return append_and_acknowledge(open(Path::new(&dir)));
    }
    if let Some((trace, dir)) = trace("an_append_is_synced_before_it_is_acknowledged") {
        check(&trace, &dir).unwrap();
    }
}

/// The proof that the check above can fail.
#[test]
fn a_missing_sync_is_seen() {
    if let Some(dir) = std::env::var_os(CHILD_DIR) {
        let options = Options { sync: SyncPolicy::FlushOnly, ..Options::default() };
        return append_and_acknowledge(Store::open(Path::new(&dir), options).unwrap());
    }
    if let Some((trace, dir)) = trace("a_missing_sync_is_seen") {
        let violation = check(&trace, &dir).unwrap_err();
        assert!(violation.contains("no fdatasync"), "{violation}");
    }
}

fn append_and_acknowledge(store: Store) {
    let mut log: Log = store.log().unwrap();
    block_on(async {
        for index in 0..APPENDS {
            append(&mut log, index..index + 1).await;
            say(&format!("ack {index}"));
        }
    });
}

/// Runs a test of this module under strace; its system calls, and the store's directory. None where
/// there is no strace, which CI must not lack.
fn trace(test: &str) -> Option<(String, String)> {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("trace");
    let store = dir.path().join("store");
    let mut command = Command::new("strace");
    command.args([
        "-f",
        "-y",
        "-s",
        "16",
        "-e",
        "trace=fsync,fdatasync,sync_file_range,pwrite64,write",
        "-o",
    ]);
    command.arg(&out).arg(std::env::current_exe().unwrap());
    as_child(&mut command, &format!("tests::barrier::{test}"), &store);
    match command.stdout(Stdio::null()).stderr(Stdio::null()).status() {
        Ok(status) => assert!(status.success(), "the traced child failed: {status}"),
        Err(error) if std::env::var_os("CI").is_none() => {
            eprintln!("skipped: strace cannot be run ({error}), and CI is not set");
            return None;
        }
        Err(error) => panic!("strace cannot be run: {error}"),
    }
    Some((fs::read_to_string(out).unwrap(), store.to_str().unwrap().to_owned()))
}

/// One system call: the lines of the trace at which it began and ended.
#[derive(Debug)]
struct Call<'a> {
    text: &'a str,
    began: usize,
    ended: usize,
}

/// Checks every acknowledgement in the trace.
fn check(trace: &str, dir: &str) -> Result<(), String> {
    let calls = parse(trace);
    let is = |call: &Call, name: &str, file: &str| {
        call.text.starts_with(&format!("{name}(")) && call.text.contains(&format!("<{file}>"))
    };
    let db = format!("{dir}/db");
    let mut previous = 0;
    for index in 0..APPENDS {
        let marker = calls
            .iter()
            .find(|call| {
                call.text.starts_with("write(1<") && call.text.contains(&format!("\"ack {index}\\n\""))
            })
            .ok_or(format!("append {index} was never acknowledged"))?;
        let writes = calls.iter().filter(|call| is(call, "pwrite64", &db));
        let write = writes
            .filter(|call| previous < call.began && call.began < marker.began)
            .max_by_key(|call| call.ended)
            .ok_or(format!("append {index} wrote nothing"))?;
        let synced = calls
            .iter()
            .any(|call| is(call, "fdatasync", &db) && write.ended < call.began && call.ended < marker.began);
        if !synced {
            return Err(format!("no fdatasync between the write of append {index} and its acknowledgement"));
        }
        previous = marker.began;
    }
    let first = calls.iter().find(|call| call.text.contains("\"ack 0\\n\"")).map_or(0, |call| call.began);
    if !calls.iter().any(|call| is(call, "fsync", dir) && call.ended < first) {
        return Err("the directory was not synced before the first acknowledgement".into());
    }
    Ok(())
}

/// The calls of all threads. One that another thread interrupts takes two lines:
/// `7 name(… <unfinished ...>` and `7 <... name resumed>…`.
fn parse(trace: &str) -> Vec<Call<'_>> {
    let mut calls: Vec<Call> = Vec::new();
    let mut unfinished: Vec<(&str, usize)> = Vec::new();
    for (line, text) in trace.lines().enumerate() {
        let Some((thread, text)) = text.split_once(' ') else { continue };
        let text = text.trim_start();
        if text.starts_with("<... ") {
            let position = unfinished.iter().position(|(waiting, _)| *waiting == thread);
            let (_, call) = unfinished.remove(position.expect("a call resumes that was interrupted"));
            calls[call].ended = line;
        } else {
            let ended = if text.ends_with("<unfinished ...>") {
                unfinished.push((thread, calls.len()));
                usize::MAX
            } else {
                line
            };
            calls.push(Call { text, began: line, ended });
        }
    }
    calls
}
