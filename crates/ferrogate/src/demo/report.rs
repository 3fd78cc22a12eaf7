// SPDX-License-Identifier: Apache-2.0
//! What the reader of the walk sees: each step's promise before it is tried, then what
//! was observed and how long it took, and a verdict at the end.

use std::time::{Duration, Instant};

use crate::output;

/// The walk so far.
#[derive(Default)]
pub struct Report {
    steps: usize,
    broken: Vec<String>,
}

/// A step under way.
pub struct Step {
    title: String,
    began: Instant,
}

/// What a kept promise looked like.
pub struct Observed {
    /// In words.
    pub what: String,
    /// The time the promise is about, when that is not the whole step's.
    pub took: Option<Duration>,
}

impl Observed {
    /// With the whole step's time.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), took: None }
    }

    /// With a time of its own.
    pub fn after(took: Duration, what: impl Into<String>) -> Self {
        Self { what: what.into(), took: Some(took) }
    }
}

impl Report {
    /// Announces a step.
    pub fn begin(&mut self, title: &str, promise: &str) -> anyhow::Result<Step> {
        self.steps += 1;
        output::text(&format!("\n{}. {title}\n   promised  {promise}\n", self.steps))?;
        Ok(Step { title: title.to_owned(), began: Instant::now() })
    }

    /// Tells how a step went.
    pub fn end(&mut self, step: Step, went: anyhow::Result<Observed>) -> anyhow::Result<()> {
        let whole = step.began.elapsed();
        let text = match went {
            Ok(observed) => {
                let took = observed.took.unwrap_or(whole);
                format!("   observed  {}\n   time      {}  kept\n", observed.what, shown(took))
            }
            Err(error) => {
                self.broken.push(step.title);
                format!("   observed  {error:#}\n   time      {}  BROKEN\n", shown(whole))
            }
        };
        Ok(output::text(&text)?)
    }

    /// Tells the verdict; answers whether every promise was kept.
    pub fn close(&self) -> anyhow::Result<bool> {
        if self.broken.is_empty() {
            output::line(&format!("\nAll {} promises were kept.", self.steps))?;
        } else {
            output::line(&format!("\n{} of {} promises were BROKEN:", self.broken.len(), self.steps))?;
            for title in &self.broken {
                output::line(&format!("  {title}"))?;
            }
        }
        Ok(self.broken.is_empty())
    }
}

/// A time for people.
pub fn shown(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{} ms", time.as_millis())
    } else {
        format!("{:.2} s", time.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::{Observed, Report, shown};
    use std::time::Duration;

    #[test]
    fn one_broken_promise_breaks_the_verdict() {
        let mut report = Report::default();
        let step = report.begin("first", "something").unwrap();
        report.end(step, Ok(Observed::new("it"))).unwrap();
        assert!(report.close().unwrap());
        let step = report.begin("second", "something").unwrap();
        report.end(step, Err(anyhow::anyhow!("not so"))).unwrap();
        assert!(!report.close().unwrap());
    }

    #[test]
    fn times_are_readable() {
        assert_eq!(shown(Duration::from_micros(41_900)), "41 ms");
        assert_eq!(shown(Duration::from_millis(1234)), "1.23 s");
    }
}
