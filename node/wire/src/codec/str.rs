use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;

use bytes::Bytes;

use super::{DecodeError, DecodeErrorKind};

/// A string inside a frame: shares the frame's memory instead of copying it.
///
/// It keeps the whole frame alive; what outlives the request is taken with [`Str::detached`].
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Str(Bytes);

impl Str {
    /// The empty string.
    pub const EMPTY: Self = Self(Bytes::new());

    /// A copy in memory of its own, which does not keep the frame alive.
    pub fn detached(&self) -> Self {
        Self(Bytes::copy_from_slice(&self.0))
    }

    /// The string. Checked again on every call, since nothing here may be `unsafe`; names are short.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("a Str is made from UTF-8 only")
    }

    /// The bytes of the string, without a copy.
    pub fn into_bytes(self) -> Bytes {
        self.0
    }

    pub(crate) fn bytes(&self) -> &Bytes {
        &self.0
    }
}

impl TryFrom<Bytes> for Str {
    type Error = DecodeError;

    fn try_from(bytes: Bytes) -> Result<Self, DecodeError> {
        match std::str::from_utf8(&bytes) {
            Ok(_) => Ok(Self(bytes)),
            Err(_) => Err(DecodeErrorKind::NotUtf8.into()),
        }
    }
}

impl From<&'static str> for Str {
    fn from(text: &'static str) -> Self {
        Self(Bytes::from_static(text.as_bytes()))
    }
}

impl From<String> for Str {
    fn from(text: String) -> Self {
        Self(Bytes::from(text))
    }
}

impl From<&String> for Str {
    fn from(text: &String) -> Self {
        Self(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl From<Str> for String {
    fn from(text: Str) -> Self {
        text.as_str().to_owned()
    }
}

impl Deref for Str {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for Str {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl Borrow<str> for Str {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl Hash for Str {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl PartialOrd for Str {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Str {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

impl PartialEq<str> for Str {
    fn eq(&self, other: &str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl PartialEq<&str> for Str {
    fn eq(&self, other: &&str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl fmt::Debug for Str {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Str {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn a_map_keyed_by_str_is_asked_with_a_plain_string() {
        let map = HashMap::from([(Str::from("orders"), 1)]);
        assert_eq!(map.get("orders"), Some(&1));
    }

    #[test]
    fn a_detached_string_leaves_the_frame_alone() {
        let frame = Bytes::from(vec![b'x'; 1000]);
        let text = Str::try_from(frame.slice(..3)).expect("UTF-8");
        assert_ne!(text.detached().bytes().as_ptr(), frame.as_ptr());
        assert_eq!(text.detached(), text);
        assert!(text > "xx".into());
    }

    #[test]
    fn bytes_that_are_not_utf8_are_no_string() {
        let error = Str::try_from(Bytes::from_static(&[0xc3, 0x28])).expect_err("not UTF-8");
        assert_eq!(error.kind, DecodeErrorKind::NotUtf8);
    }
}
