//! Frames: four bytes of length, then a header, then a message.

use bytes::{Buf, Bytes, BytesMut};
use thiserror::Error;

use crate::api::{ApiKey, RequestBody};
use crate::codec::{DecodeError, Decoder, EncodeError, Encoder, Str};
use crate::header::{RequestHeader, ResponseHeader};
use crate::message::{Message, Request};

/// Longest frame of a connection that has authenticated, or that need not.
pub const FRAME_BYTES_MAX: usize = 100 << 20;
/// Longest frame before authentication: enough for `ApiVersions` and any SASL exchange.
pub const UNAUTHENTICATED_FRAME_BYTES_MAX: usize = 64 << 10;
/// Bytes of the length in front.
pub const PREFIX_BYTES: usize = 4;

/// Why there is no telling where a frame ends. Close the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The peer does not speak Kafka: TLS or HTTP on this port look like this too.
    #[error("frame length {0} is negative: the peer does not speak the Kafka protocol")]
    NegativeLength(i32),
    /// The peer must send less at a time, or this is not Kafka.
    #[error("frame of {bytes} bytes, at most {bytes_max} are accepted on this connection")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The longest that is accepted.
        bytes_max: usize,
    },
}

/// Reads a length prefix. `bytes_max` is one of the two limits of this module, or a setting.
pub fn frame_bytes(prefix: [u8; PREFIX_BYTES], bytes_max: usize) -> Result<usize, FrameError> {
    let length = i32::from_be_bytes(prefix);
    let bytes = usize::try_from(length).map_err(|_| FrameError::NegativeLength(length))?;
    if bytes > bytes_max {
        return Err(FrameError::TooLong { bytes, bytes_max });
    }
    Ok(bytes)
}

/// Cuts the first whole frame off what has been received, without its prefix and without copying.
/// `None`: more must be received first. Reserves nothing; the reader does, and knows its budget.
pub fn split_frame(received: &mut BytesMut, bytes_max: usize) -> Result<Option<BytesMut>, FrameError> {
    let Some(prefix) = received.first_chunk::<PREFIX_BYTES>() else {
        return Ok(None);
    };
    let bytes = frame_bytes(*prefix, bytes_max)?;
    if received.len() - PREFIX_BYTES < bytes {
        return Ok(None);
    }
    received.advance(PREFIX_BYTES);
    Ok(Some(received.split_to(bytes)))
}

/// Reads a whole request. A broker that answers unsupported versions reads the header first instead.
pub fn decode_request(frame: BytesMut) -> Result<(RequestHeader, RequestBody), DecodeError> {
    let mut d = Decoder::new(frame);
    let header = RequestHeader::decode(&mut d)?;
    let body = RequestBody::decode(header.api, header.version, d)?;
    Ok((header, body))
}

/// Writes a request with prefix and header, as segments for a vectored write.
pub fn encode_request<R: Request>(
    request: &R,
    version: i16,
    correlation_id: i32,
    client_id: Option<Str>,
) -> Result<Vec<Bytes>, EncodeError> {
    let mut e = Encoder::framed();
    RequestHeader {
        api: R::API,
        version,
        correlation_id,
        client_id,
    }
    .encode(&mut e)?;
    request.encode(&mut e, version)?;
    e.finish()
}

/// Writes a response with prefix and header, as segments for a vectored write.
/// `version` is that of the request.
pub fn encode_response<M: Message>(
    response: &M,
    api: ApiKey,
    version: i16,
    correlation_id: i32,
) -> Result<Vec<Bytes>, EncodeError> {
    let mut e = Encoder::framed();
    ResponseHeader { correlation_id }.encode(&mut e, api, version)?;
    response.encode(&mut e, version)?;
    e.finish()
}

/// Reads the response to a request `R` of `version`, and the correlation id to hold against the request's.
pub fn decode_response<R: Request>(
    frame: BytesMut,
    version: i16,
) -> Result<(ResponseHeader, R::Response), DecodeError> {
    let mut d = Decoder::new(frame);
    let header = ResponseHeader::decode(&mut d, R::API, version)?;
    let response = R::Response::decode(&mut d, version)?;
    d.finish()?;
    Ok((header, response))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_cut_off_one_by_one_without_a_copy() {
        let mut received = BytesMut::from(&[0, 0, 0, 2, 1, 2, 0, 0, 0, 0, 0, 0, 0, 1][..]);
        let address = received.as_ptr() as usize;
        let first = split_frame(&mut received, 10).expect("short").expect("whole");
        assert_eq!((first.as_ptr() as usize, &first[..]), (address + 4, &[1, 2][..]));
        assert_eq!(split_frame(&mut received, 10), Ok(Some(BytesMut::new())));
        assert_eq!(split_frame(&mut received, 10), Ok(None));
        received.extend_from_slice(&[9]);
        assert_eq!(split_frame(&mut received, 10), Ok(Some(BytesMut::from(&[9][..]))));
        assert_eq!(split_frame(&mut received, 10), Ok(None));
    }

    #[test]
    fn a_length_above_the_limit_is_refused_before_the_frame_arrives() {
        let mut received = BytesMut::from(&[0, 0, 0, 11][..]);
        assert_eq!(
            split_frame(&mut received, 10),
            Err(FrameError::TooLong {
                bytes: 11,
                bytes_max: 10
            })
        );
        // What a TLS client says first.
        let mut received = BytesMut::from(&[0x16, 3, 1, 2][..]);
        assert_eq!(
            split_frame(&mut received, FRAME_BYTES_MAX),
            Err(FrameError::TooLong {
                bytes: 0x1603_0102,
                bytes_max: FRAME_BYTES_MAX
            })
        );
        let mut received = BytesMut::from(&[0xff; 4][..]);
        assert_eq!(
            split_frame(&mut received, 10),
            Err(FrameError::NegativeLength(-1))
        );
    }
}
