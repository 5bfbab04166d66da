//! Proof of a write, for reading it elsewhere. Pure.

use std::fmt;
use std::str::FromStr;

use meridian_types::{LeaderEpoch, Offset, TopicId, Uuid};
use thiserror::Error;

/// Where a record was written. A consumer that was given one reads from a broker, say a mirror's next door, only once this has
/// the record: who has written sees what was written, whichever region is read.
///
/// A client gets it from the record's leader, by [`crate::Producer::token`] or [`crate::Admin::tokens`], and gives it to
/// [`crate::Consumer::assign_after`]. Between processes it travels as text, about 45 characters long
/// (`docs/formats/token.md`). It holds nothing secret, and proves nothing about who made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// The topic: one that is made anew under the same name is another.
    pub topic: TopicId,
    /// The partition.
    pub partition: u32,
    /// The epoch that the record was written under: offset and epoch together name one record for ever (KIP-320).
    pub leader_epoch: LeaderEpoch,
    /// The record's offset.
    pub offset: Offset,
}

/// What stands before the first point of every token of this form.
const VERSION: &str = "1";

/// Why a text is no token: ask who gave it for another.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{text:?} is no token: expected {expected}")]
pub struct TokenError {
    text: String,
    expected: &'static str,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            topic,
            partition,
            leader_epoch,
            offset,
        } = self;
        write!(
            f,
            "{VERSION}.{}.{partition}.{leader_epoch}.{offset}",
            topic.0.simple()
        )
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let wrong = |expected| TokenError {
            // What comes from elsewhere may be long.
            text: text.chars().take(80).collect(),
            expected,
        };
        let parts: Vec<&str> = text.splitn(6, '.').collect();
        let &[version, topic, partition, leader_epoch, offset] = &parts[..] else {
            return Err(wrong("1.TOPIC-ID.PARTITION.EPOCH.OFFSET"));
        };
        if version != VERSION {
            return Err(wrong("version 1; a newer client made it"));
        }
        let topic = Some(topic)
            .filter(|topic| topic.len() == 32)
            .and_then(|topic| Uuid::try_parse(topic).ok())
            .ok_or_else(|| wrong("a topic's id of 32 hexadecimal digits"))?;
        Ok(Self {
            topic: TopicId(topic),
            partition: number(partition).ok_or_else(|| wrong("a partition's number"))?,
            leader_epoch: LeaderEpoch(number(leader_epoch).ok_or_else(|| wrong("a leader epoch"))?),
            offset: Offset(number(offset).ok_or_else(|| wrong("an offset"))?),
        })
    }
}

/// Digits alone, and none of them too many; as many as the protocol's signed numbers hold.
fn number<T: TryFrom<u64>>(text: &str) -> Option<T> {
    let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 = text.parse().ok().filter(|_| is_plain)?;
    let most = if size_of::<T>() == 4 {
        i32::MAX as u64
    } else {
        i64::MAX as u64
    };
    T::try_from(number).ok().filter(|_| number <= most)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        Token {
            topic: TopicId(Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef)),
            partition: 7,
            leader_epoch: LeaderEpoch(1 << 20 | 5),
            offset: Offset(41),
        }
    }

    #[test]
    fn the_stored_token_of_version_1_is_written_and_read() {
        let text = "1.0123456789abcdef0123456789abcdef.7.1048581.41";
        assert_eq!(token().to_string(), text);
        assert_eq!(text.parse(), Ok(token()));
        let last = Token {
            partition: i32::MAX as u32,
            leader_epoch: LeaderEpoch(i32::MAX as u32),
            offset: Offset(i64::MAX as u64),
            ..token()
        };
        assert_eq!(last.to_string().parse(), Ok(last));
    }

    #[test]
    fn what_is_no_token_is_told_so() {
        let id = "0123456789abcdef0123456789abcdef";
        for (text, reason) in [
            (String::new(), "TOPIC-ID"),
            ("41".to_owned(), "TOPIC-ID"),
            (format!("1.{id}.7.5"), "TOPIC-ID"),
            (format!("1.{id}.7.5.41.2"), "TOPIC-ID"),
            (format!("2.{id}.7.5.41"), "newer client"),
            (format!("1.{}.7.5.41", &id[1..]), "32 hexadecimal"),
            (format!("1.{}x.7.5.41", &id[1..]), "32 hexadecimal"),
            (format!("1.{id}..5.41"), "partition"),
            (format!("1.{id}.2147483648.5.41"), "partition"),
            (format!("1.{id}.7.-1.41"), "epoch"),
            (format!("1.{id}.7.5.+41"), "offset"),
            (format!("1.{id}.7.5.9223372036854775808"), "offset"),
        ] {
            let error = text.parse::<Token>().expect_err(&text).to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
        let long = "x".repeat(1 << 20).parse::<Token>().expect_err("it is none");
        assert!(long.to_string().len() < 200);
    }
}
