//! Listens for what is to be done, on this machine only.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

use crate::demo::action::Action;
use crate::demo::stage::Stage;
use crate::error::CliError;
use crate::output::with_schema;

/// Something to do, and who waits for what became of it.
#[derive(Debug)]
pub(in crate::demo) struct Command {
    pub(in crate::demo) action: Action,
    pub(in crate::demo) reply: Option<oneshot::Sender<Result<String, String>>>,
}

/// What a request needs.
#[derive(Clone)]
struct Control {
    stage: Arc<Stage>,
    commands: mpsc::Sender<Command>,
}

/// Opens the port.
pub(in crate::demo) async fn bind(at: SocketAddr) -> Result<TcpListener, CliError> {
    if !at.ip().is_loopback() {
        return Err(CliError::usage(format!(
            "--control {at} can be reached from other machines, and whoever reaches it can end the demo"
        ))
        .advise("give an address of this machine, such as 127.0.0.1:9640"));
    }
    TcpListener::bind(at).await.map_err(|error| {
        CliError::failed(format!("cannot listen on {at} for control: {error}"))
            .advise("another demo may run; give this one another port with --control 127.0.0.1:0")
    })
}

/// Serves the port until the demo ends.
pub(in crate::demo) async fn serve(
    listener: TcpListener,
    stage: Arc<Stage>,
    commands: mpsc::Sender<Command>,
) {
    let router = Router::new()
        .route("/status", get(status))
        .route("/actions", post(act))
        .with_state(Control { stage, commands });
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "the control port of the demo ended");
    }
}

async fn status(State(control): State<Control>) -> Json<Value> {
    let picture = control.stage.picture.lock().json();
    Json(with_schema("demo.status", picture))
}

/// Only JSON is taken, which no page in a browser can send here without asking first.
async fn act(State(control): State<Control>, Json(wanted): Json<Value>) -> (StatusCode, Json<Value>) {
    let (verb, what) = (wanted["do"].as_str().unwrap_or_default(), wanted["what"].as_str());
    let action = match Action::parse(verb, what) {
        Ok(action) => action,
        Err(reason) => return refused(StatusCode::BAD_REQUEST, &reason),
    };
    let (reply, replied) = oneshot::channel();
    let command = Command {
        action,
        reply: Some(reply),
    };
    if control.commands.send(command).await.is_err() {
        return refused(StatusCode::SERVICE_UNAVAILABLE, "the demo is ending");
    }
    match replied.await {
        Ok(Ok(said)) => (StatusCode::OK, Json(json!({ "said": said }))),
        Ok(Err(reason)) => refused(StatusCode::CONFLICT, &reason),
        Err(_) => refused(StatusCode::SERVICE_UNAVAILABLE, "the demo is ending"),
    }
}

fn refused(status: StatusCode, reason: &str) -> (StatusCode, Json<Value>) {
    (status, Json(json!({ "error": reason })))
}
