//! The form in which client programs write what they know: JSON lines, one event each.
//!
//! ```text
//! {"type":"ok","producer":0,"partition":1,"sequence":7,"offset":42}
//! {"type":"persisted","producer":0,"partition":1,"sequence":6}
//! {"type":"fail","producer":0,"partition":1,"sequence":8,"reason":"..."}     other fields are ignored
//! {"type":"unknown","producer":0,"partition":1,"sequence":9}
//! {"type":"sent","producer":0,"partition":1,"count":10}
//! {"type":"position","partition":1,"offset":0}
//! {"type":"read","partition":1,"offset":42,"value":"0 1 7"}
//! {"type":"complete","partition":1,"start":0,"end":43}
//! {"type":"commit","partition":1,"offset":43}
//! {"type":"committed","partition":1,"offset":43}
//! ```

use crate::history::{Event, History};

/// A client wrote something that is no event: the client program is wrong.
#[derive(Debug, thiserror::Error)]
#[error("{client}, line {line}: {reason}: '{text}'")]
pub struct LineError {
    /// The client.
    pub client: String,
    /// From 1.
    pub line: usize,
    /// The line, its start when it is long.
    pub text: String,
    /// What is wrong with it.
    pub reason: serde_json::Error,
}

impl History {
    /// Adds a client by the lines it wrote. A last line without its end was being written when the client was killed; it
    /// is left out.
    pub fn add_lines(&mut self, name: &str, text: &str) -> Result<(), LineError> {
        let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
        let mut events = Vec::new();
        for (index, line) in whole.lines().enumerate() {
            let event = serde_json::from_str::<Event>(line).map_err(|reason| LineError {
                client: name.to_owned(),
                line: index + 1,
                text: line.chars().take(200).collect(),
                reason,
            })?;
            events.push(event);
        }
        self.add(name, events);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Value;

    #[test]
    fn every_event_has_its_line() {
        let value = Value {
            producer: 0,
            partition: 1,
            sequence: 7,
        };
        let text = r#"{"type":"sent","producer":0,"partition":1,"count":10}
{"type":"ok","producer":0,"partition":1,"sequence":7,"offset":42}
{"type":"persisted","producer":0,"partition":1,"sequence":7}
{"type":"fail","producer":0,"partition":1,"sequence":7,"reason":"too large"}
{"type":"unknown","producer":0,"partition":1,"sequence":7}
{"type":"position","partition":1,"offset":0}
{"type":"read","partition":1,"offset":42,"value":"0 1 7"}
{"type":"complete","partition":1,"start":0,"end":43}
{"type":"commit","partition":1,"offset":43}
{"type":"committed","partition":1,"offset":44}
"#;
        let mut history = History::default();
        history.add_lines("c", text).unwrap();
        let expected = [
            Event::Sent {
                producer: 0,
                partition: 1,
                count: 10,
            },
            Event::Ok { value, offset: 42 },
            Event::Persisted { value },
            Event::Fail { value },
            Event::Unknown { value },
            Event::Position {
                partition: 1,
                offset: 0,
            },
            Event::Read {
                partition: 1,
                offset: 42,
                value: "0 1 7".to_owned(),
            },
            Event::Complete {
                partition: 1,
                start: 0,
                end: 43,
            },
            Event::Commit {
                partition: 1,
                offset: 43,
            },
            Event::Committed {
                partition: 1,
                offset: 44,
            },
        ];
        assert_eq!(history.clients[0].events, expected);
    }

    #[test]
    fn a_malformed_line_is_named() {
        let mut history = History::default();
        let text = "{\"type\":\"commit\",\"partition\":1,\"offset\":43}\n{\"type\":\"ok\",\"offset\":-1}\n";
        let error = history.add_lines("reader", text).unwrap_err().to_string();
        assert!(error.contains("reader, line 2"), "{error}");
        assert!(error.contains("\"offset\":-1"), "{error}");
    }

    #[test]
    fn a_line_that_was_cut_off_is_left_out() {
        let mut history = History::default();
        history
            .add_lines(
                "killed",
                "{\"type\":\"commit\",\"partition\":1,\"offset\":43}\n{\"type\":\"re",
            )
            .unwrap();
        assert_eq!(history.clients[0].events.len(), 1);
    }
}
