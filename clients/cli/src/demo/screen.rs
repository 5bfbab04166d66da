//! The live view of a demo on a terminal.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Paragraph, Row, Table, Wrap};

use self::keys::{Selected, Selection};
use super::node::NodeState;
use super::picture::{LinkPicture, NodePicture, Picture, RegionPicture};
use crate::output::{bytes_text, time_text};

pub(super) mod driver;
pub(super) mod keys;

/// The keys, in the last line.
const HELP: &str = "↑↓ choose  k kill -9  s start  c cut link  h heal  o switch over here  q quit";

/// Lines that news have at least, with their frame.
const NEWS_HEIGHT: u16 = 4;

const GOOD: Style = Style::new().fg(Color::Green);
const BAD: Style = Style::new().fg(Color::Red);
const FAINT: Style = Style::new().add_modifier(Modifier::DIM);
const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, picture: &Picture, selection: &Selection) {
    let nodes: usize = picture.regions.iter().map(|region| region.nodes.len()).sum();
    // A table has a frame and a header.
    let rows = |rows: usize| u16::try_from(rows).unwrap_or(u16::MAX).saturating_add(3);
    let mut heights = vec![1, rows(picture.regions.len()), rows(nodes)];
    if !picture.links.is_empty() {
        heights.push(rows(picture.links.len()));
    }
    let hints = hints(picture);
    let hints_height = u16::try_from(hints.len() + 2).unwrap_or(u16::MAX);
    // What to try is left out first where the terminal is small; the keys never are.
    let needed = heights
        .iter()
        .fold(NEWS_HEIGHT + 1, |sum: u16, height| sum.saturating_add(*height));
    let has_hints = needed.saturating_add(hints_height) <= frame.area().height;
    let mut parts: Vec<Constraint> = heights.into_iter().map(Constraint::Max).collect();
    parts.push(Constraint::Fill(1));
    if has_hints {
        parts.push(Constraint::Length(hints_height));
    }
    parts.push(Constraint::Length(1));
    let areas = Layout::vertical(parts).split(frame.area());
    let mut areas = areas.iter().copied();
    let mut next = || areas.next().unwrap_or_default();
    frame.render_widget(title(picture), next());
    regions(frame, next(), &picture.regions);
    node_table(frame, next(), picture, selection);
    if !picture.links.is_empty() {
        links(frame, next(), &picture.links, selection);
    }
    news(frame, next(), picture);
    if has_hints {
        let lines: Vec<Line<'_>> = hints.into_iter().map(Line::from).collect();
        let try_this = Block::bordered().title(" try, in another terminal ");
        frame.render_widget(Paragraph::new(lines).block(try_this), next());
    }
    frame.render_widget(Paragraph::new(HELP).style(BOLD), next());
}

fn title(picture: &Picture) -> Line<'static> {
    let first = match picture.first_record {
        Some(first) => format!("first record through after {}", time_text(first)),
        None => "starting".to_owned(),
    };
    Line::from(vec![
        Span::styled("Meridian demo", BOLD),
        Span::raw(format!(
            "   running for {} s   {first}",
            picture.running_for.as_secs()
        )),
    ])
}

/// Lines that a person can copy.
pub(super) fn hints(picture: &Picture) -> Vec<String> {
    let (Some(first), Some(last)) = (picture.regions.first(), picture.regions.last()) else {
        return Vec::new();
    };
    let (Some(node), Some(far)) = (first.nodes.first(), last.nodes.first()) else {
        return Vec::new();
    };
    let rack = match picture.regions.len() {
        1 => String::new(),
        _ => format!(" -X client.rack={}", last.name),
    };
    let mut hints = vec![
        format!("kcat -b {}{rack} -C -t orders -o -5 -e", far.kafka),
        format!("echo hello | kcat -b {} -P -t clicks", far.kafka),
        format!(
            "kafka-console-consumer.sh --bootstrap-server {} --topic orders --max-messages 5",
            node.kafka
        ),
        format!("meridian tier list --bucket {}", first.bucket.display()),
        format!("meridian demo kill {}{}", far.name, control(picture)),
    ];
    if let Some(second) = picture.regions.get(1) {
        hints.extend([
            format!("meridian mirror status --server {}", node.kafka),
            format!(
                "meridian demo cut {}-{}{}",
                first.name,
                second.name,
                control(picture)
            ),
            format!(
                "meridian demo switchover --to {}{}",
                second.name,
                control(picture)
            ),
        ]);
    }
    hints
}

/// The option that names the control port, where it is not the usual one.
pub(super) fn control(picture: &Picture) -> String {
    match picture.control {
        Some(at) if at.to_string() != super::control::DEFAULT => format!(" --control {at}"),
        _ => String::new(),
    }
}

fn table<'a>(title: &'static str, header: &[&'static str], rows: Vec<Row<'a>>, widths: &[u16]) -> Table<'a> {
    // The last column gives way where the terminal is narrow.
    let (last, others) = widths.split_last().unwrap_or((&0, &[]));
    let others = others.iter().map(|width| Constraint::Length(*width));
    let widths = others.chain([Constraint::Max(*last)]);
    Table::new(rows, widths)
        .header(Row::new(header.to_vec()).style(FAINT))
        .block(Block::bordered().title(title))
        .column_spacing(1)
}

fn regions(frame: &mut Frame<'_>, area: Rect, regions: &[RegionPicture]) {
    let rows = regions.iter().map(|region| {
        let (load, tier) = (&region.load, &region.tier);
        let owner = match region.is_owner {
            Some(true) => Cell::new("owner").style(GOOD),
            Some(false) => Cell::new("mirror"),
            None => Cell::new("-"),
        };
        Row::new(vec![
            Cell::new(region.name.clone()),
            owner,
            Cell::new(format!("{:.0}/s", load.produced_per_second)),
            Cell::new(format!("{:.0}/s", load.consumed_per_second)),
            Cell::new(load.delay_ms.map_or("-".to_owned(), |ms| format!("{ms:.0} ms"))),
            Cell::new(load.failed.to_string()).style(if load.failed > 0 { BAD } else { Style::new() }),
            Cell::new(format!(
                "{} in {} objects",
                bytes_text(tier.object_bytes),
                tier.objects
            )),
            Cell::new(bytes_text(tier.waiting_bytes)),
        ])
    });
    let header = [
        "REGION",
        "ROLE",
        "WRITTEN",
        "READ",
        "DELAY",
        "FAILED",
        "IN BUCKET",
        "WAITING",
    ];
    let widths = [6, 6, 7, 6, 7, 6, 24, 9];
    frame.render_widget(table(" regions ", &header, rows.collect(), &widths), area);
}

fn node_table(frame: &mut Frame<'_>, area: Rect, picture: &Picture, selection: &Selection) {
    let nodes = picture.regions.iter().flat_map(|region| &region.nodes);
    let rows = nodes.map(|node| {
        let is_selected =
            matches!(selection.selected(picture), Some(Selected::Node(it)) if it.name == node.name);
        node_row(node).style(marked(is_selected))
    });
    let header = ["NODE", "KAFKA", "PID", "STATE", "LEADS", ""];
    let widths = [8, 16, 9, 9, 6, 40];
    frame.render_widget(table(" nodes ", &header, rows.collect(), &widths), area);
}

fn node_row(node: &NodePicture) -> Row<'_> {
    let (style, reason) = match &node.state {
        NodeState::Ready { .. } => (GOOD, ""),
        NodeState::New | NodeState::Starting { .. } => (Style::new(), ""),
        NodeState::Down { reason, .. } => (BAD, reason.as_str()),
    };
    let dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    Row::new(vec![
        Cell::new(node.name.to_string()),
        Cell::new(node.kafka.to_string()),
        Cell::new(dash(node.state.pid().map(|pid| pid.to_string()))),
        Cell::new(node.state_text()).style(style),
        Cell::new(dash(node.leads.map(|leads| leads.to_string()))),
        Cell::new(reason),
    ])
}

fn links(frame: &mut Frame<'_>, area: Rect, links: &[LinkPicture], selection: &Selection) {
    let rows = links.iter().enumerate().map(|(index, link)| {
        let state = if link.is_cut {
            Cell::new("cut").style(BAD)
        } else {
            Cell::new("whole").style(GOOD)
        };
        let measured = link.measured.map_or("-".to_owned(), time_text);
        Row::new(vec![
            Cell::new(link.name.to_string()),
            state,
            Cell::new(time_text(link.round_trip)),
            Cell::new(measured),
            Cell::new(format!("{}/s", bytes_text(link.bytes_per_second as u64))),
            Cell::new(link.staleness.map_or("-".to_owned(), time_text)),
        ])
        .style(marked(selection.is_link(index)))
    });
    let header = ["LINK", "STATE", "ROUND TRIP", "MEASURED", "CARRIES", "BEHIND"];
    let widths = [10, 7, 11, 11, 14, 10];
    frame.render_widget(table(" links ", &header, rows.collect(), &widths), area);
}

fn news(frame: &mut Frame<'_>, area: Rect, picture: &Picture) {
    let room = usize::from(area.height.saturating_sub(2));
    let from = picture.news.len().saturating_sub(room);
    let lines: Vec<Line<'_>> = picture.news[from..]
        .iter()
        .map(|line| Line::from(line.as_str()))
        .collect();
    let block = Block::bordered().title(" what happens ");
    frame.render_widget(
        Paragraph::new(lines).wrap(Wrap { trim: false }).block(block),
        area,
    );
}

fn marked(is_selected: bool) -> Style {
    if is_selected {
        Style::new().add_modifier(Modifier::REVERSED)
    } else {
        Style::new()
    }
}

#[cfg(test)]
mod tests;
