//! The APIs that are served.

use std::fmt;

use crate::codec::{DecodeError, Decoder, EncodeError, Encoder};
use crate::message::{Message, Request};
use crate::messages::*;
use crate::schema::Versions;

macro_rules! apis {
    ($($api:ident = $code:literal, $request:ident;)*) => {
        /// An API that is served. The list is `ALL`; which of them a broker advertises is its own choice.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(i16)]
        pub enum ApiKey {$(
            #[doc = concat!("[`", stringify!($request), "`]")]
            $api = $code,
        )*}

        impl ApiKey {
            /// Every API there is a table for, by number.
            pub const ALL: &'static [Self] = &[$(Self::$api),*];

            /// The API with Kafka's number `code`.
            pub fn from_code(code: i16) -> Option<Self> {
                match code {
                    $($code => Some(Self::$api),)*
                    _ => None,
                }
            }

            /// Kafka's name of it.
            pub fn name(self) -> &'static str {
                match self {$(
                    Self::$api => stringify!($api),
                )*}
            }

            /// The versions that are read and written.
            pub fn versions(self) -> Versions {
                match self {$(
                    Self::$api => $request::VERSIONS,
                )*}
            }

            /// The versions with compact lengths and tagged fields (KIP-482).
            pub fn flexible_versions(self) -> Versions {
                match self {$(
                    Self::$api => $request::FLEXIBLE,
                )*}
            }
        }

        /// The body of any request.
        #[derive(Clone, Debug, PartialEq)]
        #[expect(missing_docs, reason = "each variant is the request it is named after")]
        pub enum RequestBody {$(
            $api($request),
        )*}

        impl RequestBody {
            /// Reads a request. Bytes behind its last field are ignored, as Kafka does: librdkafka 2.15 leaves
            /// three behind Metadata 13. Errors: `UnsupportedVersion`, or whatever is wrong with the bytes.
            pub fn decode(api: ApiKey, version: i16, mut d: Decoder) -> Result<Self, DecodeError> {
                Ok(match api {$(
                    ApiKey::$api => Self::$api($request::decode(&mut d, version)?),
                )*})
            }

            /// Writes it.
            pub fn encode(&self, e: &mut Encoder, version: i16) -> Result<(), EncodeError> {
                match self {$(
                    Self::$api(request) => request.encode(e, version),
                )*}
            }

            /// The API it asks.
            pub fn api(&self) -> ApiKey {
                match self {$(
                    Self::$api(_) => ApiKey::$api,
                )*}
            }
        }

        $(
            impl From<$request> for RequestBody {
                fn from(request: $request) -> Self {
                    Self::$api(request)
                }
            }
        )*

        /// The body of any response.
        #[derive(Clone, Debug, PartialEq)]
        #[expect(missing_docs, reason = "each variant is the response it is named after")]
        pub enum ResponseBody {$(
            $api(<$request as Request>::Response),
        )*}

        impl ResponseBody {
            /// Reads the rest of a frame.
            pub fn decode(api: ApiKey, version: i16, mut d: Decoder) -> Result<Self, DecodeError> {
                let body = match api {$(
                    ApiKey::$api => Self::$api(Message::decode(&mut d, version)?),
                )*};
                d.finish()?;
                Ok(body)
            }

            /// Writes it.
            pub fn encode(&self, e: &mut Encoder, version: i16) -> Result<(), EncodeError> {
                match self {$(
                    Self::$api(response) => response.encode(e, version),
                )*}
            }

            /// The API it answers.
            pub fn api(&self) -> ApiKey {
                match self {$(
                    Self::$api(_) => ApiKey::$api,
                )*}
            }
        }

        $(
            impl From<<$request as Request>::Response> for ResponseBody {
                fn from(response: <$request as Request>::Response) -> Self {
                    Self::$api(response)
                }
            }
        )*

        impl ApiKey {
            /// The tables of request and response.
            pub fn schemas(self) -> [&'static crate::schema::StructSchema; 2] {
                match self {$(
                    Self::$api => [$request::SCHEMA, <<$request as Request>::Response as Message>::SCHEMA],
                )*}
            }
        }
    };
}

apis! {
    Produce = 0, ProduceRequest;
    Fetch = 1, FetchRequest;
    ListOffsets = 2, ListOffsetsRequest;
    Metadata = 3, MetadataRequest;
    OffsetCommit = 8, OffsetCommitRequest;
    OffsetFetch = 9, OffsetFetchRequest;
    FindCoordinator = 10, FindCoordinatorRequest;
    JoinGroup = 11, JoinGroupRequest;
    Heartbeat = 12, HeartbeatRequest;
    LeaveGroup = 13, LeaveGroupRequest;
    SyncGroup = 14, SyncGroupRequest;
    DescribeGroups = 15, DescribeGroupsRequest;
    ListGroups = 16, ListGroupsRequest;
    ApiVersions = 18, ApiVersionsRequest;
    CreateTopics = 19, CreateTopicsRequest;
    DeleteTopics = 20, DeleteTopicsRequest;
    DeleteRecords = 21, DeleteRecordsRequest;
    InitProducerId = 22, InitProducerIdRequest;
    OffsetForLeaderEpoch = 23, OffsetForLeaderEpochRequest;
    DescribeConfigs = 32, DescribeConfigsRequest;
    AlterConfigs = 33, AlterConfigsRequest;
    DescribeLogDirs = 35, DescribeLogDirsRequest;
    CreatePartitions = 37, CreatePartitionsRequest;
    DeleteGroups = 42, DeleteGroupsRequest;
    IncrementalAlterConfigs = 44, IncrementalAlterConfigsRequest;
    OffsetDelete = 47, OffsetDeleteRequest;
    DescribeCluster = 60, DescribeClusterRequest;
    DescribeProducers = 61, DescribeProducersRequest;
    UnregisterBroker = 64, UnregisterBrokerRequest;
    ListConfigResources = 74, ListConfigResourcesRequest;
    DescribeTopicPartitions = 75, DescribeTopicPartitionsRequest;
    DescribeRegion = 20001, DescribeRegionRequest;
    DrainNode = 20002, DrainNodeRequest;
    BalanceRegion = 20003, BalanceRegionRequest;
    DescribeMirror = 20004, DescribeMirrorRequest;
    SwitchOver = 20005, SwitchOverRequest;
    AlterRegion = 20006, AlterRegionRequest;
    ThrottleLink = 20007, ThrottleLinkRequest;
}

/// Numbers from here on are Meridian's own. Kafka is far from them.
const PRIVATE_FROM: i16 = 20_000;

impl ApiKey {
    /// Kafka's number of it, or ours: see [`Self::is_private`].
    pub fn code(self) -> i16 {
        self as i16
    }

    /// Whether it is Meridian's own. Only clients that know it are told of it (`docs/formats/admin-api.md`).
    pub fn is_private(self) -> bool {
        self.code() >= PRIVATE_FROM
    }

    /// The versions to name in `ApiVersions`. These are [`ApiKey::versions`], but for one deliberate untruth, which is
    /// Kafka's own: librdkafka before 2.12 sends uncompressed unless Produce starts at 0 (KAFKA-18659). Produce 0 to 2 are
    /// refused as `UnsupportedVersion` when used.
    pub fn advertised_versions(self) -> Versions {
        match self {
            Self::Produce => Versions {
                first: 0,
                ..self.versions()
            },
            _ => self.versions(),
        }
    }

    /// The version of the request header: 2 in flexible versions, otherwise 1.
    pub fn request_header_version(self, version: i16) -> i16 {
        if self.flexible_versions().contains(version) {
            2
        } else {
            1
        }
    }

    /// The version of the response header: 1 in flexible versions, otherwise 0. `ApiVersions` stays at 0,
    /// so that a client can read the answer of a broker that does not know its version (KIP-511).
    pub fn response_header_version(self, version: i16) -> i16 {
        match self {
            Self::ApiVersions => 0,
            _ if self.flexible_versions().contains(version) => 1,
            _ => 0,
        }
    }
}

impl fmt::Display for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
