//! From a frame to its handler and back.
//!
//! A request is taken in two steps: [`begin`] as soon as it is read, [`finish`] when its turn to be answered has
//! come. Produce starts its work in the first, everything else in the second.

use std::sync::Arc;

use meridian_wire::{
    ApiKey, DecodeError, DecodeErrorKind, Decoder, EncodeError, Encoder, Message, ProduceRequest,
    RequestBody, RequestHeader, ResponseBody, ResponseHeader,
};
use thiserror::Error;
use tokio::time::Instant;

use crate::budget::{ByteLease, FrameLease};
use crate::context::{Caller, Context, Peer};
use crate::frame_reader::Frame;
use crate::handlers::{self, produce::PendingProduce};
use crate::response_writer::EncodedResponse;

/// A larger request keeps its frame's budget until it is answered: decoded, it takes a multiple of its bytes.
const SMALL_REQUEST_BYTES: usize = 256 << 10;

/// A request that is not answered yet.
pub(crate) struct Pending {
    header: RequestHeader,
    received: Instant,
    request_bytes: usize,
    work: Work,
    lease: FrameLease,
}

enum Work {
    /// On its way to the shards.
    Produce(PendingProduce),
    /// To be decoded and done when its turn has come.
    Later(Decoder),
    /// ApiVersions of a client that is newer than this broker.
    UnknownApiVersions,
}

/// Why a request is not answered. Its connection is to be closed, as Kafka does.
#[derive(Debug, Error)]
pub(crate) enum RequestError {
    /// The bytes are no request of the version they claim.
    #[error("a malformed request{}: {error}", within(.header.as_deref()))]
    Malformed {
        header: Option<Box<RequestHeader>>,
        error: DecodeError,
    },
    /// An API or a version that ApiVersions does not list.
    #[error("{api} version {version} is not served")]
    Unsupported { api: ApiKey, version: i16 },
    /// Only Produce carries records.
    #[error("{api} request of {bytes} bytes, at most {bytes_max} are accepted")]
    TooLarge {
        api: ApiKey,
        bytes: usize,
        bytes_max: usize,
    },
    /// A producer that wants no answers can learn of a failure by its connection only.
    #[error("a produce request without acknowledgement failed: {reason}")]
    AcksZero { reason: String },
    /// A fault of this broker: it made a response that its version cannot carry.
    #[error("the response to {api} version {version} cannot be encoded: {error}")]
    Encode {
        api: ApiKey,
        version: i16,
        error: EncodeError,
    },
}

fn within(header: Option<&RequestHeader>) -> String {
    header.map_or_else(String::new, |header| {
        format!(", {} version {}", header.api, header.version)
    })
}

/// Takes a request in, in the order of the connection.
pub(crate) fn begin(context: &Arc<Context>, peer: &Arc<Peer>, frame: Frame) -> Result<Pending, RequestError> {
    let received = Instant::now();
    let request_bytes = frame.bytes.len();
    let mut decoder = Decoder::new(frame.bytes);
    let header = RequestHeader::decode(&mut decoder)
        .map_err(|error| RequestError::Malformed { header: None, error })?;
    if let Some(client_id) = &header.client_id {
        peer.set_client_id(client_id);
    }
    let work = if !header.api.versions().contains(header.version) {
        if header.api != ApiKey::ApiVersions {
            return Err(RequestError::Unsupported {
                api: header.api,
                version: header.version,
            });
        }
        Work::UnknownApiVersions
    } else if header.api == ApiKey::Produce {
        let request = ProduceRequest::decode(&mut decoder, header.version)
            .map_err(|error| malformed(&header, error))?;
        Work::Produce(handlers::produce::submit(
            &caller(context, peer, &header),
            request,
        ))
    } else {
        let bytes_max = context.settings.limits.request_bytes_max;
        if request_bytes > bytes_max {
            return Err(RequestError::TooLarge {
                api: header.api,
                bytes: request_bytes,
                bytes_max,
            });
        }
        Work::Later(decoder)
    };
    Ok(Pending {
        header,
        received,
        request_bytes,
        work,
        lease: frame.lease,
    })
}

/// Answers a request. `None` for those that want no answer.
pub(crate) async fn finish(
    context: &Arc<Context>,
    peer: &Arc<Peer>,
    pending: Pending,
) -> Result<Option<EncodedResponse>, RequestError> {
    let Pending {
        header,
        received,
        request_bytes,
        work,
        lease,
    } = pending;
    let caller = caller(context, peer, &header);
    let mut response_lease = None;
    let body = match work {
        Work::Produce(produce) => {
            let answer = produce.finish(&caller).await?;
            drop(lease);
            answer.map(ResponseBody::from)
        }
        Work::UnknownApiVersions => {
            drop(lease);
            Some(handlers::api_versions::unsupported(&caller).into())
        }
        Work::Later(decoder) => {
            let request = RequestBody::decode(header.api, header.version, decoder)
                .map_err(|error| malformed(&header, error))?;
            // A fetch or a join that waits must not hold budget that others could use.
            let lease = (request_bytes > SMALL_REQUEST_BYTES).then_some(lease);
            let body = handle(&caller, request, &mut response_lease).await;
            drop(lease);
            Some(body)
        }
    };
    let response = body
        .map(|body| encode(&caller, &header, &body, response_lease))
        .transpose()?;
    let response_bytes = response
        .as_ref()
        .map_or(0, |response| response.segments.iter().map(|s| s.len()).sum());
    context
        .metrics
        .answered(header.api, request_bytes, response_bytes, received.elapsed());
    Ok(response)
}

fn caller(context: &Arc<Context>, peer: &Arc<Peer>, header: &RequestHeader) -> Caller {
    Caller {
        context: context.clone(),
        peer: peer.clone(),
        api: header.api,
        version: header.version,
        client_id: header.client_id.clone(),
    }
}

fn malformed(header: &RequestHeader, error: DecodeError) -> RequestError {
    match error.kind {
        DecodeErrorKind::UnsupportedVersion { version, .. } => RequestError::Unsupported {
            api: header.api,
            version,
        },
        _ => RequestError::Malformed {
            header: Some(Box::new(header.clone())),
            error,
        },
    }
}

fn encode(
    caller: &Caller,
    header: &RequestHeader,
    body: &ResponseBody,
    lease: Option<ByteLease>,
) -> Result<EncodedResponse, RequestError> {
    let api = header.api;
    // The answer to an unknown version of ApiVersions is one of version 0 (KIP-511).
    let version = if caller.api.versions().contains(header.version) {
        header.version
    } else {
        0
    };
    let encode = || {
        let mut encoder = Encoder::framed();
        ResponseHeader {
            correlation_id: header.correlation_id,
        }
        .encode(&mut encoder, api, version)?;
        body.encode(&mut encoder, version)?;
        encoder.finish()
    };
    let segments = encode().map_err(|error| RequestError::Encode { api, version, error })?;
    Ok(EncodedResponse { segments, lease })
}

/// What is handled is [`ApiKey::ALL`], and so is what clients are told of: the match has no default.
async fn handle(caller: &Caller, request: RequestBody, lease: &mut Option<ByteLease>) -> ResponseBody {
    match request {
        RequestBody::Produce(_) => unreachable!("Produce requests are begun when they are read"),
        RequestBody::Fetch(request) => {
            let (response, bytes) = handlers::fetch::handle(caller, request).await;
            *lease = bytes;
            response.into()
        }
        RequestBody::ListOffsets(request) => handlers::list_offsets::handle(caller, request).await.into(),
        RequestBody::Metadata(request) => handlers::metadata::handle(caller, request, lease).await.into(),
        RequestBody::OffsetCommit(request) => handlers::offset_commit::handle(caller, request).await.into(),
        RequestBody::OffsetFetch(request) => handlers::offset_fetch::handle(caller, request).into(),
        RequestBody::FindCoordinator(request) => handlers::find_coordinator::handle(caller, request).into(),
        RequestBody::JoinGroup(request) => handlers::join_group::handle(caller, request).await.into(),
        RequestBody::Heartbeat(request) => handlers::heartbeat::handle(caller, request).into(),
        RequestBody::LeaveGroup(request) => handlers::leave_group::handle(caller, request).await.into(),
        RequestBody::SyncGroup(request) => handlers::sync_group::handle(caller, request).await.into(),
        RequestBody::DescribeGroups(request) => handlers::describe_groups::handle(caller, request).into(),
        RequestBody::ListGroups(request) => handlers::list_groups::handle(caller, request).into(),
        RequestBody::ApiVersions(request) => handlers::api_versions::handle(caller, &request).into(),
        RequestBody::CreateTopics(request) => handlers::create_topics::handle(caller, request).await.into(),
        RequestBody::DeleteTopics(request) => handlers::delete_topics::handle(caller, request).await.into(),
        RequestBody::DeleteRecords(request) => handlers::delete_records::handle(caller, request).await.into(),
        RequestBody::InitProducerId(request) => {
            handlers::init_producer_id::handle(caller, request).await.into()
        }
        RequestBody::OffsetForLeaderEpoch(request) => {
            handlers::offset_for_leader_epoch::handle(caller, request).into()
        }
        RequestBody::DescribeConfigs(request) => handlers::describe_configs::handle(caller, request, lease)
            .await
            .into(),
        RequestBody::AlterConfigs(request) => handlers::alter_configs::handle(caller, request).await.into(),
        RequestBody::DescribeLogDirs(request) => handlers::describe_log_dirs::handle(caller, request, lease)
            .await
            .into(),
        RequestBody::CreatePartitions(request) => {
            handlers::create_partitions::handle(caller, request).await.into()
        }
        RequestBody::DeleteGroups(request) => handlers::delete_groups::handle(caller, request).await.into(),
        RequestBody::IncrementalAlterConfigs(request) => {
            handlers::incremental_alter_configs::handle(caller, request)
                .await
                .into()
        }
        RequestBody::OffsetDelete(request) => handlers::offset_delete::handle(caller, request).await.into(),
        RequestBody::DescribeCluster(request) => handlers::describe_cluster::handle(caller, &request).into(),
        RequestBody::DescribeProducers(request) => {
            handlers::describe_producers::handle(caller, request).into()
        }
        RequestBody::UnregisterBroker(request) => {
            handlers::unregister_broker::handle(caller, &request).await.into()
        }
        RequestBody::DrainNode(request) => handlers::drain_node::handle(caller, &request).await.into(),
        RequestBody::BalanceRegion(request) => {
            handlers::balance_region::handle(caller, &request).await.into()
        }
        RequestBody::DescribeMirror(request) => handlers::mirror::describe(caller, &request).into(),
        RequestBody::SwitchOver(request) => handlers::mirror::switch_over(caller, &request).await.into(),
        RequestBody::AlterRegion(request) => handlers::mirror::alter_region(caller, &request).await.into(),
        RequestBody::ThrottleLink(request) => handlers::mirror::throttle_link(caller, &request).into(),
        RequestBody::DescribeRegion(_) => handlers::describe_region::handle(caller).await.into(),
        RequestBody::ListConfigResources(request) => {
            handlers::list_config_resources::handle(caller, &request).into()
        }
        RequestBody::DescribeTopicPartitions(request) => {
            handlers::describe_topic_partitions::handle(caller, request).into()
        }
    }
}
