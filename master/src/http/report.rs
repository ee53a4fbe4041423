//! What stage1, and then the node's init and agent, report of a boot.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use serde::Deserialize;

use crate::cluster::Mac;
use crate::inventory::Stage;

use super::{Service, is_by_root};

/// A report; that the agent is connected comes by its own channel.
#[derive(Deserialize)]
struct Report {
    node: String,
    mac: Mac,
    stage: ReportedStage,
    detail: Option<String>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ReportedStage {
    Stage1,
    Root,
    Init,
    Agent,
}

/// The longest detail that history keeps, in characters.
const DETAIL_LIMIT: usize = 500;

pub(super) async fn report(
    State(service): State<Service>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    body: Bytes,
) -> (StatusCode, String) {
    if !is_by_root(peer) {
        return (
            StatusCode::FORBIDDEN,
            "only root of a node reports for it: from a port below 1024\n".into(),
        );
    }
    let report: Report = match serde_json::from_slice(&body) {
        Ok(report) => report,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("not a report: {error}\n")),
    };
    let IpAddr::V4(address) = peer.ip().to_canonical() else {
        return (StatusCode::FORBIDDEN, "the cluster's network is IPv4\n".into());
    };
    let site = &service.site;
    let generation = site.current();
    let Some(node) = generation.node(&report.node) else {
        return (StatusCode::NOT_FOUND, format!("there is no node `{}`\n", report.node));
    };
    let known = generation.node_of(report.mac, None).is_some_and(|other| other.name == node.name)
        // One that is known by its UUID: the MAC is that of this boot's beginning.
        || site.inventory.node(&node.name).and_then(|state| state.mac) == Some(report.mac);
    if !known || !site.is_at(node, report.mac, address) {
        let text = format!("{} at {address} is not {}\n", report.mac, node.name);
        return (StatusCode::FORBIDDEN, text);
    }
    if matches!(report.stage, ReportedStage::Stage1) && report.detail.is_none() {
        let (site, name) = (Arc::clone(site), node.name.clone());
        let ready = tokio::task::spawn_blocking(move || {
            site.roots().map_or(Ok(()), |roots| roots.booting(&site, &name))
        });
        if let Err(why) = ready.await.unwrap_or_else(|error| Err(error.to_string())) {
            service.site.inventory.failed(&node.name, &why);
            return (StatusCode::SERVICE_UNAVAILABLE, why + "\n");
        }
    }
    let detail: Option<String> = report.detail.map(|text| text.chars().take(DETAIL_LIMIT).collect());
    let (stage, text) = match report.stage {
        ReportedStage::Stage1 => (Stage::Stage1, "stage1 has its lease"),
        ReportedStage::Root => (Stage::Root, "its root is mounted"),
        ReportedStage::Init => (Stage::Init, "its init was started"),
        ReportedStage::Agent => (Stage::Agent, "its agent was started"),
    };
    match &detail {
        // Of the stage that it did not reach.
        Some(why) if why.starts_with("failed") => {
            site.inventory.failed(&node.name, &format!("{} {why}", stage.name()));
        }
        _ => {
            let sighting = site.sighting(report.mac, None, Some(address));
            site.inventory.reached(&node.name, stage, &sighting, detail.as_deref().unwrap_or(text));
        }
    }
    (StatusCode::NO_CONTENT, String::new())
}
