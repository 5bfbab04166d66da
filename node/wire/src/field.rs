//! How a value of each type is read and written.

use bytes::{Bytes, BytesMut};
use meridian_types::Uuid;

use crate::codec::{DecodeError, DecodeErrorKind, Decoder, EncodeError, Encoder, Records, Str};
use crate::schema::FieldType;

/// The version a message is read or written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WireVersion {
    /// Its number.
    pub number: i16,
    /// Whether lengths are compact and structs end in tagged fields.
    pub flexible: bool,
}

/// A value that can stand in a field.
pub trait Field: Sized {
    /// The type in the specification.
    const TYPE: FieldType;

    /// What the field holds in versions without it, unless the table gives a default: zero or empty.
    fn absent() -> Self;

    /// Least bytes it can take.
    fn bytes_min(version: WireVersion) -> usize;

    /// Reads it. `nullable`: null is allowed in this version.
    fn decode(d: &mut Decoder, version: WireVersion, nullable: bool) -> Result<Self, DecodeError>;

    /// Writes it. `nullable`: null is allowed in this version.
    fn encode(&self, e: &mut Encoder, version: WireVersion, nullable: bool) -> Result<(), EncodeError>;
}

/// A value that has a form for null.
pub trait Nullable: Field {
    /// Reads it where null is allowed.
    fn decode_nullable(d: &mut Decoder, version: WireVersion) -> Result<Option<Self>, DecodeError>;

    /// Writes it where null is allowed.
    fn encode_nullable(
        value: Option<&Self>,
        e: &mut Encoder,
        version: WireVersion,
    ) -> Result<(), EncodeError>;
}

impl<T: Nullable> Field for Option<T> {
    const TYPE: FieldType = T::TYPE;

    fn absent() -> Self {
        Some(T::absent())
    }

    fn bytes_min(_: WireVersion) -> usize {
        1
    }

    fn decode(d: &mut Decoder, version: WireVersion, nullable: bool) -> Result<Self, DecodeError> {
        if nullable {
            T::decode_nullable(d, version)
        } else {
            T::decode(d, version, false).map(Some)
        }
    }

    fn encode(&self, e: &mut Encoder, version: WireVersion, nullable: bool) -> Result<(), EncodeError> {
        match self {
            value if nullable => T::encode_nullable(value.as_ref(), e, version),
            Some(value) => value.encode(e, version, false),
            None => Err(EncodeError::Null {
                version: version.number,
            }),
        }
    }
}

macro_rules! fixed {
    ($($type:ty, $kind:ident, $bytes:literal, $method:ident, $zero:expr;)*) => {$(
        impl Field for $type {
            const TYPE: FieldType = FieldType::$kind;

            fn absent() -> Self {
                $zero
            }

            fn bytes_min(_: WireVersion) -> usize {
                $bytes
            }

            fn decode(d: &mut Decoder, _: WireVersion, _: bool) -> Result<Self, DecodeError> {
                d.$method()
            }

            fn encode(&self, e: &mut Encoder, _: WireVersion, _: bool) -> Result<(), EncodeError> {
                e.$method(*self);
                Ok(())
            }
        }
    )*};
}

fixed! {
    bool, Bool, 1, bool, false;
    i8, Int8, 1, i8, 0;
    i16, Int16, 2, i16, 0;
    u16, Uint16, 2, u16, 0;
    i32, Int32, 4, i32, 0;
    i64, Int64, 8, i64, 0;
    f64, Float64, 8, f64, 0.0;
    Uuid, Uuid, 16, uuid, Uuid::nil();
}

/// A type with a length in front, which also says null.
macro_rules! lengthy {
    ($($type:ty, $kind:ident, $length_bytes:literal,
        |$d:ident, $decode_flexible:ident| $decode:expr,
        |$e:ident, $value:ident, $flexible:ident| $encode:expr;)*) => {$(
        impl Field for $type {
            const TYPE: FieldType = FieldType::$kind;

            fn absent() -> Self {
                Self::default()
            }

            fn bytes_min(version: WireVersion) -> usize {
                if version.flexible { 1 } else { $length_bytes }
            }

            fn decode(d: &mut Decoder, version: WireVersion, _: bool) -> Result<Self, DecodeError> {
                Self::decode_nullable(d, version)?.ok_or_else(|| DecodeErrorKind::Null.into())
            }

            fn encode(&self, e: &mut Encoder, version: WireVersion, _: bool) -> Result<(), EncodeError> {
                Self::encode_nullable(Some(self), e, version)
            }
        }

        impl Nullable for $type {
            fn decode_nullable($d: &mut Decoder, version: WireVersion) -> Result<Option<Self>, DecodeError> {
                let $decode_flexible = version.flexible;
                $decode
            }

            fn encode_nullable(
                $value: Option<&Self>,
                $e: &mut Encoder,
                version: WireVersion,
            ) -> Result<(), EncodeError> {
                let $flexible = version.flexible;
                $encode
            }
        }
    )*};
}

lengthy! {
    Str, String, 2, |d, flexible| d.str(flexible), |e, value, flexible| e.str(value, flexible);
    Bytes, Bytes, 4, |d, flexible| d.bytes(flexible), |e, value, flexible| e.bytes_field(value, flexible);
    BytesMut, Records, 4, |d, flexible| d.bytes_mut(flexible),
        |e, value, flexible| e.slice_field(value.map(|bytes| &bytes[..]), flexible);
}

/// Null is read as no records, and never written.
impl Field for Records {
    const TYPE: FieldType = FieldType::Records;

    fn absent() -> Self {
        Self::EMPTY
    }

    fn bytes_min(version: WireVersion) -> usize {
        if version.flexible { 1 } else { 4 }
    }

    fn decode(d: &mut Decoder, version: WireVersion, nullable: bool) -> Result<Self, DecodeError> {
        match d.bytes(version.flexible)? {
            Some(bytes) => Ok(bytes.into()),
            None if nullable => Ok(Self::EMPTY),
            None => Err(DecodeErrorKind::Null.into()),
        }
    }

    fn encode(&self, e: &mut Encoder, version: WireVersion, _: bool) -> Result<(), EncodeError> {
        e.records(self, version.flexible)
    }
}

impl<T: Field> Field for Vec<T> {
    const TYPE: FieldType = FieldType::Array(&T::TYPE);

    fn absent() -> Self {
        Self::new()
    }

    fn bytes_min(version: WireVersion) -> usize {
        if version.flexible { 1 } else { 4 }
    }

    fn decode(d: &mut Decoder, version: WireVersion, _: bool) -> Result<Self, DecodeError> {
        Self::decode_nullable(d, version)?.ok_or_else(|| DecodeErrorKind::Null.into())
    }

    fn encode(&self, e: &mut Encoder, version: WireVersion, _: bool) -> Result<(), EncodeError> {
        Self::encode_nullable(Some(self), e, version)
    }
}

impl<T: Field> Nullable for Vec<T> {
    fn decode_nullable(d: &mut Decoder, version: WireVersion) -> Result<Option<Self>, DecodeError> {
        let Some(count) = d.array_length(version.flexible)? else {
            return Ok(None);
        };
        let mut elements = d.array(count, T::bytes_min(version))?;
        for _ in 0..count {
            elements.push(T::decode(d, version, false)?);
        }
        Ok(Some(elements))
    }

    fn encode_nullable(
        value: Option<&Self>,
        e: &mut Encoder,
        version: WireVersion,
    ) -> Result<(), EncodeError> {
        e.array_length(value.map(Self::len), version.flexible)?;
        value
            .into_iter()
            .flatten()
            .try_for_each(|element| element.encode(e, version, false))
    }
}
