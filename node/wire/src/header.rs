//! What stands before every request and every response.

use crate::api::ApiKey;
use crate::codec::{DecodeError, DecodeErrorKind, Decoder, EncodeError, Encoder, Str};

/// The header of a request, versions 1 and 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// What is asked.
    pub api: ApiKey,
    /// In which version; any number, [`ApiKey::versions`] says which can be answered.
    pub version: i16,
    /// Comes back in the response.
    pub correlation_id: i32,
    /// A name the client gives itself.
    pub client_id: Option<Str>,
}

impl RequestHeader {
    /// Reads it. An unknown version of a known API is no error here: an `ApiVersions` request of a newer client
    /// must be answered, and every newer version keeps this layout (KIP-511).
    /// Errors: `UnknownApi` if there is no way to tell the layout.
    pub fn decode(d: &mut Decoder) -> Result<Self, DecodeError> {
        Self::decode_fields(d).map_err(|error| error.within("RequestHeader"))
    }

    fn decode_fields(d: &mut Decoder) -> Result<Self, DecodeError> {
        let api = d.i16()?;
        let version = d.i16()?;
        let correlation_id = d.i32()?;
        let api = ApiKey::from_code(api).ok_or(DecodeErrorKind::UnknownApi(api))?;
        // The client id keeps the old length in flexible versions too, so that any broker can read it.
        let client_id = d.str(false)?;
        if api.request_header_version(version) >= 2 {
            d.tagged_fields(|_, _| Ok(false))?;
        }
        Ok(Self {
            api,
            version,
            correlation_id,
            client_id,
        })
    }

    /// Writes it.
    pub fn encode(&self, e: &mut Encoder) -> Result<(), EncodeError> {
        e.i16(self.api.code());
        e.i16(self.version);
        e.i32(self.correlation_id);
        e.str(self.client_id.as_ref(), false)?;
        if self.api.request_header_version(self.version) >= 2 {
            e.tagged_fields(Vec::new())?;
        }
        Ok(())
    }
}

/// The header of a response, versions 0 and 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseHeader {
    /// That of the request.
    pub correlation_id: i32,
}

impl ResponseHeader {
    /// Reads the header of the answer to `api` in `version`.
    pub fn decode(d: &mut Decoder, api: ApiKey, version: i16) -> Result<Self, DecodeError> {
        let correlation_id = d
            .i32()
            .map_err(|error| error.within("ResponseHeader.correlation_id"))?;
        if api.response_header_version(version) >= 1 {
            d.tagged_fields(|_, _| Ok(false))
                .map_err(|error| error.within("ResponseHeader"))?;
        }
        Ok(Self { correlation_id })
    }

    /// Writes the header of the answer to `api` in `version`.
    pub fn encode(&self, e: &mut Encoder, api: ApiKey, version: i16) -> Result<(), EncodeError> {
        e.i32(self.correlation_id);
        if api.response_header_version(version) >= 1 {
            e.tagged_fields(Vec::new())?;
        }
        Ok(())
    }
}
