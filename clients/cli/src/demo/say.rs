//! What a demo without a screen says: lines for people, or one JSON object per line.

use std::io::Write;

use serde_json::{Value, json};

use super::picture::Picture;
use super::screen::hints;
use crate::error::CliError;
use crate::output::time_text;

/// How a demo shows what happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Show {
    /// On a screen.
    Screen,
    /// In lines.
    Text,
    /// In lines of JSON.
    Json,
}

impl Show {
    /// It is up, and the first record came through everywhere.
    pub(super) fn ready(self, picture: &Picture) -> Result<(), CliError> {
        match self {
            Self::Screen => Ok(()),
            Self::Json => {
                let mut fields = lean(picture);
                fields["try"] = hints(picture).into();
                line(&event("ready", fields).to_string())
            }
            Self::Text => line(&ready_text(picture)),
        }
    }

    /// Something happened.
    pub(super) fn news(self, what: &str) -> Result<(), CliError> {
        match self {
            Self::Screen => Ok(()),
            Self::Json => line(&event("news", json!({ "text": what })).to_string()),
            Self::Text => line(what),
        }
    }

    /// How it stands, again and again.
    pub(super) fn status(self, picture: &Picture) -> Result<(), CliError> {
        match self {
            Self::Json => line(&event("status", lean(picture)).to_string()),
            Self::Screen | Self::Text => Ok(()),
        }
    }

    /// It has ended.
    pub(super) fn ended(self, kept: Option<&std::path::Path>) -> Result<(), CliError> {
        match (self, kept) {
            (Self::Json, kept) => line(&event("ended", json!({ "kept": kept })).to_string()),
            (_, Some(kept)) => line(&format!("The demo has ended. Its data is in {}.", kept.display())),
            (_, None) => line("The demo has ended, and its data is removed."),
        }
    }
}

/// Without the news, which are events of their own.
fn lean(picture: &Picture) -> Value {
    let mut fields = picture.json();
    if let Some(fields) = fields.as_object_mut() {
        fields.remove("news");
    }
    fields
}

fn event(name: &str, fields: Value) -> Value {
    let mut event = serde_json::Map::new();
    event.insert("schema".to_owned(), "meridian.demo/1".into());
    event.insert("event".to_owned(), name.into());
    if let Value::Object(fields) = fields {
        event.extend(fields);
    }
    Value::Object(event)
}

fn ready_text(picture: &Picture) -> String {
    let first = picture.first_record.map(time_text).unwrap_or_default();
    let mut lines = vec![format!(
        "The demo is ready; the first record was through after {first}."
    )];
    for region in &picture.regions {
        let owner = if region.is_owner == Some(true) {
            "   (owner)"
        } else {
            ""
        };
        let nodes: Vec<String> = region.nodes.iter().map(|node| node.kafka.to_string()).collect();
        lines.push(format!("  {:<4} {}{owner}", region.name, nodes.join(",")));
    }
    lines.push(String::new());
    lines.push("Try, in another terminal:".to_owned());
    lines.extend(hints(picture).into_iter().map(|hint| format!("  {hint}")));
    lines.push(String::new());
    lines.push("Stop with Ctrl-C.".to_owned());
    lines.join("\n")
}

fn line(text: &str) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()?;
    Ok(())
}
