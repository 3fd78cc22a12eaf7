// SPDX-License-Identifier: Apache-2.0
//! Every end of a request, in every kind of line.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode};

use super::format::DEFAULT_TEXT;
use super::{Format, Record, WorkerLog, open};
use crate::config::{AccessLog, AccessLogTarget, Config};
use crate::error::{Failure, Reason};
use crate::metrics::WorkerMetrics;

/// The lines that `requests` leave behind.
fn lines(format: Arc<Format>, requests: impl FnOnce(&Rc<WorkerLog>)) -> (Vec<String>, Arc<WorkerMetrics>) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("access.log");
    let target = AccessLogTarget::File(path.clone());
    let settings = AccessLog { target, format, ..Config::default().access_log };
    let (writer, blocks) = open(&settings, Arc::default()).expect("a log");
    let metrics = Arc::<WorkerMetrics>::default();
    let log = Rc::new(WorkerLog::new(blocks, metrics.clone()));
    requests(&log);
    drop(log);
    writer.finish();
    let text = std::fs::read_to_string(&path).expect("the log file");
    (text.lines().map(str::to_owned).collect(), metrics)
}

fn begin(log: &Rc<WorkerLog>, target: &str, headers: &[(&str, &[u8])]) -> Record {
    let mut request = Request::get(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (parts, ()) = request.body(()).expect("a request").into_parts();
    Record::begin(log.clone(), 1_000_000, &parts)
}

#[test]
fn every_end_of_a_request_leaves_one_line() {
    let (lines, metrics) = lines(Format::json(), |log| {
        let mut done = begin(log, "/done", &[]);
        (done.status, done.complete) = (Some(StatusCode::OK), true);
        drop(done);
        drop(begin(log, "http://books.example/gone", &[]));
        let mut failed = begin(log, "/failed", &[]);
        let failure = Failure::with(Reason::UpstreamReset, "closed");
        failed.fail(&failure, failure.answer().1);
        failed.status = Some(failure.reason.status());
    });
    let lines: Vec<serde_json::Value> =
        lines.iter().map(|line| serde_json::from_str(line).expect("a JSON line")).collect();
    assert_eq!(lines.len(), 3);
    assert_eq!((&lines[0]["respCd"], &lines[0]["path"]), (&200.into(), &"/done".into()));
    assert!(lines[0].get("upHost").is_none() && lines[0].get("respFlg").is_none(), "{}", lines[0]);
    assert_eq!((&lines[1]["host"], &lines[1]["path"]), (&"books.example".into(), &"/gone".into()));
    assert_eq!((&lines[1]["respCd"], &lines[1]["respCdDtl"]), (&0.into(), &"client_gone".into()));
    assert_eq!((&lines[2]["reason"], &lines[2]["respCd"]), (&"upstream_reset".into(), &503.into()));
    assert_eq!((&lines[1]["respFlg"], &lines[2]["respFlg"]), (&"DC".into(), &"UC".into()));
    assert!(lines[2]["errorId"].is_string());
    assert_eq!((metrics.requests_ended.get(), metrics.client_gone.get()), (3, 1));
}

#[test]
fn the_text_line_has_the_contracts_order() {
    let format = Format::of_text(DEFAULT_TEXT).expect("a format");
    let (lines, _) = lines(format, |log| {
        let headers: [(&str, &[u8]); 3] =
            [("host", b"h:80"), ("user-agent", b"a \"quoted\" one\t"), ("x-forwarded-for", b"10.0.0.1")];
        let mut record = begin(log, "/a?b=1", &headers);
        (record.status, record.complete) = (Some(StatusCode::OK), true);
        record.request_id = "id-1".into();
        record.upstream_host = Some("up:8080".to_owned());
        record.upstream_path = Some("/base/a?b=1".to_owned());
        record.traffic.received.set(3);
        record.traffic.sent.set(5);
        record.traffic.request_complete.set(true);
        record.started -= Duration::from_millis(12);
        let (started, asked) = (record.started, Duration::from_millis(4));
        record.forwarded = asked;
        record.upstream_time = Some(Duration::from_millis(2));
        record.traffic.request_complete.at.set(Some(started + Duration::from_millis(1)));
    });
    let line = lines.first().expect("a line");
    let (before, after) = line.split_once(" 3 5 ").expect("the bytes");
    assert_eq!(before, r#"[1970-01-01T00:00:01Z] "GET /a?b=1 HTTP/1.1" /base/a?b=1 HTTP/1.1 200 - - -"#);
    // Whole milliseconds: everything, request handed over, response out, request in, response head.
    let (times, texts) = after.split_once(" \"").expect("the texts");
    let times: Vec<u64> = times.split(' ').map(|time| time.parse().expect("a number")).collect();
    assert!(times[0] >= 12 && times[2] >= 6 && times[2] <= times[0], "{times:?}");
    assert_eq!((times[1], times[3], times[4]), (4, 1, 6));
    assert_eq!(texts, r#"10.0.0.1" "a \x22quoted\x22 one\x09" "id-1" "h:80" "up:8080""#);
}

#[test]
fn chosen_fields_keep_their_types_and_what_is_absent_is_left_out() {
    let format = Format::of_json([
        ("code", "%RESPONSE_CODE%"),
        ("gone", "%REQ(X-GONE)%"),
        ("kind", "%RESP(CONTENT-TYPE)%"),
        ("tier", "%REQ(X-TIER):4%"),
        ("what \"now\"", "%REQ(:METHOD)% took %REQ(X-GONE)%"),
    ])
    .expect("a format");
    let (lines, _) = lines(format, |log| {
        let mut record = begin(log, "/", &[("x-tier", b"go\"ld-plated")]);
        record.status = Some(StatusCode::OK);
        let mut headers = http::HeaderMap::new();
        headers.insert("content-type", "text/plain".parse().expect("a value"));
        record.note_response(|name| headers.get(name).map(http::HeaderValue::as_bytes));
    });
    assert_eq!(lines, [r#"{"code":200,"kind":"text/plain","tier":"go\"l","what \"now\"":"GET took -"}"#]);
}
