//! Messages inside a bytes field of another message, behind two bytes of version: what the consumers of a
//! classic group tell one another through the coordinator, which does not read it.

use bytes::{Bytes, BytesMut};

use crate::codec::{DecodeError, DecodeErrorKind, Decoder, EncodeError, Encoder};
use crate::message::Message;

/// Writes a message behind its version.
pub fn encode<M: Message>(message: &M, version: i16) -> Result<Bytes, EncodeError> {
    let mut e = Encoder::new();
    e.i16(version);
    message.encode(&mut e, version)?;
    e.finish_in_one()
}

/// Reads a message behind its version. A newer version than we know is read as the newest we know, and what
/// follows is left alone: newer versions only add fields at the end, as in Kafka's `ConsumerProtocol`.
pub fn decode<M: Message>(bytes: &Bytes) -> Result<M, DecodeError> {
    let mut d = Decoder::new(BytesMut::from(&bytes[..]));
    let version = d.i16().map_err(|error| error.within(M::NAME))?;
    if version < M::VERSIONS.first {
        let unsupported = DecodeErrorKind::UnsupportedVersion {
            message: M::NAME,
            version,
            versions: M::VERSIONS,
        };
        return Err(unsupported.into());
    }
    M::decode(&mut d, version.min(M::VERSIONS.last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ConsumerProtocolSubscription;

    #[test]
    fn a_newer_version_is_read_as_the_newest_known() {
        let subscription = ConsumerProtocolSubscription {
            topics: vec!["orders".into()],
            ..Default::default()
        };
        let mut bytes = encode(&subscription, 3).expect("short").to_vec();
        bytes[1] = 9;
        bytes.extend([1, 2, 3]);
        assert_eq!(decode(&bytes.into()), Ok(subscription));
        let error = decode::<ConsumerProtocolSubscription>(&Bytes::from_static(&[0xff, 0xff]));
        assert!(matches!(
            error.expect_err("-1").kind,
            DecodeErrorKind::UnsupportedVersion { .. }
        ));
    }
}
