// SPDX-License-Identifier: Apache-2.0
//! What is left of a run for people and programs: `index.html` with the verdict, the
//! picture and the tables, `timeline.png`, `verdict.json`, beside the history. It says
//! what the verdict says and adds nothing.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::json;

use super::Options;
use super::history::{Band, Kept};
use super::plot;
use super::plot::canvas::{Pixels, Svg, escaped};
use super::verdict::{Explained, Verdict};

/// Rows of a table, the first its head.
type Table = Vec<Vec<String>>;

/// Writes everything to the output folder.
///
/// # Errors
/// When it cannot be written.
pub fn write(options: &Options, kept: &Kept, verdict: &Verdict) -> anyhow::Result<()> {
    let title = format!(
        "Ferrogate chaos, seed {}: {} faults in {} s, {}",
        options.seed,
        kept.bands.len(),
        kept.seconds.len(),
        if verdict.held() { "every promise held" } else { "PROMISES BROKEN" }
    );
    let (width, height) = plot::size(kept);
    let (mut svg, mut pixels) = (Svg::new(width, height), Pixels::new(width, height));
    plot::draw(&mut svg, kept, &title);
    plot::draw(&mut pixels, kept, &title);
    let tables = [
        ("Figures", figures(options, kept, verdict)),
        ("Time to converge after a fault's end, by kind", kinds(kept)),
        ("Failed requests, each explained", failures(verdict)),
        ("Faults", bands(kept)),
    ];
    std::fs::write(options.out.join("timeline.png"), pixels.finish()?)?;
    std::fs::write(options.out.join("index.html"), page(&title, &svg.finish(), verdict, &tables))?;
    let promises: Vec<_> = verdict
        .promises
        .iter()
        .map(|(promise, held, text)| json!({ "promise": format!("{promise:?}"), "held": held, "text": text }))
        .collect();
    let figures: BTreeMap<_, _> = tables[0].1.iter().skip(1).map(|row| (&row[0], &row[1])).collect();
    let summary = json!({ "held": verdict.held(), "broken": verdict.broken, "promises": promises,
                          "failedRequests": verdict.failures.len(), "unexplained": verdict.unexplained(),
                          "figures": figures, "kinds": tables[1].1 });
    std::fs::write(options.out.join("verdict.json"), format!("{summary:#}\n"))?;
    for (name, table) in &tables[..2] {
        println!("\n{name}\n");
        for row in table {
            println!("| {} |", row.join(" | "));
        }
    }
    Ok(())
}

/// The verdict for a terminal.
#[must_use]
pub fn text(verdict: &Verdict) -> String {
    let mut out = String::from("\nVerdict\n\n");
    for (promise, held, text) in &verdict.promises {
        let word = if *held { "held  " } else { "BROKEN" };
        out += &format!("{promise:?} {word} {text}\n");
    }
    for failure in verdict.failures.iter().filter(|failure| failure.fault.is_none()) {
        out += &format!("UNEXPLAINED {}\n", describe(failure).join(", "));
    }
    if let Some(broken) = &verdict.broken {
        out += &format!("the run broke off: {broken}\n");
    }
    let (failed, unexplained) = (verdict.failures.len(), verdict.unexplained());
    out += &format!("\nfailed requests: {failed}, of them without an explanation: {unexplained}\n");
    out
}

fn figures(options: &Options, kept: &Kept, verdict: &Verdict) -> Table {
    let mut rows = vec![vec!["figure".to_owned(), "value".to_owned()]];
    let mut row = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
    row("seed", options.seed.to_string());
    row("seconds", kept.seconds.len().to_string());
    let of = |held: fn(&Band) -> bool| kept.bands.iter().filter(|band| held(band)).count();
    row("faults", of(|band| band.converged.is_some() || band.paired).to_string());
    row("faults that overlapped another", of(|band| band.paired).to_string());
    let not_done = kept.bands.iter().filter(|band| band.note.starts_with("not done")).count();
    row("faults not done", not_done.to_string());
    row("requests through the balancer", kept.requests.to_string());
    row("failed requests", verdict.failures.len().to_string());
    row("failed without a broken connection to explain it", verdict.unexplained().to_string());
    row("requests straight to runtimes", kept.probes.to_string());
    row("writes acknowledged", kept.writes.len().to_string());
    row("writes answered live", kept.writes.iter().filter(|write| write.live).count().to_string());
    row("write attempts without an answer", kept.unanswered_writes.to_string());
    let mut writes: Vec<u64> =
        kept.writes.iter().filter(|one| one.retries == 0).map(|one| one.ended - one.began).collect();
    row("write to answer, not repeated: p50, p99", spread(&mut writes));
    let mut converged: Vec<u64> = kept.bands.iter().filter_map(|band| band.converged).collect();
    row("converged after the fault: p50, p99", spread(&mut converged));
    let mut first: Vec<u64> = kept.bands.iter().filter_map(|band| first_write(kept, band)).collect();
    row("first write after the old primary stopped: p50, p99", spread(&mut first));
    for (replica, samples) in &kept.samples {
        // The first fifth is warming up.
        let warm = samples.get(samples.len() / 5).map_or(0, |sample| sample.resident);
        let last = samples.last().map_or(0, |sample| sample.resident);
        let most = samples.iter().map(|sample| sample.resident).max().unwrap_or_default();
        let mib = |kib: u64| format!("{:.1}", kib as f64 / 1_024.0);
        let value = format!("{}, {}, {}", mib(warm), mib(last), mib(most));
        row(&format!("memory of {replica}, MiB: warm, end, most"), value);
    }
    rows
}

/// How long after the old primary had stopped a write that was sent after that was acknowledged.
fn first_write(kept: &Kept, band: &Band) -> Option<u64> {
    let stopped = band.failed_over?;
    let after = kept.writes.iter().filter(|write| write.ended > stopped + 1 && write.began <= band.ended);
    after.map(|write| write.ended - stopped).min()
}

/// `p50 ms, p99 ms (worst of n)`.
fn spread(samples: &mut [u64]) -> String {
    samples.sort_unstable();
    let at = |hundredths: usize| samples.get(samples.len().saturating_sub(1) * hundredths / 100);
    match (at(50), at(99), samples.last()) {
        (Some(p50), Some(p99), Some(worst)) => {
            format!("{p50} ms, {p99} ms (worst {worst} ms of {})", samples.len())
        }
        _ => "none".to_owned(),
    }
}

fn kinds(kept: &Kept) -> Table {
    let mut by_kind: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for band in &kept.bands {
        let kind = if band.paired { "two faults at once" } else { &band.kind };
        by_kind.entry(kind).or_default().extend(band.converged);
    }
    let head = ["fault", "times", "median, ms", "worst, ms"].map(str::to_owned).to_vec();
    let row = |(kind, mut times): (&str, Vec<u64>)| {
        times.sort_unstable();
        let median = times.get(times.len() / 2).map_or("not done".to_owned(), u64::to_string);
        let worst = times.last().map_or(String::new(), u64::to_string);
        vec![kind.to_owned(), times.len().to_string(), median, worst]
    };
    [head].into_iter().chain(by_kind.into_iter().map(row)).collect()
}

fn describe(failure: &Explained) -> Vec<String> {
    let request = &failure.request;
    let (runtime, termination, retries) = match &failure.log {
        Some(log) => (log.runtime.as_str(), log.termination.as_str(), log.retries.as_str()),
        None => ("kept connection closed", "", ""),
    };
    vec![
        request.id.clone(),
        request.began.to_string(),
        request.ended.to_string(),
        runtime.to_owned(),
        termination.to_owned(),
        retries.to_owned(),
        failure.fault.clone().unwrap_or_else(|| "UNEXPLAINED".to_owned()),
        request.reason.clone(),
    ]
}

fn failures(verdict: &Verdict) -> Table {
    let head =
        ["id", "began, ms", "failed, ms", "runtime", "termination", "retries", "explained by", "client saw"];
    [head.map(str::to_owned).to_vec()].into_iter().chain(verdict.failures.iter().map(describe)).collect()
}

fn bands(kept: &Kept) -> Table {
    let head = ["no.", "fault", "victim", "began, ms", "lasted, ms", "converged after, ms", "note"];
    let row = |(index, band): (usize, &Band)| {
        vec![
            (index + 1).to_string(),
            band.kind.clone(),
            band.victim.clone(),
            band.began.to_string(),
            band.ended.saturating_sub(band.began).to_string(),
            band.converged.map_or(String::new(), |took| took.to_string()),
            band.note.clone(),
        ]
    };
    [head.map(str::to_owned).to_vec()].into_iter().chain(kept.bands.iter().enumerate().map(row)).collect()
}

fn page(title: &str, svg: &str, verdict: &Verdict, tables: &[(&str, Table)]) -> String {
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{0}</title><style>\
         body{{font:15px sans-serif;margin:24px;max-width:1700px}}table{{border-collapse:collapse}}\
         td,th{{border:1px solid #ccc;padding:3px 8px;text-align:left;vertical-align:top}}\
         .held{{color:#286}}.broken{{color:#c22;font-weight:bold}}</style></head><body>\n<h1>{0}</h1>\n<table>\n",
        escaped(title)
    );
    for (promise, held, text) in &verdict.promises {
        let word = if *held { "held" } else { "broken" };
        let text = escaped(text).replace('\n', "<br>");
        out += &format!("<tr><th>{promise:?}</th><td class=\"{word}\">{word}</td><td>{text}</td></tr>\n");
    }
    out += "</table>\n";
    if let Some(broken) = &verdict.broken {
        out += &format!("<p class=\"broken\">The run broke off: {}</p>\n", escaped(broken));
    }
    out += svg;
    for (name, table) in tables {
        out += &format!("<h2>{}</h2>\n<table>\n", escaped(name));
        for (index, row) in table.iter().enumerate() {
            let tag = if index == 0 { "th" } else { "td" };
            out += "<tr>";
            for cell in row {
                write!(out, "<{tag}>{}</{tag}>", escaped(cell)).unwrap_or_default();
            }
            out += "</tr>\n";
        }
        out += "</table>\n";
    }
    out + "</body></html>\n"
}
