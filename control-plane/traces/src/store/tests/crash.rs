//! kill -9 of the writing process, and damaged files.

use std::io::{BufRead as _, BufReader};
use std::process::{Command as Process, Stdio};

use super::*;

const CHILD_DIR: &str = "OUTRIGGER_TRACES_TEST_CHILD_DIR";

/// Not a test by itself: the process that `acknowledged_spans_survive_kill_9` kills.
#[test]
#[ignore = "the child process of acknowledged_spans_survive_kill_9"]
fn child_that_writes_until_killed() {
    let Ok(dir) = std::env::var(CHILD_DIR) else {
        return;
    };
    let store = open(Path::new(&dir));
    for number in 1.. {
        let spans = (1..=20)
            .map(|id| span(number, id, "op", base(), 1))
            .collect();
        assert_eq!(put(&store, "child", spans).accepted, 20);
        println!("acknowledged {number}");
    }
}

#[test]
fn acknowledged_spans_survive_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = 0;
    for _ in 0..3 {
        let mut child = Process::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "store::tests::crash::child_that_writes_until_killed",
            ])
            .args(["--ignored", "--nocapture"])
            .env(CHILD_DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let acknowledged = |line: String| -> Option<u128> {
            line.split("acknowledged ").nth(1)?.trim().parse().ok()
        };
        let reached = lines
            .by_ref()
            .filter_map(|line| acknowledged(line.unwrap()))
            .find(|number| *number >= 40)
            .expect("the child reports before it ends");
        child.kill().unwrap();
        child.wait().unwrap();
        // What it had still said before it died counts too.
        let last = lines
            .filter_map(|line| acknowledged(line.ok()?))
            .max()
            .unwrap_or(reached);

        let store = open(dir.path());
        assert_eq!(store.stats().recoveries, 0, "a kill damages nothing");
        for number in 1..=last {
            let trace = store.trace(trace_id(number)).unwrap();
            let trace = trace.unwrap_or_else(|| panic!("trace {number} of {last} is lost"));
            assert_eq!(trace.spans.len(), 20);
        }
        assert_eq!(store.services().unwrap(), ["child"]);
        assert!(last >= first, "later children write the same spans again");
        first = last;
    }
}

#[test]
fn a_file_that_is_no_database_is_moved_aside() {
    let dir = tempfile::tempdir().unwrap();
    let junk = "this is not a database".repeat(1000);
    std::fs::write(dir.path().join("traces.db"), &junk).unwrap();
    let store = open(dir.path());
    assert_eq!(store.stats().recoveries, 1);
    put(&store, "s", vec![span(1, 1, "a", base(), 1)]);
    assert!(store.trace(trace_id(1)).unwrap().is_some());
    let kept = std::fs::read_to_string(dir.path().join("traces.db.damaged")).unwrap();
    assert_eq!(kept, junk);
}

#[test]
fn a_truncated_or_overwritten_file_never_stops_the_store() {
    // Damage from the first page to the end, found at opening or only when read.
    for (keep, junk_from) in [
        (100, None),
        (4096, None),
        (40_000, None),
        (usize::MAX, Some(5000)),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("traces.db");
        let store = open(dir.path());
        for number in 1..200 {
            put(
                &store,
                "s",
                vec![span(number, 1, &"n".repeat(500), base(), 1)],
            );
        }
        drop(store);
        let mut bytes = std::fs::read(&path).unwrap();
        assert!(bytes.len() > 60_000, "the log was written back at the end");
        bytes.truncate(keep);
        if let Some(from) = junk_from {
            bytes[from..].fill(0xa5);
        }
        std::fs::write(&path, &bytes).unwrap();

        let store = open(dir.path());
        // Whatever is broken is found by using it; each use gets an answer or a clear error.
        for number in 1..200 {
            match store.trace(trace_id(number)) {
                Ok(_) | Err(Error::Damaged(_)) => {}
                Err(other) => panic!("{other}"),
            }
        }
        wait_until("a new store is started", || store.stats().recoveries == 1);
        put(&store, "new", vec![span(1000, 1, "after", base(), 1)]);
        assert!(store.trace(trace_id(1000)).unwrap().is_some());
        assert_eq!(store.services().unwrap(), ["new"]);
        assert!(dir.path().join("traces.db.damaged").exists());
    }
}

#[test]
fn a_database_of_another_version_is_moved_aside() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let raw = Connection::open(dir.path().join("traces.db")).unwrap();
    raw.pragma_update(None, "user_version", 99).unwrap();
    drop(raw);
    assert_eq!(open(dir.path()).stats().recoveries, 1);
}

#[test]
fn a_directory_that_cannot_be_made_is_a_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = Store::open(file.join("traces"), Limits::default()).unwrap_err();
    assert!(error.to_string().contains("file/traces"), "{error}");
}
