// SPDX-License-Identifier: Apache-2.0
//! The writing end of the access log: one thread that takes blocks of lines from a bounded
//! queue and puts them on standard output or in a file. A file is rotated by size, so that
//! an unwatched log never fills a disk, and opened anew when asked, so that others may
//! rotate it instead. It never makes traffic wait, and counts what it could not write.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use super::format::Format;
use crate::config::{AccessLog, AccessLogTarget};
use crate::metrics::WorkerMetrics;

/// The writer's end of the queue, and its thread.
pub struct Writer {
    thread: Option<std::thread::JoinHandle<()>>,
    reopen: Option<Reopen>,
}

/// Asks the writer to open its file anew.
#[derive(Clone)]
pub struct Reopen {
    asked: Arc<AtomicBool>,
    /// Taken away when the log ends: the writer waits for every other sender to be gone.
    queue: Arc<Mutex<Option<SyncSender<Vec<u8>>>>>,
}

/// A worker's end of the queue.
#[derive(Clone)]
pub struct Blocks {
    queue: Option<SyncSender<Vec<u8>>>,
    format: Arc<Format>,
}

/// Why the access log could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("the access log {path} could not be opened")]
pub struct OpenError {
    path: String,
    source: io::Error,
}

/// Where lines go.
enum Sink {
    Stdout(io::Stdout),
    File(RotatedFile),
}

/// A file that is moved aside when it has grown.
struct RotatedFile {
    path: PathBuf,
    file: File,
    /// 0 is never.
    rotate_bytes: u64,
    keep_files: usize,
}

/// Opens the log and starts its writer; `metrics` are the writer's own.
///
/// # Errors
/// When the file cannot be opened for appending, or no thread can be started.
pub fn open(settings: &AccessLog, metrics: Arc<WorkerMetrics>) -> Result<(Writer, Blocks), OpenError> {
    let format = settings.format.clone();
    let (sink, path) = match &settings.target {
        AccessLogTarget::Off => {
            return Ok((Writer { thread: None, reopen: None }, Blocks { queue: None, format }));
        }
        AccessLogTarget::Stdout => (Sink::Stdout(io::stdout()), "on standard output".to_owned()),
        AccessLogTarget::File(path) => {
            let shown = path.display().to_string();
            let file = append_to(path).map_err(|source| OpenError { path: shown.clone(), source })?;
            let (rotate_bytes, keep_files) = (settings.rotate_bytes, settings.keep_files);
            (Sink::File(RotatedFile { path: path.clone(), file, rotate_bytes, keep_files }), shown)
        }
    };
    let (queue, blocks) = sync_channel(settings.queue_blocks.max(1));
    let reopen = Reopen { asked: Arc::default(), queue: Arc::new(Mutex::new(Some(queue.clone()))) };
    let is_file = matches!(sink, Sink::File(_));
    let asked = reopen.asked.clone();
    let thread = std::thread::Builder::new()
        .name("access-log".to_owned())
        .spawn(move || write_blocks(sink, &blocks, &asked, &metrics))
        .map_err(|source| OpenError { path, source })?;
    Ok((
        Writer { thread: Some(thread), reopen: is_file.then_some(reopen) },
        Blocks { queue: Some(queue), format },
    ))
}

fn write_blocks(mut sink: Sink, blocks: &Receiver<Vec<u8>>, asked: &AtomicBool, metrics: &WorkerMetrics) {
    let mut failing = false;
    // Ends when every sender is gone.
    for block in blocks {
        if asked.swap(false, Ordering::AcqRel) {
            sink.reopen();
        }
        if block.is_empty() {
            continue;
        }
        match sink.write(&block) {
            Ok(()) => failing = false,
            Err(error) => {
                metrics.access_log_dropped_lines.add(lines(&block));
                // Said once per outage: a full disk must not fill the other log as well.
                if !failing {
                    tracing::error!(%error, "access log lines are being lost");
                }
                failing = true;
            }
        }
    }
}

fn lines(block: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', block).count() as u64
}

fn append_to(path: &Path) -> io::Result<File> {
    // Appending finds the end anew with each write: a file truncated by others goes on from its start.
    OpenOptions::new().create(true).append(true).open(path)
}

impl Sink {
    fn write(&mut self, block: &[u8]) -> io::Result<()> {
        match self {
            Sink::Stdout(out) => out.write_all(block).and_then(|()| out.flush()),
            Sink::File(file) => {
                file.rotate_before(block.len());
                file.file.write_all(block)
            }
        }
    }

    fn reopen(&mut self) {
        let Sink::File(log) = self else { return };
        match append_to(&log.path) {
            Ok(file) => {
                log.file = file;
                tracing::info!(path = %log.path.display(), "the access log was opened anew");
            }
            Err(error) => tracing::error!(%error, "the access log stays where it was"),
        }
    }
}

impl RotatedFile {
    /// Moves the file aside when the block would make it too long. What cannot be moved is
    /// written on: a log that is too long is better than none.
    fn rotate_before(&mut self, bytes: usize) {
        if self.rotate_bytes == 0 {
            return;
        }
        // Asked of the file each time: others may have truncated it.
        let held = self.file.metadata().map_or(0, |metadata| metadata.len());
        if held == 0 || held.saturating_add(bytes as u64) <= self.rotate_bytes {
            return;
        }
        if let Err(error) = self.shift().and_then(|()| append_to(&self.path)).map(|file| self.file = file) {
            tracing::error!(%error, path = %self.path.display(), "the access log could not be rotated");
        }
    }

    /// `log` becomes `log.1`, that `log.2`, and so on; the oldest is overwritten.
    fn shift(&self) -> io::Result<()> {
        let numbered = |number: usize| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        for number in (1..self.keep_files).rev() {
            match std::fs::rename(numbered(number), numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        std::fs::rename(&self.path, numbered(1))
    }
}

impl Writer {
    /// How to ask for the file to be opened anew; `None` when lines go to none.
    #[must_use]
    pub fn reopen(&self) -> Option<Reopen> {
        self.reopen.clone()
    }

    /// Waits until everything handed over is written. Every [`Blocks`] must be gone.
    pub fn finish(self) {
        if let Some(reopen) = self.reopen {
            reopen.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
        if let Some(thread) = self.thread
            && thread.join().is_err()
        {
            tracing::error!("the access log's writer panicked");
        }
    }
}

impl Reopen {
    /// Asks; lines handed over from now on are in the new file.
    pub fn ask(&self) {
        self.asked.store(true, Ordering::Release);
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        // An empty block wakes the writer up. A full queue means that it is awake.
        if queue.as_ref().is_some_and(|queue| queue.try_send(Vec::new()).is_err()) {
            tracing::debug!("the access log's file will be opened anew with its next block");
        }
    }
}

impl Blocks {
    /// What a line consists of.
    pub(super) fn format(&self) -> &Arc<Format> {
        &self.format
    }

    /// Whether lines are wanted at all.
    pub(super) fn is_open(&self) -> bool {
        self.queue.is_some()
    }

    /// Hands a block over; false when it was dropped.
    pub(super) fn hand_over(&self, block: Vec<u8>) -> bool {
        self.queue.as_ref().is_none_or(|queue| queue.try_send(block).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::{Writer, open};
    use crate::access_log::writer::Blocks;
    use crate::config::{AccessLog, AccessLogTarget, Config};
    use crate::metrics::WorkerMetrics;

    fn start(path: &Path, rotate_bytes: u64) -> (Writer, Blocks, Arc<WorkerMetrics>) {
        let target = AccessLogTarget::File(path.to_owned());
        let settings = AccessLog { target, rotate_bytes, keep_files: 2, ..Config::default().access_log };
        let metrics = Arc::<WorkerMetrics>::default();
        let (writer, blocks) = open(&settings, metrics.clone()).expect("a log");
        (writer, blocks, metrics)
    }

    fn read(path: &Path, suffix: &str) -> Option<String> {
        std::fs::read_to_string(format!("{}{suffix}", path.display())).ok()
    }

    #[test]
    fn a_file_is_rotated_before_it_grows_too_long_and_few_are_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("log");
        let (writer, blocks, metrics) = start(&path, 10);
        // One is longer than the limit itself: lines are never cut.
        for block in ["1234\n", "5678\n", "aaaa\n", "a block of its own\n", "last\n"] {
            assert!(blocks.hand_over(block.into()));
        }
        drop(blocks);
        writer.finish();
        let kept = ["", ".1", ".2", ".3"].map(|suffix| read(&path, suffix));
        let expected = [Some("last\n"), Some("a block of its own\n"), Some("aaaa\n"), None];
        assert_eq!(kept.each_ref().map(Option::as_deref), expected);
        assert_eq!(metrics.access_log_dropped_lines.get(), 0);
    }

    #[test]
    fn a_file_moved_away_is_opened_anew_and_one_truncated_goes_on() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("log");
        let (writer, blocks, _) = start(&path, 0);
        let written = |text: &str| {
            assert!(blocks.hand_over(text.into()));
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
            while !std::fs::read_dir(dir.path())
                .expect("a directory")
                .filter_map(|entry| std::fs::read_to_string(entry.expect("an entry").path()).ok())
                .any(|content| content.ends_with(text))
            {
                assert!(std::time::Instant::now() < deadline, "{text:?} was not written");
                std::thread::yield_now();
            }
        };
        written("before\n");
        std::fs::rename(&path, dir.path().join("moved")).expect("moved");
        let reopen = writer.reopen().expect("a log");
        reopen.ask();
        written("after\n");
        std::fs::OpenOptions::new().write(true).truncate(true).open(&path).expect("truncated");
        written("again\n");
        drop(blocks);
        writer.finish();
        assert_eq!(read(dir.path(), "/moved").as_deref(), Some("before\n"));
        assert_eq!(read(&path, "").as_deref(), Some("again\n"));
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted() {
        // Always full, for root as for anybody.
        let (writer, blocks, metrics) = start(Path::new("/dev/full"), 0);
        assert!(blocks.hand_over(b"one\ntwo\n".to_vec()));
        drop(blocks);
        writer.finish();
        assert_eq!(metrics.access_log_dropped_lines.get(), 2);
    }
}
