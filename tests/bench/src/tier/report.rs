//! A run of `bench tier` as Markdown and JSON.

use std::fmt::Write as _;

use super::Run;
use super::figure::AIMS;
use crate::statistics::estimate;

/// The whole report.
pub fn markdown(run: &Run) -> String {
    let mut text = format!(
        "# What tiering costs and gives, {}{}\n\nCommit `{}`. {}. Method: [README](README.md). {} blocks; windows of {} s; \
         {} records/s of 1 KiB where a rate is fixed; {} MB of history. One node, the bucket a local directory on the same \
         disk. Load average before {}, after {}.\n\n",
        run.date,
        if run.quick { ", a quick run" } else { "" },
        run.commit,
        run.machine,
        run.blocks,
        run.seconds,
        run.rate,
        run.history_mb,
        run.load_before,
        run.load_after,
    );
    if run.is_debug {
        text.push_str("**Built without optimization: this only shows that it runs.**\n\n");
    } else if run.quick || run.blocks < 5 {
        text.push_str(
            "**Not to be quoted.** A claim needs at least 5 blocks on a machine that does nothing else.\n\n",
        );
    }
    text.push_str("## Aims\n\n| | aim | found | |\n|---|---|---|---|\n");
    for aim in AIMS {
        let word = if aim.is_least { "at least" } else { "at most" };
        let wanted = match aim.against {
            Some(against) => format!("{word} {}x \"{}\"", aim.value, against.label()),
            None => format!("{word} {} {}", aim.value, aim.of.unit()),
        };
        let (found, verdict) = match aim.found(&run.figures) {
            None => ("-".to_owned(), "not measured"),
            Some(found) => {
                let verdict = if aim.is_met_by(found.median) {
                    "met"
                } else {
                    "missed"
                };
                let shown = format!("{:.2} [{:.2}..{:.2}]", found.median, found.low, found.high);
                (shown, verdict)
            }
        };
        line(&mut text, &[aim.of.label(), &wanted, &found, verdict]);
    }
    text.push_str("\n## Figures\n\n| | median | | every block |\n|---|---|---|---|\n");
    for figure in &run.figures {
        let median = estimate(&figure.values).map_or("-".to_owned(), |it| number(it.median));
        let all: Vec<String> = figure.values.iter().copied().map(number).collect();
        line(
            &mut text,
            &[figure.what.label(), &median, figure.what.unit(), &all.join(", ")],
        );
    }
    if !run.missing.is_empty() {
        text.push_str("\n## Not measured\n\n");
        for reason in &run.missing {
            writeln!(text, "- {reason}").expect("a string takes all");
        }
    }
    text
}

fn line(text: &mut String, cells: &[&str]) {
    writeln!(text, "| {} |", cells.join(" | ")).expect("a string takes all");
}

fn number(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}
