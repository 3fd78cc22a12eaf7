// SPDX-License-Identifier: Apache-2.0
//! The chances and switches of one run: how long things take, which calls get lost, and
//! at which point of its work a process is killed. Everything is drawn from one seed. A
//! process that reaches the point set for it stops there, and the driver, which alone can
//! kill a host, finds its name in the list.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Where a process can be killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// A controller has written state and changes and not committed.
    BeforeCommit,
    /// A controller's transaction is committed; nobody was told.
    AfterCommit,
    /// A runtime serves an update that is not on its disk.
    BeforeDisk,
    /// A runtime has an update on its disk and has not acknowledged it.
    BeforeAnswer,
    /// A runtime has acknowledged an update this moment.
    AfterAnswer,
}

/// See the module.
pub struct Trouble {
    inner: Mutex<Inner>,
}

struct Inner {
    random: fastrand::Rng,
    /// How much longer than usual the database takes.
    slowness: u32,
    commit_delay: Duration,
    /// Out of a hundred commits, those that are lost before, and whose answer is lost after.
    lost_commits: u8,
    lost_answers: u8,
    cut_off: BTreeSet<String>,
    /// Runtimes whose disk does not come back.
    hung: BTreeSet<String>,
    armed: BTreeMap<String, Point>,
    killed: Vec<String>,
}

impl Trouble {
    pub fn new(seed: u64) -> Trouble {
        let random = fastrand::Rng::with_seed(seed);
        Trouble {
            inner: Mutex::new(Inner {
                random,
                slowness: 1,
                commit_delay: Duration::ZERO,
                lost_commits: 0,
                lost_answers: 0,
                cut_off: BTreeSet::new(),
                hung: BTreeSet::new(),
                armed: BTreeMap::new(),
                killed: Vec::new(),
            }),
        }
    }

    /// How long one way to the database takes.
    pub fn latency(&self) -> Duration {
        let mut inner = self.inner();
        let micros = inner.random.u64(200..3000);
        Duration::from_micros(micros) * inner.slowness
    }

    /// How long a runtime's disk takes to write and sync.
    pub fn disk(&self) -> Duration {
        Duration::from_micros(self.inner().random.u64(500..5_000))
    }

    pub fn commit_delay(&self) -> Duration {
        self.inner().commit_delay
    }

    pub fn loses_commit(&self) -> bool {
        let mut inner = self.inner();
        inner.random.u8(..100) < inner.lost_commits
    }

    pub fn loses_answer(&self) -> bool {
        let mut inner = self.inner();
        inner.random.u8(..100) < inner.lost_answers
    }

    pub fn cut_off(&self, host: &str) -> bool {
        self.inner().cut_off.contains(host)
    }

    pub fn hangs(&self, host: &str) -> bool {
        self.inner().hung.contains(host)
    }

    /// Simulated time in microseconds: the database's clock.
    pub fn now_micros(&self) -> i64 {
        let elapsed = turmoil::sim_elapsed().unwrap_or_default();
        i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX)
    }

    pub fn slow_down(&self, times: u32, commit_delay: Duration) {
        let mut inner = self.inner();
        inner.slowness = times;
        inner.commit_delay = commit_delay;
    }

    pub fn lose(&self, commits: u8, answers: u8) {
        let mut inner = self.inner();
        inner.lost_commits = commits;
        inner.lost_answers = answers;
    }

    pub fn cut(&self, host: &str, off: bool) {
        let mut inner = self.inner();
        if off {
            inner.cut_off.insert(host.to_owned())
        } else {
            inner.cut_off.remove(host)
        };
    }

    pub fn hang(&self, host: &str, hung: bool) {
        let mut inner = self.inner();
        if hung {
            inner.hung.insert(host.to_owned())
        } else {
            inner.hung.remove(host)
        };
    }

    /// Kills a host at this point, once, when it gets there.
    pub fn arm(&self, host: &str, point: Point) {
        self.inner().armed.insert(host.to_owned(), point);
    }

    pub fn disarm(&self, host: &str) {
        self.inner().armed.remove(host);
    }

    /// No more faults.
    pub fn end(&self) {
        let mut inner = self.inner();
        inner.slowness = 1;
        inner.commit_delay = Duration::ZERO;
        (inner.lost_commits, inner.lost_answers) = (0, 0);
        inner.cut_off.clear();
        inner.hung.clear();
        inner.armed.clear();
    }

    /// The hosts that stopped where they were to be killed.
    pub fn killed(&self) -> Vec<String> {
        std::mem::take(&mut self.inner().killed)
    }

    /// Says that a host is at a point; does not return when it is killed there.
    pub async fn reached(&self, host: &str, point: Point) {
        if self.passes(host, point) {
            std::future::pending::<()>().await;
        }
    }

    /// Says that a host was at a point: whether it is killed for it, a moment later.
    pub fn passes(&self, host: &str, point: Point) -> bool {
        let mut inner = self.inner();
        let here = inner.armed.get(host) == Some(&point);
        if here {
            inner.armed.remove(host);
            inner.killed.push(host.to_owned());
        }
        here
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
