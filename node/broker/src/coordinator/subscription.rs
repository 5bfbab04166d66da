//! The topics in a consumer's metadata, read leniently: nothing else looks inside.

/// Topics of a consumer subscription: version (i16), then an array of strings, then whatever later
/// versions add (Kafka's `ConsumerProtocolSubscription`). `None` when the bytes are not of that form.
pub(super) fn topics(metadata: &[u8]) -> Option<Vec<String>> {
    let (version, mut rest) = metadata.split_first_chunk::<2>()?;
    if i16::from_be_bytes(*version) < 0 {
        return None;
    }
    let (count, after) = rest.split_first_chunk::<4>()?;
    rest = after;
    let count = usize::try_from(i32::from_be_bytes(*count)).ok()?;
    // Each topic takes at least its two bytes of length.
    if count > rest.len() / 2 {
        return None;
    }
    let mut topics = Vec::with_capacity(count);
    for _ in 0..count {
        let (length, after) = rest.split_first_chunk::<2>()?;
        let length = usize::try_from(i16::from_be_bytes(*length)).ok()?;
        let (name, after) = after.split_at_checked(length)?;
        topics.push(std::str::from_utf8(name).ok()?.to_owned());
        rest = after;
    }
    Some(topics)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_read_and_later_fields_ignored() {
        let bytes = b"\x00\x03\x00\x00\x00\x02\x00\x01a\x00\x03b-c\x00\x00\x00\x00rest";
        assert_eq!(topics(bytes), Some(vec!["a".to_owned(), "b-c".to_owned()]));
    }

    #[test]
    fn cut_or_lying_metadata_is_unknown_not_a_panic() {
        let bytes = b"\x00\x00\x00\x00\x00\x01\x00\x01a";
        for end in 0..bytes.len() {
            assert_eq!(topics(&bytes[..end]), None, "cut at {end}");
        }
        assert_eq!(topics(b"\x00\x00\x7f\xff\xff\xff"), None);
        assert_eq!(topics(b"\x00\x00\xff\xff\xff\xff"), None);
        assert_eq!(topics(b"\x00\x00\x00\x00\x00\x01\x00\x01\xff"), None);
    }
}
