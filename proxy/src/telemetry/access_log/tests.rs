use std::{path::Path, sync::Arc, time::Instant};

use http::uri::Scheme;

use super::*;
use crate::{
    config::access_log::Sink,
    telemetry::{format::RequestHead, testing},
};

fn text(format: &str, path: &Path) -> AccessLog {
    AccessLog {
        name: "log".into(),
        sink: Sink::File(path.to_owned()),
        format: LogFormat::Text(Format::parse(format).unwrap()),
    }
}

fn folder(name: &str) -> std::path::PathBuf {
    let folder = std::env::temp_dir().join(format!("outrigger-{name}-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir(&folder).unwrap();
    folder
}

fn log(loggers: &Loggers) {
    let info = testing::stream_info();
    let request = http::Request::get("/x")
        .header("x-a", "h\u{e9}\"")
        .body(())
        .unwrap();
    let parts = request.into_parts().0;
    loggers.log(&Context {
        info: &info,
        request: Some(RequestHead::new(&parts, &Scheme::HTTP)),
        response: None,
        trailers: None,
    });
}

const LONG: Duration = Duration::from_secs(10);

#[test]
fn lines_reach_their_file_and_reopening_starts_a_new_one() {
    let folder = folder("reopen");
    let (path, old) = (folder.join("a.log"), folder.join("old.log"));
    let registry = Registry::new(1);
    let logs = AccessLogs::new(&registry);
    let format = "%REQ(:METHOD)% %REQ(:path)%\n";
    let loggers = logs
        .compile(&[text(format, &path), text("two\n", &path)])
        .unwrap();
    assert!(!loggers.is_empty());
    log(&loggers);
    logs.flush(LONG);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "GET /x\ntwo\n");

    std::fs::rename(&path, &old).unwrap();
    log(&loggers);
    logs.flush(LONG);
    logs.reopen();
    log(&loggers);
    logs.flush(LONG);
    assert_eq!(
        std::fs::read_to_string(&old).unwrap(),
        "GET /x\ntwo\nGET /x\ntwo\n"
    );
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "GET /x\ntwo\n");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn empty_values_are_left_out_where_the_configuration_says_so() {
    let folder = folder("omit");
    let path = folder.join("a.log");
    let logs = AccessLogs::new(&Registry::new(1));
    let format = Format::parse("[%REQ(nope)%] [%RESPONSE_FLAGS%]\n").unwrap();
    let log_of = |format| AccessLog {
        format: LogFormat::Text(format),
        ..text("", &path)
    };
    let omitting = log_of(format.clone().omitting_empty(true));
    let loggers = logs.compile(&[log_of(format), omitting]).unwrap();
    log(&loggers);
    logs.flush(LONG);
    let lines = std::fs::read_to_string(&path).unwrap();
    assert_eq!(lines, "[-] [-]\n[] [-]\n");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn lines_of_a_thread_that_ends_are_written() {
    let folder = folder("thread");
    let path = folder.join("a.log");
    let logs = AccessLogs::new(&Registry::new(1));
    let loggers = Arc::new(logs.compile(&[text("line\n", &path)]).unwrap());
    let theirs = Arc::clone(&loggers);
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        // Armed, but the runtime ends before the buffer is old.
        runtime.block_on(async { log(&theirs) });
    });
    thread.join().unwrap();
    logs.flush(LONG);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "line\n");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn lines_are_written_before_they_are_old() {
    let folder = folder("timer");
    let path = folder.join("a.log");
    let logs = AccessLogs::new(&Registry::new(1));
    let loggers = logs.compile(&[text("line\n", &path)]).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async {
        log(&loggers);
        let start = Instant::now();
        while std::fs::read_to_string(&path).unwrap() != "line\n" {
            assert!(start.elapsed() < LONG);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(start.elapsed() < Duration::from_secs(1) + LONG / 4);
    });
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_full_disk_drops_lines_and_counts_them() {
    let registry = Registry::new(1);
    let logs = AccessLogs::new(&registry);
    let loggers = logs
        .compile(&[text("line\n", Path::new("/dev/full"))])
        .unwrap();
    log(&loggers);
    log(&loggers);
    logs.flush(LONG);
    let scope = registry.scope("filesystem");
    assert_eq!(scope.counter("write_buffered").value(), 2);
    assert_eq!(scope.counter("write_failed").value(), 2);
    assert_eq!(scope.counter("write_completed").value(), 0);
    assert_eq!(scope.gauge("write_total_buffered").value(), 0);
}

#[test]
fn a_writer_that_hangs_blocks_nobody() {
    let folder = folder("hang");
    let fifo = folder.join("fifo");
    nix_mkfifo(&fifo);
    // Opened for reading and writing by nobody: keep our own reader that never reads.
    let reader = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&fifo)
        .unwrap();
    let registry = Registry::new(1);
    let logs = AccessLogs::new(&registry);
    let line = format!("{}\n", "x".repeat(64 * 1024));
    let loggers = logs.compile(&[text(&line, &fifo)]).unwrap();
    // 200 × 64 KiB are more than may wait.
    (0..200).for_each(|_| log(&loggers));
    assert!(registry.scope("filesystem").counter("write_failed").value() > 0);
    logs.flush(Duration::from_millis(1));
    drop(reader);
    std::fs::remove_dir_all(folder).unwrap();
}

fn nix_mkfifo(path: &Path) {
    let status = std::process::Command::new("mkfifo")
        .arg(path)
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn a_file_that_cannot_be_opened_is_an_error() {
    let logs = AccessLogs::new(&Registry::new(1));
    let error = logs
        .compile(&[text("x", Path::new("/nonexistent/a.log"))])
        .unwrap_err();
    assert!(
        error.contains("unable to open file '/nonexistent/a.log'"),
        "{error}"
    );
}

#[test]
fn json_keeps_types() {
    let format = |text: &str| JsonFormat::Format(Format::parse(text).unwrap());
    let template = JsonFormat::Object(vec![
        ("a".into(), format("%REQ(x-a)%")),
        (
            "arr".into(),
            JsonFormat::Array(vec![
                format("%PROTOCOL%"),
                JsonFormat::Number(1.0),
                format("%REQ(nope)%"),
            ]),
        ),
        ("b".into(), JsonFormat::Bool(true)),
        ("code".into(), format("%RESPONSE_CODE%")),
        ("empty".into(), format("")),
        ("flags".into(), format("%RESPONSE_FLAGS%")),
        ("half".into(), JsonFormat::Number(1.5)),
        ("missing".into(), format("%REQ(nope)%")),
        ("mixed".into(), format("%RESPONSE_CODE% x %REQ(nope)%")),
        ("n".into(), JsonFormat::Null),
        (
            "nest".into(),
            JsonFormat::Object(vec![("e".into(), format("%REQ(nope)%"))]),
        ),
    ]);
    let info = testing::stream_info();
    let request = http::Request::get("/x").header(
        "x-a",
        http::HeaderValue::from_bytes(b"h\xc3\xa9\"\\\t").unwrap(),
    );
    let parts = request.body(()).unwrap().into_parts().0;
    let cx = Context {
        info: &info,
        request: Some(RequestHead::new(&parts, &Scheme::HTTP)),
        response: None,
        trailers: None,
    };
    let line = |omit_empty| {
        let mut out = Vec::new();
        json::write(&template, omit_empty, &cx, &mut Vec::new(), &mut out);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(
        line(false),
        concat!(
            r#"{"a":"hé\"\\\t","arr":["HTTP/1.1",1,null],"b":true,"code":0,"empty":"","flags":"-","#,
            r#""half":1.5,"missing":null,"mixed":"0 x -","n":null,"nest":{"e":null}}"#
        )
    );
    assert_eq!(
        line(true),
        concat!(
            r#"{"a":"hé\"\\\t","arr":["HTTP/1.1",1],"b":true,"code":0,"empty":"","flags":"-","#,
            r#""half":1.5,"mixed":"0 x "}"#
        )
    );
}

#[test]
fn json_of_bytes_that_are_not_utf8_is_still_json() {
    let mut out = Vec::new();
    json::write_string(b"\xff\xe9 ab\t/\xc3\xa9", &mut out);
    assert_eq!(out, br#""\u00ff\u00e9 ab\u0009/\u00c3\u00a9""#);
}
