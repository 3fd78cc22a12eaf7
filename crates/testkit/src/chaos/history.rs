// SPDX-License-Identifier: Apache-2.0
//! What happened, as the clients and the tormentor saw it: every request, write, sample
//! and fault goes to `history.jsonl` as it ends, and what the verdict and the plot need is
//! kept. Times are milliseconds since the run began, of one monotonic clock. It judges
//! nothing but counts what it is told was wrong.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

/// A promise of `docs/reliability.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "they are named and explained in docs/reliability.md")]
pub enum Promise {
    P1,
    P2,
    P3,
    P4,
    P5,
    P6,
    P7,
    P8,
    P9,
}

/// One second of traffic.
#[derive(Clone, Copy, Debug, Default)]
pub struct Second {
    /// Requests answered rightly.
    pub answered: u32,
    /// Requests that failed.
    pub failed: u32,
    /// Writes acknowledged.
    pub written: u32,
    /// The longest time to an answer in it, in milliseconds.
    pub slowest: u32,
}

/// A request that got no right answer through the balancer.
#[derive(Clone, Debug)]
pub struct FailedRequest {
    /// Its id.
    pub id: String,
    /// When it was sent.
    pub began: u64,
    /// When it had failed.
    pub ended: u64,
    /// What the client saw.
    pub reason: String,
}

/// An acknowledged write.
#[derive(Clone, Copy, Debug)]
pub struct Write {
    /// When it was first sent.
    pub began: u64,
    /// When it was acknowledged.
    pub ended: u64,
    /// The revision in the answer.
    pub revision: u64,
    /// How often it had been sent before.
    pub retries: u32,
    /// Whether it was answered live.
    pub live: bool,
}

/// Where a replica stood.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// When.
    pub at: u64,
    /// Epoch and revision it serves.
    pub position: (u64, u64),
    /// Resident memory in KiB.
    pub resident: u64,
}

/// One fault as it was carried out.
#[derive(Clone, Debug)]
pub struct Band {
    /// The kind's name.
    pub kind: String,
    /// Who suffered it.
    pub victim: String,
    /// The runtime whose connections it breaks, if any.
    pub breaks: Vec<usize>,
    /// Whether connections broken by it may stay silent after its end.
    pub lingers: bool,
    /// When it began.
    pub began: u64,
    /// When it was over: everything runs again.
    pub ended: u64,
    /// When the old primary had stopped, of a failover.
    pub failed_over: Option<u64>,
    /// How long after its end every replica served a revision written after its end.
    pub converged: Option<u64>,
    /// Whether another one overlapped it. Of the two, the one that ended last has `converged`.
    pub paired: bool,
    /// What is to be said about it.
    pub note: String,
}

/// Everything kept in memory.
#[derive(Debug, Default)]
pub struct Kept {
    /// By second.
    pub seconds: Vec<Second>,
    /// Requests through the balancer.
    pub requests: u64,
    /// Requests straight to the runtimes, answered.
    pub probes: u64,
    /// Those that failed.
    pub failed: Vec<FailedRequest>,
    /// Acknowledged writes, in the order of their answers.
    pub writes: Vec<Write>,
    /// Write attempts that were refused for a time or got no answer.
    pub unanswered_writes: u64,
    /// Documents with faults that were sent, and refused.
    pub refused_documents: u64,
    /// Per replica.
    pub samples: BTreeMap<String, Vec<Sample>>,
    /// The faults.
    pub bands: Vec<Band>,
    /// What broke a promise.
    pub violations: Vec<(Promise, String)>,
    /// What was looked at per promise, in words.
    pub evidence: BTreeMap<Promise, Vec<String>>,
}

/// See the module.
pub struct History {
    began: Instant,
    file: Mutex<BufWriter<std::fs::File>>,
    kept: Mutex<Kept>,
}

impl History {
    /// Begins now.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn begin(file: &Path) -> anyhow::Result<History> {
        let file = BufWriter::new(std::fs::File::create(file)?);
        Ok(History { began: Instant::now(), file: Mutex::new(file), kept: Mutex::default() })
    }

    /// Milliseconds since the run began.
    #[must_use]
    pub fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Writes one line; a disk that is full is found out at [`History::flush`].
    pub fn line(&self, line: &Value) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(file, "{line}").ok();
    }

    /// Everything is on its way to the disk.
    ///
    /// # Errors
    /// When it is not.
    pub fn flush(&self) -> std::io::Result<()> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).flush()
    }

    /// A request through the balancer was answered rightly.
    pub fn answered(&self, began: u64, runtime: usize, handle: &str, seen: &str) {
        let now = self.now();
        let mut kept = self.kept();
        kept.requests += 1;
        let second = kept.second(now);
        second.answered += 1;
        second.slowest = second.slowest.max(u32::try_from(now - began).unwrap_or(u32::MAX));
        drop(kept);
        self.line(&json!(["r", began, now, runtime, handle, seen]));
    }

    /// A request through the balancer failed.
    pub fn failed(&self, id: String, began: u64, reason: String) {
        let ended = self.now();
        self.line(&json!({ "failed": id, "began": began, "ended": ended, "reason": reason }));
        let mut kept = self.kept();
        kept.requests += 1;
        kept.second(ended).failed += 1;
        kept.failed.push(FailedRequest { id, began, ended, reason });
    }

    /// A request straight to a runtime was answered rightly.
    pub fn probed(&self, began: u64, runtime: usize, handle: &str, seen: &str) {
        self.kept().probes += 1;
        self.line(&json!(["p", began, self.now(), runtime, handle, seen]));
    }

    /// A write was acknowledged.
    pub fn written(&self, write: Write) {
        let mut kept = self.kept();
        kept.second(write.ended).written += 1;
        kept.writes.push(write);
    }

    /// An attempt to write got no answer that settles it.
    pub fn unanswered_write(&self) {
        self.kept().unanswered_writes += 1;
    }

    /// A document with a fault was refused.
    pub fn refused_document(&self) {
        self.kept().refused_documents += 1;
    }

    /// Where a replica stands.
    pub fn sampled(&self, replica: &str, sample: Sample) {
        let (epoch, revision) = sample.position;
        self.line(&json!({ "replica": replica, "at": sample.at, "epoch": epoch, "revision": revision,
                           "residentKiB": sample.resident }));
        self.kept().samples.entry(replica.to_owned()).or_default().push(sample);
    }

    /// A promise was broken.
    pub fn violation(&self, promise: Promise, what: String) {
        let at = self.now();
        eprintln!("    {at:>7} ms  BROKEN {promise:?}: {what}");
        self.line(&json!({ "broken": format!("{promise:?}"), "at": at, "what": what }));
        self.kept().violations.push((promise, format!("at {at} ms: {what}")));
    }

    /// Something that was looked at and found to be right.
    pub fn evidence(&self, promise: Promise, what: String) {
        self.kept().evidence.entry(promise).or_default().push(what);
    }

    /// A fault begins; answers its number.
    pub fn begin_band(&self, kind: String, victim: String) -> usize {
        let began = self.now();
        eprintln!("    {began:>7} ms  {kind}: {victim}");
        self.line(&json!({ "fault": kind, "victim": victim, "began": began }));
        let mut kept = self.kept();
        kept.bands.push(Band {
            kind,
            victim,
            breaks: Vec::new(),
            lingers: false,
            began,
            ended: u64::MAX,
            failed_over: None,
            converged: None,
            paired: false,
            note: String::new(),
        });
        kept.bands.len() - 1
    }

    /// More about a fault.
    pub fn band(&self, index: usize, change: impl FnOnce(&mut Band)) {
        let mut kept = self.kept();
        if let Some(band) = kept.bands.get_mut(index) {
            change(band);
            let line = json!({ "fault": band.kind, "victim": band.victim, "began": band.began,
                               "ended": band.ended, "converged": band.converged, "note": band.note });
            drop(kept);
            self.line(&line);
        }
    }

    /// The first write that was sent after this moment and acknowledged.
    #[must_use]
    pub fn first_write_since(&self, since: u64) -> Option<Write> {
        // Answers come roughly in order, so the last few thousand are more than enough.
        let kept = self.kept();
        let newest = kept.writes.iter().rev().take_while(|write| write.ended >= since);
        newest.filter(|write| write.began >= since).min_by_key(|write| write.ended).copied()
    }

    /// What is kept.
    pub fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long the run has lasted.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }
}

impl Kept {
    fn second(&mut self, at: u64) -> &mut Second {
        let index = usize::try_from(at / 1000).unwrap_or_default();
        if self.seconds.len() <= index {
            self.seconds.resize(index + 1, Second::default());
        }
        &mut self.seconds[index]
    }
}
