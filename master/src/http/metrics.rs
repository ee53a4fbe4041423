//! `/metrics` in the OpenMetrics text format.

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::Service;

/// Whoever knows the services' counters.
pub trait Metrics: Send + Sync {
    /// All metrics as OpenMetrics text.
    fn text(&self) -> String;
}

pub(super) async fn metrics(State(service): State<Service>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], service.metrics.text()).into_response()
}
