//! What several test binaries need: seeded randomness, and message bytes made from the tables alone.
#![allow(dead_code, reason = "each test binary uses its own part")]

pub(crate) mod kafka_jar;
pub(crate) mod sample;

use meridian_wire::schema::StructSchema;
use meridian_wire::{ApiKey, DecodeError, Decoder, EncodeError, Encoder, RequestBody, ResponseBody};

/// Seeded randomness (splitmix64), the same on every machine and in every version of any crate.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}

/// A request or a response, of any API.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Body {
    Request(RequestBody),
    Response(ResponseBody),
}

/// One message in one version.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) api: ApiKey,
    pub(crate) response: bool,
    pub(crate) version: i16,
}

impl Case {
    /// Every message in every version.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        ApiKey::ALL.iter().flat_map(|&api| {
            [false, true].into_iter().flat_map(move |response| {
                api.versions().iter().map(move |version| Self {
                    api,
                    response,
                    version,
                })
            })
        })
    }

    /// Every message of Kafka's in every version: what others can be asked about.
    pub(crate) fn all_of_kafka() -> impl Iterator<Item = Self> {
        Self::all().filter(|case| !case.api.is_private())
    }

    pub(crate) fn schema(self) -> &'static StructSchema {
        self.api.schemas()[usize::from(self.response)]
    }

    pub(crate) fn flexible(self) -> bool {
        self.api.flexible_versions().contains(self.version)
    }

    pub(crate) fn sample(self, random: &mut Random) -> Vec<u8> {
        sample::message(random, self.schema(), self.version, self.flexible())
    }

    pub(crate) fn decode(self, bytes: &[u8]) -> Result<Body, DecodeError> {
        let d = Decoder::new(bytes.into());
        if self.response {
            ResponseBody::decode(self.api, self.version, d).map(Body::Response)
        } else {
            RequestBody::decode(self.api, self.version, d).map(Body::Request)
        }
    }

    pub(crate) fn encode(self, body: &Body) -> Result<Vec<u8>, EncodeError> {
        let mut e = Encoder::new();
        match body {
            Body::Request(body) => body.encode(&mut e, self.version)?,
            Body::Response(body) => body.encode(&mut e, self.version)?,
        }
        Ok(e.finish_in_one()?.to_vec())
    }
}
