//! InitProducerId (API key 22).

api! {
    /// Gets a producer id and epoch for idempotence and transactions.
    InitProducerId: versions (0-5), flexible (2+);

    request InitProducerIdRequest {
        /// The transactional id, or null if the producer is not transactional.
        transactional_id: string (0+), nullable(0+);
        /// The time in ms to wait before aborting idle transactions sent by this producer. This is only
        /// relevant if a TransactionalId has been defined.
        transaction_timeout_ms: int32 (0+);
        /// The producer id. This is used to disambiguate requests if a transactional id is reused following
        /// its expiration.
        producer_id: int64 (3+), default(-1);
        /// The producer's current epoch. This will be checked against the producer epoch on the broker, and
        /// the request will return an error if they do not match.
        producer_epoch: int16 (3+), default(-1);
    }

    response InitProducerIdResponse {
        /// The duration in milliseconds for which the request was throttled due to a quota violation, or
        /// zero if the request did not violate any quota.
        throttle_time_ms: int32 (0+), ignorable;
        /// The error code, or 0 if there was no error.
        error_code: int16 (0+);
        /// The current producer id.
        producer_id: int64 (0+), default(-1);
        /// The current epoch associated with the producer id.
        producer_epoch: int16 (0+);
    }
}
