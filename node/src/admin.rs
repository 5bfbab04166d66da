//! The HTTP endpoint for health and metrics: `/live`, `/ready`, `/metrics`.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use meridian_shard::Region;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// What the endpoint tells about.
pub(crate) struct Admin {
    pub(crate) region: Region,
    pub(crate) metrics: Metrics,
    pub(crate) stopping: CancellationToken,
}

/// Serves until `stop`.
pub(crate) async fn serve(listener: TcpListener, admin: Arc<Admin>, stop: CancellationToken) {
    let router = Router::new()
        .route("/live", get(|| async { (StatusCode::OK, "live\n") }))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .with_state(admin);
    let serving = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
    if let Err(error) = serving.await {
        tracing::error!(%error, "the admin endpoint ended");
    }
}

/// Binds the admin listener.
pub(crate) async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// 200 only when this node takes produce requests; else 503 with the reasons.
async fn ready(State(admin): State<Arc<Admin>>) -> Response {
    let reasons = reasons(&admin);
    let status = if reasons.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body = serde_json::json!({
        "schema": "meridian.ready/1",
        "ready": reasons.is_empty(),
        "reasons": reasons,
    });
    (status, axum::Json(body)).into_response()
}

fn reasons(admin: &Admin) -> Vec<String> {
    let mut reasons = Vec::new();
    if admin.stopping.is_cancelled() {
        reasons.push("the node is shutting down".to_owned());
    }
    let usage = admin.region.usage();
    if let Some(reason) = &usage.journal.poisoned {
        reasons.push(format!(
            "the journal stopped after a failed write: {reason}; restart the node"
        ));
    }
    if let Some(reason) = &usage.journal.full {
        reasons.push(format!("the disk takes no more records: {reason}"));
    }
    if admin.region.controller_node().is_none() {
        reasons.push("the controller has no leader".to_owned());
    }
    for shard in &usage.shards {
        if let Some(reason) = &shard.stopped {
            reasons.push(format!("shard {} does not run: {reason}", shard.shard));
        } else if admin.region.leader_of(shard.shard).is_none() {
            reasons.push(format!("shard {} has no leader", shard.shard));
        }
    }
    reasons
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    match admin.metrics.encode(&admin.region.usage()) {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
