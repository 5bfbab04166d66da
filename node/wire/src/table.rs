//! The macro behind every table in `messages/`.
//!
//! ```text
//! api! {
//!     /// What the request asks.
//!     ApiName: versions (4-18), flexible (12+);
//!
//!     request ApiNameRequest {
//!         /// What the field means.
//!         field_name: type (versions), flag, flag(value);
//!     }
//!     struct InnerStruct { .. }
//!
//!     response ApiNameResponse { .. }
//!     struct OtherInnerStruct { .. }
//! }
//! ```
//!
//! `data!` is the same for a message without an API, inside a bytes field of another one.
//!
//! Types are those of Kafka's specification: `bool int8 int16 uint16 int32 int64 float64 uuid string bytes`,
//! `[type]` for arrays, the name of a struct of the table, `records` for a log read without copying
//! ([`Records`](crate::Records)) and `records_mut` for batches that will be stamped in place (`BytesMut`).
//! Versions are `0+`, `0-12`, `3` or `none`. Flags:
//!
//! - `nullable(versions)`: may be null; the Rust type becomes `Option`.
//! - `default(value)`: the value in versions without the field; otherwise zero or empty.
//! - `tag(number)`: a tagged field, in all the versions it exists in.
//! - `ignorable`: versions without the field drop its value instead of refusing it.

/// One API: a request and its response.
macro_rules! api {
    (
        $(#[$doc:meta])*
        $api:ident: versions $versions:tt, flexible $flexible:tt;

        request $request:ident { $($request_fields:tt)* }
        $( $(#[$request_struct_doc:meta])* struct $request_struct:ident { $($request_struct_fields:tt)* } )*

        response $response:ident { $($response_fields:tt)* }
        $( $(#[$response_struct_doc:meta])* struct $response_struct:ident { $($response_struct_fields:tt)* } )*
    ) => {
        wire_struct! { $(#[$doc])* $request { $($request_fields)* } }
        $( wire_struct! { $(#[$request_struct_doc])* $request_struct { $($request_struct_fields)* } } )*
        wire_struct! {
            #[doc = concat!("Answers [`", stringify!($request), "`].")]
            $response { $($response_fields)* }
        }
        $( wire_struct! { $(#[$response_struct_doc])* $response_struct { $($response_struct_fields)* } } )*

        message! { $request, versions $versions, flexible $flexible }
        message! { $response, versions $versions, flexible $flexible }

        impl $crate::message::Request for $request {
            const API: $crate::api::ApiKey = $crate::api::ApiKey::$api;
            type Response = $response;
        }
    };
}

/// A message that clients put into a bytes field: a table without an API.
macro_rules! data {
    (
        $(#[$doc:meta])*
        $name:ident: versions $versions:tt, flexible $flexible:tt { $($fields:tt)* }
        $( $(#[$struct_doc:meta])* struct $struct:ident { $($struct_fields:tt)* } )*
    ) => {
        wire_struct! { $(#[$doc])* $name { $($fields)* } }
        $( wire_struct! { $(#[$struct_doc])* $struct { $($struct_fields)* } } )*
        message! { $name, versions $versions, flexible $flexible }
    };
}

/// Makes a struct a whole message.
macro_rules! message {
    ($name:ident, versions $versions:tt, flexible $flexible:tt) => {
        impl $crate::message::Message for $name {
            const NAME: &'static str = stringify!($name);
            const VERSIONS: $crate::schema::Versions = versions!($versions);
            const FLEXIBLE: $crate::schema::Versions = versions!($flexible);
            const SCHEMA: &'static $crate::schema::StructSchema = &Self::TABLE;

            fn decode(
                d: &mut $crate::codec::Decoder,
                version: i16,
            ) -> Result<Self, $crate::codec::DecodeError> {
                if !Self::VERSIONS.contains(version) {
                    return Err($crate::codec::DecodeErrorKind::UnsupportedVersion {
                        message: Self::NAME,
                        version,
                        versions: Self::VERSIONS,
                    }
                    .into());
                }
                let flexible = Self::FLEXIBLE.contains(version);
                $crate::field::Field::decode(
                    d,
                    $crate::field::WireVersion {
                        number: version,
                        flexible,
                    },
                    false,
                )
            }

            fn encode(
                &self,
                e: &mut $crate::codec::Encoder,
                version: i16,
            ) -> Result<(), $crate::codec::EncodeError> {
                if !Self::VERSIONS.contains(version) {
                    return Err($crate::codec::EncodeError::UnsupportedVersion {
                        message: Self::NAME,
                        version,
                        versions: Self::VERSIONS,
                    });
                }
                let flexible = Self::FLEXIBLE.contains(version);
                let version = $crate::field::WireVersion {
                    number: version,
                    flexible,
                };
                $crate::field::Field::encode(self, e, version, false)
            }
        }
    };
}

/// One struct of a table.
macro_rules! wire_struct {
    (
        $(#[$doc:meta])*
        $name:ident {$(
            $(#[$field_doc:meta])*
            $field:ident: $type:tt $versions:tt $(, $flag:ident $(($($value:tt)+))? )*;
        )*}
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {$(
            $(#[$field_doc])*
            pub $field: field_type!($type; $($flag ($($($value)+)?))*),
        )*}

        impl Default for $name {
            fn default() -> Self {
                Self {$(
                    $field: field_default!($($flag ($($($value)+)?))*),
                )*}
            }
        }

        impl $name {
            /// Its table.
            pub const TABLE: $crate::schema::StructSchema = $crate::schema::StructSchema {
                name: stringify!($name),
                fields: &[$(
                    $crate::schema::FieldSchema {
                        name: stringify!($field),
                        ty: <field_type!($type; $($flag ($($($value)+)?))*) as $crate::field::Field>::TYPE,
                        versions: versions!($versions),
                        nullable: field_nullable!($($flag ($($($value)+)?))*),
                        tag: field_tag!($($flag ($($($value)+)?))*),
                        default: field_default_text!($($flag ($($($value)+)?))*),
                        ignorable: field_ignorable!($($flag ($($($value)+)?))*),
                    },
                )*],
            };
        }

        impl $crate::field::Field for $name {
            const TYPE: $crate::schema::FieldType = $crate::schema::FieldType::Struct(&Self::TABLE);

            fn absent() -> Self {
                Self::default()
            }

            #[allow(unused_mut, reason = "a message may have no fields")]
            fn bytes_min(version: $crate::field::WireVersion) -> usize {
                let mut bytes = usize::from(version.flexible);
                $(
                    let tag: Option<u32> = field_tag!($($flag ($($($value)+)?))*);
                    if tag.is_none() && versions!($versions).contains(version.number) {
                        bytes += <field_type!($type; $($flag ($($($value)+)?))*)>::bytes_min(version);
                    }
                )*
                bytes
            }

            #[allow(unused_mut, reason = "a message may have no fields")]
            fn decode(
                d: &mut $crate::codec::Decoder,
                version: $crate::field::WireVersion,
                _: bool,
            ) -> Result<Self, $crate::codec::DecodeError> {
                let mut value = Self::default();
                $(
                    let tag: Option<u32> = field_tag!($($flag ($($($value)+)?))*);
                    if tag.is_none() && versions!($versions).contains(version.number) {
                        let nullable = field_nullable!($($flag ($($($value)+)?))*).contains(version.number);
                        value.$field = $crate::field::Field::decode(d, version, nullable)
                            .map_err(|error| error.within(concat!(stringify!($name), ".", stringify!($field))))?;
                    }
                )*
                if version.flexible {
                    d.tagged_fields(|_d, _tag| {
                        $(
                            let tag: Option<u32> = field_tag!($($flag ($($($value)+)?))*);
                            if tag == Some(_tag) && versions!($versions).contains(version.number) {
                                let nullable =
                                    field_nullable!($($flag ($($($value)+)?))*).contains(version.number);
                                value.$field = $crate::field::Field::decode(_d, version, nullable).map_err(
                                    |error| error.within(concat!(stringify!($name), ".", stringify!($field))),
                                )?;
                                return Ok(true);
                            }
                        )*
                        Ok(false)
                    })
                    .map_err(|error| error.within(stringify!($name)))?;
                }
                Ok(value)
            }

            fn encode(
                &self,
                e: &mut $crate::codec::Encoder,
                version: $crate::field::WireVersion,
                _: bool,
            ) -> Result<(), $crate::codec::EncodeError> {
                let mut _tagged: Vec<(u32, $crate::codec::Encoder)> = Vec::new();
                $(
                    let tag: Option<u32> = field_tag!($($flag ($($($value)+)?))*);
                    let nullable = field_nullable!($($flag ($($($value)+)?))*).contains(version.number);
                    if !versions!($versions).contains(version.number) {
                        if !field_ignorable!($($flag ($($($value)+)?))*) {
                            let default: field_type!($type; $($flag ($($($value)+)?))*) =
                                field_default!($($flag ($($($value)+)?))*);
                            if self.$field != default {
                                return Err($crate::codec::EncodeError::FieldNotInVersion {
                                    field: concat!(stringify!($name), ".", stringify!($field)),
                                    version: version.number,
                                });
                            }
                        }
                    } else if let Some(tag) = tag {
                        let default: field_type!($type; $($flag ($($($value)+)?))*) =
                            field_default!($($flag ($($($value)+)?))*);
                        if self.$field != default {
                            let mut content = $crate::codec::Encoder::new();
                            $crate::field::Field::encode(&self.$field, &mut content, version, nullable)?;
                            _tagged.push((tag, content));
                        }
                    } else {
                        $crate::field::Field::encode(&self.$field, e, version, nullable)?;
                    }
                )*
                if version.flexible {
                    e.tagged_fields(_tagged)?;
                }
                Ok(())
            }
        }

        /// A struct that may be null has a byte in front: -1 for null, 1 for a value.
        impl $crate::field::Nullable for $name {
            fn decode_nullable(
                d: &mut $crate::codec::Decoder,
                version: $crate::field::WireVersion,
            ) -> Result<Option<Self>, $crate::codec::DecodeError> {
                if d.i8()? < 0 {
                    return Ok(None);
                }
                $crate::field::Field::decode(d, version, false).map(Some)
            }

            fn encode_nullable(
                value: Option<&Self>,
                e: &mut $crate::codec::Encoder,
                version: $crate::field::WireVersion,
            ) -> Result<(), $crate::codec::EncodeError> {
                e.i8(if value.is_some() { 1 } else { -1 });
                value.map_or(Ok(()), |value| $crate::field::Field::encode(value, e, version, false))
            }
        }
    };
}

/// `(4-18)`, `(12+)`, `(3)`, `(none)`.
macro_rules! versions {
    ((none)) => {
        $crate::schema::Versions::NONE
    };
    (($first:literal - $last:literal)) => {
        $crate::schema::Versions {
            first: $first,
            last: $last,
        }
    };
    (($first:literal +)) => {
        $crate::schema::Versions {
            first: $first,
            last: i16::MAX,
        }
    };
    (($only:literal)) => {
        $crate::schema::Versions {
            first: $only,
            last: $only,
        }
    };
}

/// The Rust type of a field: that of its wire type, in an `Option` if it has the flag `nullable`.
macro_rules! field_type {
    (records; $($flags:tt)*) => { $crate::codec::Records };
    ($type:tt; ) => { wire_type!($type) };
    ($type:tt; nullable $versions:tt $($flags:tt)*) => { Option<wire_type!($type)> };
    ($type:tt; $flag:ident $value:tt $($flags:tt)*) => { field_type!($type; $($flags)*) };
}

/// The Rust type of a wire type.
macro_rules! wire_type {
    (bool) => { bool };
    (int8) => { i8 };
    (int16) => { i16 };
    (uint16) => { u16 };
    (int32) => { i32 };
    (int64) => { i64 };
    (float64) => { f64 };
    (uuid) => { meridian_types::Uuid };
    (string) => { $crate::codec::Str };
    (bytes) => { bytes::Bytes };
    (records_mut) => { bytes::BytesMut };
    ([$element:tt]) => { Vec<wire_type!($element)> };
    ($name:ident) => { $name };
}

/// The value of the flag `default`, or the type's own.
macro_rules! field_default {
    () => { $crate::field::Field::absent() };
    (default ($value:expr) $($flags:tt)*) => { $value };
    ($flag:ident $value:tt $($flags:tt)*) => { field_default!($($flags)*) };
}

/// The value of the flag `default` as it is written.
macro_rules! field_default_text {
    () => { None };
    (default ($value:expr) $($flags:tt)*) => { Some(stringify!($value)) };
    ($flag:ident $value:tt $($flags:tt)*) => { field_default_text!($($flags)*) };
}

/// The versions of the flag `nullable`.
macro_rules! field_nullable {
    () => { $crate::schema::Versions::NONE };
    (nullable $versions:tt $($flags:tt)*) => { versions!($versions) };
    ($flag:ident $value:tt $($flags:tt)*) => { field_nullable!($($flags)*) };
}

/// The number of the flag `tag`.
macro_rules! field_tag {
    () => { None };
    (tag ($tag:literal) $($flags:tt)*) => { Some($tag) };
    ($flag:ident $value:tt $($flags:tt)*) => { field_tag!($($flags)*) };
}

/// Whether there is the flag `ignorable`.
macro_rules! field_ignorable {
    () => { false };
    (ignorable () $($flags:tt)*) => { true };
    ($flag:ident $value:tt $($flags:tt)*) => { field_ignorable!($($flags)*) };
}
