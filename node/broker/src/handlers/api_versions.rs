//! ApiVersions: what this broker serves.

use meridian_wire::api_versions::ApiVersion;
use meridian_wire::{ApiKey, ApiVersionsRequest, ApiVersionsResponse, ErrorCode};

use crate::context::Caller;

/// What our own client calls itself: it alone is told of the APIs that are ours (`docs/formats/admin-api.md`).
const OWN_CLIENT: &str = "meridian-client";

/// Answers with every API there is a handler for.
pub(crate) fn handle(caller: &Caller, request: &ApiVersionsRequest) -> ApiVersionsResponse {
    if caller.version >= 3
        && !(is_valid(&request.client_software_name) && is_valid(&request.client_software_version))
    {
        return ApiVersionsResponse {
            error_code: caller.code(ErrorCode::InvalidRequest),
            ..Default::default()
        };
    }
    tracing::debug!(
        peer = %caller.peer.address,
        client_id = %caller.peer.client_id(),
        software = %request.client_software_name,
        version = %request.client_software_version,
        "client connected"
    );
    ApiVersionsResponse {
        api_keys: advertised(*request.client_software_name == *OWN_CLIENT),
        ..Default::default()
    }
}

/// Answers a version that is newer than ours: an error that names our versions, in version 0 (KIP-511).
pub(crate) fn unsupported(caller: &Caller) -> ApiVersionsResponse {
    ApiVersionsResponse {
        error_code: caller.code(ErrorCode::UnsupportedVersion),
        api_keys: advertised(false),
        ..Default::default()
    }
}

fn advertised(with_private: bool) -> Vec<ApiVersion> {
    let versions = |api: &ApiKey| {
        let versions = api.advertised_versions();
        ApiVersion {
            api_key: api.code(),
            min_version: versions.first,
            max_version: versions.last,
        }
    };
    let told = |api: &&ApiKey| with_private || !api.is_private();
    ApiKey::ALL.iter().filter(told).map(versions).collect()
}

/// KIP-511: letters, digits, dots and dashes, not at the ends.
fn is_valid(name: &str) -> bool {
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    let bytes = name.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    bytes.iter().all(inner) && ends.iter().all(|end| end.is_some_and(u8::is_ascii_alphanumeric))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn software_names_follow_kip_511() {
        for name in ["librdkafka", "apache-kafka-java", "v2.15.0", "a"] {
            assert!(is_valid(name), "{name}");
        }
        for name in ["", "-a", "a.", "a b", "a\n", "ä"] {
            assert!(!is_valid(name), "{name}");
        }
    }

    #[test]
    fn produce_is_advertised_from_zero_for_the_compression_probe_of_librdkafka() {
        let produce = &advertised(false)[0];
        assert_eq!((produce.api_key, produce.min_version), (0, 0));
    }

    #[test]
    fn only_our_own_client_is_told_of_our_own_apis() {
        let has_private = |told: Vec<ApiVersion>| told.iter().any(|api| api.api_key >= 20_000);
        assert!(!has_private(advertised(false)));
        assert!(has_private(advertised(true)));
    }
}
