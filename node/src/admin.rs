//! The HTTP endpoint for health and metrics: `/live`, `/ready`, `/metrics`.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use meridian_shard::Region;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// What the endpoint tells about. It answers while the node starts, which may take as long as others are away.
pub(crate) struct Admin {
    waiting_for: watch::Receiver<String>,
    serving: OnceLock<Serving>,
    stopping: CancellationToken,
}

/// What there is once the node serves.
struct Serving {
    region: Region,
    metrics: Metrics,
}

impl Admin {
    /// Of a node that starts. `waiting_for` tells why it does not serve yet, for people.
    pub(crate) fn new(waiting_for: watch::Receiver<String>, stopping: CancellationToken) -> Self {
        Self {
            waiting_for,
            serving: OnceLock::new(),
            stopping,
        }
    }

    /// The node serves from now on.
    pub(crate) fn started(&self, region: Region, metrics: Metrics) {
        // A node starts once.
        let _ = self.serving.set(Serving { region, metrics });
    }
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
    let Some(Serving { region, .. }) = admin.serving.get() else {
        reasons.push(admin.waiting_for.borrow().clone());
        return reasons;
    };
    let usage = region.usage();
    if let Some(reason) = &usage.journal.poisoned {
        reasons.push(format!(
            "the journal stopped after a failed write: {reason}; restart the node"
        ));
    }
    if let Some(reason) = &usage.journal.full {
        reasons.push(format!("the disk takes no more records: {reason}"));
    }
    if region.controller_node().is_none() {
        reasons.push("the controller has no leader".to_owned());
    }
    for shard in &usage.shards {
        if let Some(reason) = &shard.stopped {
            reasons.push(format!("shard {} does not run: {reason}", shard.shard));
        } else if region.leader_of(shard.shard).is_none() {
            reasons.push(format!("shard {} has no leader", shard.shard));
        }
    }
    reasons
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    let Some(Serving { region, metrics }) = admin.serving.get() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "the node is starting\n").into_response();
    };
    match metrics.encode(region) {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
