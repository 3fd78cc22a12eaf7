// SPDX-License-Identifier: Apache-2.0
//! The picture of a run: requests and errors, writes, where every replica stood, and its
//! memory, one below the other over the same time, with each fault as a band through all
//! of them. [`canvas`] has the two surfaces; [`super::report`] calls it for both.

pub mod canvas;

use canvas::{Canvas, Color, LETTER};

use super::history::{Band, Kept, Sample};

const WIDTH: f64 = 1_600.0;
const LEFT: f64 = 120.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 34.0;
/// Height of a panel, and of the gap below it.
const PANEL: f64 = 130.0;
const GAP: f64 = 36.0;
/// Rows of numbers of faults.
const MOST_ROWS: usize = 8;
/// Height of a replica's lane, and of a row of names of faults.
const LANE: f64 = 20.0;
const NAME: f64 = 16.0;
/// A replica not heard of for this long, in milliseconds, is shown as silent.
const SILENT: u64 = 1_000;
/// Revisions behind the newest replica that show as behind.
const BEHIND: u64 = 40;

const INK: Color = [40, 40, 40];
const FAINT: Color = [200, 200, 200];
const GOOD: Color = [70, 140, 200];
const GREEN: Color = [90, 170, 90];
const BAD: Color = [215, 40, 40];
const AMBER: Color = [240, 170, 40];
const COLORS: [Color; 7] = [
    [214, 39, 40],
    [255, 127, 14],
    [188, 120, 20],
    [31, 119, 180],
    [23, 160, 190],
    [148, 103, 189],
    [44, 140, 44],
];

/// Where things are in the picture.
struct Frame {
    /// The run's length in milliseconds.
    length: f64,
}

/// The size of the picture of this run.
#[must_use]
pub fn size(kept: &Kept) -> (f64, f64) {
    (WIDTH, TOP + names_height(kept) + 4.0 * (PANEL + GAP) + lanes_height(kept) + GAP + 24.0)
}

/// Draws the run.
pub fn draw(canvas: &mut impl Canvas, kept: &Kept, title: &str) {
    let frame = Frame { length: (kept.seconds.len() as f64 * 1_000.0).max(1.0) };
    let (_, height) = size(kept);
    canvas.rect((0.0, 0.0), (WIDTH, height), [255, 255, 255], 1.0, "");
    canvas.text((10.0, 20.0), title, INK);
    let mut y = TOP + names_height(kept);
    frame.bands(canvas, kept, y, height - 24.0 - y);
    frame.requests(canvas, kept, y);
    y += PANEL + GAP;
    frame.writes(canvas, kept, y);
    y += PANEL + GAP;
    let revisions = |sample: &Sample| sample.position.1 as f64;
    frame.lines(canvas, kept, y, "revision", revisions);
    y += PANEL + GAP;
    frame.lanes(canvas, kept, y);
    y += lanes_height(kept) + GAP;
    let megabytes = |sample: &Sample| sample.resident as f64 / 1_024.0;
    frame.lines(canvas, kept, y, "memory, MiB", megabytes);
    frame.times(canvas, y + PANEL);
}

fn lanes_height(kept: &Kept) -> f64 {
    LANE * kept.samples.len() as f64
}

fn names_height(kept: &Kept) -> f64 {
    NAME * (rows(kept).into_iter().flatten().max().map_or(1, |row| row + 1)) as f64 + 28.0
}

/// A row for the number of each fault, such that no two overlap. In a run of an hour some find no
/// room; they are in the page's list, and under the pointer.
fn rows(kept: &Kept) -> Vec<Option<usize>> {
    let length = (kept.seconds.len() as f64 * 1_000.0).max(1.0);
    let frame = Frame { length };
    let mut ends: Vec<f64> = Vec::new();
    let place = |(index, band): (usize, &Band)| {
        let (begin, width) = (frame.x(band.began), LETTER * label(index, band).len() as f64 + 6.0);
        let free = ends.iter().position(|end| *end <= begin).unwrap_or(ends.len());
        if free >= MOST_ROWS {
            return None;
        }
        ends.resize(ends.len().max(free + 1), 0.0);
        ends[free] = begin + width;
        Some(free)
    };
    kept.bands.iter().enumerate().map(place).collect()
}

/// In a long run there is room for numbers only; the page lists what they are.
fn label(index: usize, band: &Band) -> String {
    let number = (index + 1).to_string();
    if band.note.starts_with("not done") { format!("({number})") } else { number }
}

impl Frame {
    fn x(&self, at: u64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * (at as f64 / self.length).min(1.0)
    }

    fn bands(&self, canvas: &mut impl Canvas, kept: &Kept, y: f64, height: f64) {
        for ((index, band), row) in kept.bands.iter().enumerate().zip(rows(kept)) {
            let (begin, end) = (self.x(band.began), self.x(band.ended));
            let converged = self.x(band.ended.saturating_add(band.converged.unwrap_or_default()));
            let about = format!("{}: {} of {} {}", index + 1, band.kind, band.victim, band.note);
            canvas.rect((begin, y), ((end - begin).max(1.0), height), [120, 120, 140], 0.22, &about);
            canvas.rect((end, y), ((converged - end).max(0.5), height), AMBER, 0.35, "converging");
            if let Some(row) = row {
                canvas.text((begin, TOP + NAME * row as f64 + 12.0), &label(index, band), INK);
            }
        }
        canvas.text((10.0, TOP + 12.0), "fault no.", INK);
    }

    /// Lines and numbers of a panel's scale.
    fn scale(&self, canvas: &mut impl Canvas, y: f64, most: f64, name: &str) {
        for share in [0.0, 0.5, 1.0] {
            let at = y + PANEL * (1.0 - share);
            canvas.line(&[(LEFT, at), (WIDTH - RIGHT, at)], FAINT);
            let number = format!("{:.0}", most * share);
            canvas.text((LEFT - 8.0 - LETTER * number.len() as f64, at + 5.0), &number, INK);
        }
        canvas.text((10.0, y - 8.0), name, INK);
    }

    fn bar(&self, canvas: &mut impl Canvas, second: usize, (y, share): (f64, f64), color: Color) {
        let (begin, end) = (self.x(second as u64 * 1_000), self.x(second as u64 * 1_000 + 1_000));
        let height = PANEL * share.clamp(0.0, 1.0);
        canvas.rect((begin, y + PANEL - height), ((end - begin).max(1.0), height), color, 0.9, "");
    }

    fn requests(&self, canvas: &mut impl Canvas, kept: &Kept, y: f64) {
        let most = kept.seconds.iter().map(|second| second.answered + second.failed).max().unwrap_or(1);
        let most = f64::from(most.max(1));
        self.scale(canvas, y, most, "requests/s through the balancer (blue: right answers, red: failed)");
        for (index, second) in kept.seconds.iter().enumerate() {
            self.bar(canvas, index, (y, f64::from(second.answered) / most), GOOD);
            if second.failed > 0 {
                // A single one must be seen.
                self.bar(canvas, index, (y, (f64::from(second.failed) / most).max(0.08)), BAD);
            }
        }
    }

    fn writes(&self, canvas: &mut impl Canvas, kept: &Kept, y: f64) {
        let most = kept.seconds.iter().map(|second| second.written).max().unwrap_or(1).max(1);
        self.scale(canvas, y, f64::from(most), "writes acknowledged/s");
        for (index, second) in kept.seconds.iter().enumerate() {
            self.bar(canvas, index, (y, f64::from(second.written) / f64::from(most)), GREEN);
        }
    }

    fn lines(
        &self,
        canvas: &mut impl Canvas,
        kept: &Kept,
        y: f64,
        name: &str,
        value: impl Fn(&Sample) -> f64,
    ) {
        let most = kept.samples.values().flatten().map(&value).fold(1.0, f64::max);
        self.scale(canvas, y, most, name);
        let mut x = LEFT + LETTER * 16.0;
        for ((replica, samples), color) in kept.samples.iter().zip(COLORS) {
            canvas.text((x, y - 8.0), replica, color);
            x += LETTER * (replica.len() as f64 + 2.0);
            let point = |sample: &Sample| (self.x(sample.at), y + PANEL * (1.0 - value(sample) / most));
            for run in samples.chunk_by(|one, next| next.at - one.at < SILENT) {
                canvas.line(&run.iter().map(point).collect::<Vec<_>>(), color);
            }
        }
    }

    /// Per replica: level, behind, or silent (nothing drawn).
    fn lanes(&self, canvas: &mut impl Canvas, kept: &Kept, y: f64) {
        canvas.text((10.0, y - 8.0), "replicas (green: level, amber: behind, white: no answer)", INK);
        let mut newest: Vec<(u64, (u64, u64))> =
            kept.samples.values().flatten().map(|sample| (sample.at, sample.position)).collect();
        newest.sort_unstable();
        let mut head = (0, 0);
        for (_, position) in &mut newest {
            head = head.max(*position);
            *position = head;
        }
        for (lane, (replica, samples)) in kept.samples.iter().enumerate() {
            let top = y + LANE * lane as f64;
            canvas.text((10.0, top + LANE - 6.0), replica, INK);
            for pair in samples.windows(2).filter(|pair| pair[1].at - pair[0].at < SILENT) {
                let at = newest.partition_point(|(at, _)| *at <= pair[0].at);
                let head =
                    at.checked_sub(1).and_then(|index| newest.get(index)).map_or((0, 0), |seen| seen.1);
                let position = pair[0].position;
                let behind = position.0 < head.0 || position.1 + BEHIND < head.1;
                let color = if behind { AMBER } else { GREEN };
                let (begin, end) = (self.x(pair[0].at), self.x(pair[1].at));
                canvas.rect((begin, top + 2.0), (end - begin, LANE - 4.0), color, 0.9, "");
            }
        }
    }

    fn times(&self, canvas: &mut impl Canvas, y: f64) {
        let steps = [10.0, 30.0, 60.0, 120.0, 300.0, 600.0];
        let step = steps.into_iter().find(|step| self.length / 1_000.0 / step <= 14.0).unwrap_or(1_200.0);
        let mut seconds = 0.0;
        while seconds * 1_000.0 <= self.length {
            let x = LEFT + (WIDTH - LEFT - RIGHT) * (seconds * 1_000.0 / self.length);
            canvas.line(&[(x, y), (x, y + 5.0)], INK);
            let text = format!("{}:{:02}", (seconds / 60.0).floor(), seconds % 60.0);
            canvas.text((x - LETTER * 2.0, y + 20.0), &text, INK);
            seconds += step;
        }
    }
}
