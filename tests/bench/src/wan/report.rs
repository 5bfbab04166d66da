//! A run of `bench wan` as Markdown and JSON.

use std::fmt::Write as _;

use super::lag::Lag;
use super::{Goodput, Run};

/// The share of the link that is to be reached, by how much of it is lost: (percent at most, share), for 16 partitions.
const SHARES: [(f64, f64); 2] = [(0.1, 0.85), (1.0, 0.7)];

/// The share that one partition is to reach.
const SHARE_OF_ONE: f64 = 0.7;

/// What may be sent for each byte that arrives: a tenth may be sent again, and headers count too.
const SENT_MAX: f64 = 1.1;

/// The whole report.
pub fn markdown(run: &Run) -> String {
    let mut text = format!(
        "# Over a WAN, {}\n\nCommit `{}`. {}. Method: [README](README.md). Each system has one node here and one far away; every packet \
         between them, TCP's as well as UDP's, passes a link of {} MB/s with a queue of 50 ms, made in user space between two \
         network interfaces. The kernel's TCP runs {}. Windows of {} s, one sample each. Load average before {}, after {}.\n\n",
        run.date, run.commit, run.machine, run.rate_mb, run.tcp, run.seconds, run.load_before, run.load_after,
    );
    if cfg!(debug_assertions) {
        text.push_str("**Built without optimization: this only shows that it runs.**\n\n");
    }
    goodput(&mut text, run);
    lag(&mut text, run);
    if !run.acks.is_empty() {
        text.push_str(
            "## What `geo.acks=1` adds\n\nWrites of 1 KiB one after the other, p50.\n\n\
             | round trip | alone | awaited | added | at most | |\n|---|---|---|---|---|---|\n",
        );
        for it in &run.acks {
            row(
                &mut text,
                &[
                    format!("{} ms", it.weather.rtt_ms),
                    format!("{:.1} ms", it.alone_ms),
                    format!("{:.1} ms", it.awaited_ms),
                    format!("{:.1} ms", it.added_ms()),
                    format!("{:.0} ms", it.aim_ms()),
                    verdict(it.added_ms() <= it.aim_ms()),
                ],
            );
        }
        text.push('\n');
    }
    if !run.cuts.is_empty() {
        text.push_str(
            "## After a cut\n\nRecords are written all the time; the time runs from the return of the link until every record \
             comes as fast as before.\n\n\
             | system | round trip | cut | as before after | written | arrived | twice |\n|---|---|---|---|---|---|---|\n",
        );
        for it in &run.cuts {
            row(
                &mut text,
                &[
                    it.system.to_string(),
                    format!("{} ms", it.weather.rtt_ms),
                    format!("{:.0} s", it.cut_s),
                    format!("{:.1} s", it.recovered_s),
                    it.written.to_string(),
                    it.arrived.to_string(),
                    it.doubled.to_string(),
                ],
            );
        }
        text.push('\n');
    }
    if !run.missing.is_empty() {
        text.push_str("## Not measured\n\n");
        for reason in &run.missing {
            writeln!(text, "- {reason}").expect("a string takes all");
        }
    }
    text
}

fn goodput(text: &mut String, run: &Run) {
    if run.goodput.is_empty() {
        return;
    }
    text.push_str(
        "## Goodput\n\nMore is written than the link carries; counted are the values of records that consumers can read at the far place. \
         \"Sent\" is what was put on the link for each byte of them, headers and what got lost included: at most 1.1, so that no \
         tenth is sent again. CPU seconds for each GB: near server, far server, copying process.\n\n\
         | system | round trip | lost | partitions | MB/s | of the link | at least | | sent | | CPU near | far | copier |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for it in &run.goodput {
        let aim = aim(it);
        row(
            text,
            &[
                it.system.to_string(),
                format!("{} ms", it.weather.rtt_ms),
                format!("{} %", it.weather.loss_percent),
                it.partitions.to_string(),
                format!("{:.1}", it.mb_per_s),
                format!("{:.0} %", 100.0 * it.share()),
                format!("{:.0} %", 100.0 * aim),
                verdict(it.share() >= aim),
                format!("{:.2}", it.sent_per_byte),
                verdict(it.sent_per_byte <= SENT_MAX),
                format!("{:.1}", it.near_cpu_s_per_gb),
                format!("{:.1}", it.far_cpu_s_per_gb),
                format!("{:.1}", it.copier_cpu_s_per_gb),
            ],
        );
    }
    text.push('\n');
}

fn lag(text: &mut String, run: &Run) {
    if run.lag.is_empty() {
        return;
    }
    text.push_str(
        "## Lag\n\n400 records of 1 KiB a second; from the sending of a record until a consumer at the far place has read it.\n\n\
         | system | round trip | lost | p50 | p99 | max | p99 at most | |\n|---|---|---|---|---|---|---|---|\n",
    );
    for it in &run.lag {
        let aim = Lag::aim_ms(it.weather);
        row(
            text,
            &[
                it.system.to_string(),
                format!("{} ms", it.weather.rtt_ms),
                format!("{} %", it.weather.loss_percent),
                format!("{:.1} ms", it.p50_ms),
                format!("{:.1} ms", it.p99_ms),
                format!("{:.1} ms", it.max_ms),
                format!("{aim:.0} ms"),
                verdict(it.p99_ms <= aim),
            ],
        );
    }
    text.push('\n');
}

fn aim(of: &Goodput) -> f64 {
    if of.partitions == 1 {
        return SHARE_OF_ONE;
    }
    let share = SHARES
        .iter()
        .find(|(percent, _)| of.weather.loss_percent <= *percent);
    share.map_or(0.0, |(_, share)| *share)
}

fn verdict(is_met: bool) -> String {
    if is_met { "met" } else { "missed" }.to_owned()
}

fn row(text: &mut String, cells: &[String]) {
    writeln!(text, "| {} |", cells.join(" | ")).expect("a string takes all");
}
