//! InitProducerId: an identity for an idempotent producer.

use meridian_types::ProducerId;
use meridian_wire::{ErrorCode, InitProducerIdRequest, InitProducerIdResponse};

use crate::context::Caller;
use crate::errors;

pub(crate) async fn handle(caller: &Caller, request: InitProducerIdRequest) -> InitProducerIdResponse {
    match identity(caller, &request).await {
        Ok((id, producer_epoch)) => InitProducerIdResponse {
            producer_id: id.0.cast_signed(),
            producer_epoch,
            ..Default::default()
        },
        Err(error) => InitProducerIdResponse {
            error_code: caller.code(error),
            producer_epoch: -1,
            ..Default::default()
        },
    }
}

async fn identity(caller: &Caller, request: &InitProducerIdRequest) -> Result<(ProducerId, i16), ErrorCode> {
    match &request.transactional_id {
        None => {}
        Some(id) if id.is_empty() => return Err(ErrorCode::InvalidRequest),
        // There is no transaction coordinator, and none will come while this broker runs.
        Some(_) => return Err(ErrorCode::UnsupportedVersion),
    }
    // An id without an epoch, or the other way round.
    if (request.producer_id == -1) != (request.producer_epoch == -1) {
        return Err(ErrorCode::InvalidRequest);
    }
    // As Kafka: a producer without a transactional id gets a new id even where it says its old one, because
    // nothing shows that the old one is its own.
    let context = &caller.context;
    let id = context
        .producer_ids
        .next(&context.region)
        .await
        .map_err(|error| {
            tracing::warn!(%error, "no producer id can be given out");
            match errors::of_control(&error) {
                // Clients look for the controller on no account; this one makes them wait and try again.
                ErrorCode::NotController | ErrorCode::RequestTimedOut => ErrorCode::CoordinatorNotAvailable,
                other => other,
            }
        })?;
    Ok((id, 0))
}
