//! A run as Markdown and JSON.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::aim::{Against, aims};
use crate::compare::Run;
use crate::sample::{Found, Metric, Sample};
use crate::statistics::{Estimate, estimate, median};
use crate::system::System;
use crate::workload::Workload;

/// More CPU than this used by others makes a sample doubtful.
const OUTSIDE_SHARE_MAX: f64 = 0.05;

/// One sample, for a terminal.
pub fn line(sample: &Sample) -> String {
    let mut text = format!("{:<13} ", sample.workload.to_string());
    match &sample.found {
        Found::Load {
            outcome,
            mb_per_s,
            server_cpu_s_per_gb,
            client_cpu_s_per_gb,
        } => {
            write!(
                text,
                "{mb_per_s:>7.1} MB/s  server {server_cpu_s_per_gb:>5.2} CPU s/GB  client {client_cpu_s_per_gb:>5.2}"
            )
            .expect("a string takes all");
            if let (Some(p50), Some(p99), Some(p999)) = (outcome.p50_ms, outcome.p99_ms, outcome.p999_ms) {
                write!(text, "  p50 {p50:.2} p99 {p99:.2} p99.9 {p999:.2} ms").expect("a string takes all");
            }
        }
        Found::Idle { core_percent } => {
            write!(text, "{core_percent:>7.2} % of a core").expect("a string takes all");
        }
    }
    if sample.outside_share > OUTSIDE_SHARE_MAX {
        write!(
            text,
            "  (others used {:.0} % of the CPU)",
            sample.outside_share * 100.0
        )
        .expect("a string takes all");
    }
    text
}

/// The values of one number, block by block.
fn values(run: &Run, system: System, workload: Workload, metric: Metric) -> Vec<(u32, f64)> {
    run.samples
        .iter()
        .filter(|sample| sample.system == system && sample.workload == workload)
        .filter_map(|sample| Some((sample.block, metric.of(sample)?)))
        .collect()
}

fn median_of(run: &Run, system: System, workload: Workload, metric: Metric) -> Option<f64> {
    let values: Vec<f64> = values(run, system, workload, metric)
        .into_iter()
        .map(|(_, value)| value)
        .collect();
    median(&values)
}

/// The ratios of two systems in the same blocks.
fn ratio(run: &Run, of: System, to: System, workload: Workload, metric: Metric) -> Option<Estimate> {
    let to = values(run, to, workload, metric);
    let ratios: Vec<f64> = values(run, of, workload, metric)
        .into_iter()
        .filter_map(|(block, value)| {
            let (_, other) = to.iter().find(|(other, _)| *other == block)?;
            (*other > 0.0).then_some(value / other)
        })
        .collect();
    estimate(&ratios)
}

/// The whole report.
pub fn markdown(run: &Run) -> String {
    let mut text = String::new();
    let nodes = match run.nodes {
        1 => String::new(),
        nodes => format!(", {nodes} nodes"),
    };
    let title = if run.quick { ", a quick run" } else { "" };
    let mut add = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    add(format!(
        "# Meridian beside Apache Kafka 4.3{nodes}, {}{title}\n",
        run.date
    ));
    add(format!(
        "Commit `{}`. {}. Method: [README](README.md).",
        run.commit, run.machine
    ));
    add(format!(
        "{} blocks of each system, alternating; windows of {} s after {} s; {} MB taken in before the first \
         workload{}. Load average before {}, after {}.\n",
        run.blocks,
        run.length.seconds,
        run.length.warm_s,
        run.length.warm_bytes / 1_000_000,
        if run.quick {
            " (a JVM is fully warm only after 5000 MB)"
        } else {
            ""
        },
        run.load_before,
        run.load_after,
    ));
    let doubtful = run
        .samples
        .iter()
        .filter(|s| s.outside_share > OUTSIDE_SHARE_MAX)
        .count();
    if run.quick || run.blocks < 5 || doubtful * 10 > run.samples.len() {
        add(format!(
            "**Not to be quoted.** A claim needs a full run of at least 5 blocks on a machine that does nothing else; \
             here others used more than {:.0} % of the CPU in {doubtful} of {} samples.\n",
            OUTSIDE_SHARE_MAX * 100.0,
            run.samples.len(),
        ));
    }
    for system in &run.systems {
        add(format!("- **{system}**: {}", system.description(run.nodes)));
    }
    add(String::new());
    add(table(run));
    if run.systems.contains(&System::F) {
        add(format!("## Aims\n\n{}", aims_table(run)));
    }
    let shares: Vec<f64> = run.samples.iter().map(|s| s.outside_share * 100.0).collect();
    add(format!(
        "## Noise\n\nOther processes used more than {:.0} % of the CPU in {doubtful} of {} samples (median {:.1} %, \
         most {:.1} %).",
        OUTSIDE_SHARE_MAX * 100.0,
        run.samples.len(),
        median(&shares).unwrap_or(0.0),
        shares.iter().copied().fold(0.0, f64::max),
    ));
    if !run.missing.is_empty() {
        add("\n## Not measured\n".to_owned());
        for reason in &run.missing {
            add(format!("- {reason}"));
        }
    }
    add("\n## Every block\n\n```text".to_owned());
    for sample in &run.samples {
        add(format!(
            "{} {:<2} {}",
            sample.block,
            sample.system.to_string(),
            line(sample)
        ));
    }
    add("```".to_owned());
    text
}

/// Medians of every number, and the ratios that matter.
fn table(run: &Run) -> String {
    let pairs: Vec<(System, System)> = [
        (System::F, System::K0),
        (System::F, System::K1),
        (System::M, System::K0),
    ]
    .into_iter()
    .filter(|(of, to)| run.systems.contains(of) && run.systems.contains(to))
    .collect();
    let mut text = String::from("| workload | |");
    for system in &run.systems {
        write!(text, " {system} |").expect("a string takes all");
    }
    for (of, to) in &pairs {
        write!(text, " {of}/{to} |").expect("a string takes all");
    }
    text.push_str("\n|---|---|");
    text.push_str(&"---|".repeat(run.systems.len() + pairs.len()));
    text.push('\n');
    for workload in &run.workloads {
        for metric in Metric::ALL {
            let medians: Vec<Option<f64>> = run
                .systems
                .iter()
                .map(|system| median_of(run, *system, *workload, metric))
                .collect();
            if medians.iter().all(Option::is_none) {
                continue;
            }
            write!(text, "| {workload} | {} |", metric.label()).expect("a string takes all");
            for value in medians {
                write!(text, " {} |", value.map_or("-".to_owned(), number)).expect("a string takes all");
            }
            for (of, to) in &pairs {
                let cell = ratio(run, *of, *to, *workload, metric).map_or("-".to_owned(), interval);
                write!(text, " {cell} |").expect("a string takes all");
            }
            text.push('\n');
        }
    }
    text.push_str("\nMedians over the blocks. A ratio is the median of the ratios of the blocks, with its 95 % bootstrap interval.\n");
    text
}

fn aims_table(run: &Run) -> String {
    let mut text = String::from("| workload | | aim | found | |\n|---|---|---|---|---|\n");
    for workload in &run.workloads {
        for aim in aims(*workload, run.nodes) {
            let of_f = |workload| median_of(run, System::F, workload, aim.metric);
            let (wanted, found) = match aim.against {
                Against::System(to) => {
                    let ratio = ratio(run, System::F, to, *workload, aim.metric);
                    let shown = ratio.map(|it| (it.median, interval(it)));
                    (format!("{}x {to}", aim.value), shown)
                }
                Against::Workload(other) => {
                    let ratio = of_f(*workload).zip(of_f(other)).map(|(of, to)| of / to);
                    (
                        format!("{}x {other}", aim.value),
                        ratio.map(|it| (it, number(it))),
                    )
                }
                Against::Nothing => {
                    let shown = of_f(*workload).map(|it| (it, number(it)));
                    (aim.value.to_string(), shown)
                }
            };
            let word = if aim.metric.is_to_be_high() {
                "at least"
            } else {
                "at most"
            };
            let (shown, verdict) = match found {
                Some((value, shown)) if aim.is_met_by(value) => (shown, "met"),
                Some((_, shown)) => (shown, "missed"),
                None => ("-".to_owned(), "not measured"),
            };
            let label = aim.metric.label();
            writeln!(
                text,
                "| {workload} | {label} | {word} {wanted} | {shown} | {verdict} |"
            )
            .expect("a string takes all");
        }
    }
    text
}

fn number(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

fn interval(estimate: Estimate) -> String {
    let Estimate { median, low, high } = estimate;
    format!("{median:.2} [{low:.2}..{high:.2}]")
}

/// Writes `docs/benchmarks/DATE-NAME.md` and, with all of `run`, `.json`; gives the first. Errors: the files cannot be written.
pub fn store(run: &impl Serialize, markdown: &str, date: &str, name: &str) -> Result<PathBuf, String> {
    let path = path(date, name);
    let json = serde_json::to_string_pretty(run).expect("a run is plain data");
    let write = |path: &Path, text: &str| {
        std::fs::write(path, text).map_err(|e| format!("cannot write {}: {e}", path.display()))
    };
    write(&path, markdown)?;
    write(&path.with_extension("json"), &(json + "\n"))?;
    Ok(path)
}

/// Where a report of that day lies.
pub fn path(date: &str, name: &str) -> PathBuf {
    meridian_compat::workspace::root()
        .join("docs/benchmarks")
        .join(format!("{date}-{name}.md"))
}
