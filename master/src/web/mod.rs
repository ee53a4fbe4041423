//! The API of the running master: what the command line asks, as JSON over HTTP on a unix socket.
//!
//! Only root and the service's own user can open the socket (mode 0600).

pub mod client;
pub mod views;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Json, Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::{StreamExt as _, stream};
use serde::Deserialize;
use tesela_runtime::wire::PowerAction;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use crate::boot::{
    AcceptError, Acceptance, Acceptances, ApplyError, ForgetError, JoinError, Passed, Rebase, RebaseError,
    RebaseHow, Site,
};
use crate::control::{Agents, AskError};
use crate::{cluster, inventory, wake};
use views::{Accept, Accepted, Applied, Forgotten, InForce, Joins, NodeView, PowerTo, Powered};

/// How long an agent may take to say that its machine ends.
const POWER_PATIENCE: Duration = Duration::from_secs(10);

/// What the handlers share.
#[derive(Clone)]
pub struct Api {
    /// The cluster in force.
    pub site: Arc<Site>,
    /// The nodes' agents.
    pub agents: Agents,
    /// The master stops: answers that do not end by themselves do then.
    pub stop: CancellationToken,
}

/// All routes.
pub fn router(api: Api) -> Router {
    Router::new()
        .route("/v1/nodes", get(nodes))
        .route("/v1/nodes/{node}", get(node))
        .route("/v1/nodes/{node}/log", get(log))
        .route("/v1/nodes/{node}/file", get(file))
        .route("/v1/nodes/{node}/forget", post(forget))
        .route("/v1/nodes/{node}/rebase", post(rebase))
        .route("/v1/nodes/{node}/power", post(power))
        .route("/v1/nodes/{node}/token", post(token))
        .route("/v1/accept", post(accept))
        .route("/v1/machines", get(machines))
        .route("/v1/apply", post(apply))
        .route("/v1/in-force", get(in_force))
        .route("/v1/events", get(events))
        .with_state(api)
}

/// An answer that is not the one asked for: status and the sentence for the user.
struct Failed(StatusCode, String);

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        (self.0, self.1).into_response()
    }
}

impl From<inventory::Error> for Failed {
    fn from(error: inventory::Error) -> Self {
        Failed(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}

impl From<ApplyError> for Failed {
    fn from(error: ApplyError) -> Self {
        let status = match error {
            ApplyError::DoesNotHold(_) => client::DOES_NOT_HOLD,
            _ => StatusCode::CONFLICT,
        };
        Failed(status, error.to_string())
    }
}

impl From<AcceptError> for Failed {
    fn from(error: AcceptError) -> Self {
        match error {
            AcceptError::Apply(error) => error.into(),
            error => Failed(StatusCode::CONFLICT, error.to_string()),
        }
    }
}

impl From<JoinError> for Failed {
    fn from(error: JoinError) -> Self {
        let status = match error {
            JoinError::Unknown(_) => StatusCode::NOT_FOUND,
            JoinError::Boots(_) => StatusCode::CONFLICT,
            JoinError::Ca(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Failed(status, error.to_string())
    }
}

impl From<ForgetError> for Failed {
    fn from(error: ForgetError) -> Self {
        let status = match error {
            ForgetError::Unknown(_) => StatusCode::NOT_FOUND,
            ForgetError::Runs { .. } | ForgetError::Ours(_) => StatusCode::CONFLICT,
        };
        Failed(status, error.to_string())
    }
}

/// Does what waits for the disk, or renders for every node, where it holds up no service.
async fn off_the_runtime<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failed> + Send + 'static,
) -> Result<T, Failed> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Failed(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?
}

impl From<RebaseError> for Failed {
    fn from(error: RebaseError) -> Self {
        let status = match error {
            RebaseError::UnknownNode(_) => StatusCode::NOT_FOUND,
            RebaseError::NoRoot(_) | RebaseError::Runs { .. } => StatusCode::CONFLICT,
            RebaseError::Ours(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Failed(status, error.to_string())
    }
}

fn no_node(name: &str) -> Failed {
    Failed(
        StatusCode::NOT_FOUND,
        format!("there is no node `{name}` in the cluster; `tesela node list` shows all"),
    )
}

async fn nodes(State(api): State<Api>) -> Result<Json<Vec<NodeView>>, Failed> {
    let looking = move || {
        let (generation, troubles) = (api.site.current(), api.site.troubles());
        Ok(Json(generation.nodes().iter().map(|node| NodeView::of(&api.site, node, &troubles)).collect()))
    };
    off_the_runtime(looking).await
}

async fn node(State(api): State<Api>, Path(name): Path<String>) -> Result<Json<views::NodeDetail>, Failed> {
    let generation = api.site.current();
    let node = generation.node(&name).ok_or_else(|| no_node(&name))?;
    let shown = cluster::show(node);
    let site = Arc::clone(&api.site);
    // A node that has no root here, or whose image is not built, has no build.
    let (how, of_name) = (RebaseHow { only_look: true, force: false }, name.clone());
    let (build, troubles) =
        off_the_runtime(move || Ok((site.rebase(&of_name, how).ok(), site.troubles()))).await?;
    Ok(Json(views::NodeDetail {
        view: NodeView::of(&api.site, node, &troubles),
        build,
        settings: serde_json::to_value(&shown)
            .map_err(|e| Failed(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?,
        shown: shown.to_string(),
        conflicts: api.site.roots().map(|roots| roots.conflicts(&name)).unwrap_or_default(),
    }))
}

#[derive(Deserialize)]
struct Limit {
    limit: Option<u32>,
}

async fn log(
    State(api): State<Api>,
    Path(name): Path<String>,
    Query(limit): Query<Limit>,
) -> Result<Json<Vec<inventory::Event>>, Failed> {
    if api.site.current().node(&name).is_none() && api.site.inventory.node(&name).is_none() {
        return Err(no_node(&name));
    }
    let inventory = Arc::clone(&api.site.inventory);
    let history = move || Ok(inventory.history(Some(&name), limit.limit.unwrap_or(1000))?);
    Ok(Json(off_the_runtime(history).await?))
}

#[derive(Deserialize)]
struct FilePath {
    path: String,
}

async fn file(
    State(api): State<Api>,
    Path(name): Path<String>,
    Query(file): Query<FilePath>,
) -> Result<Vec<u8>, Failed> {
    api.site.current().node(&name).ok_or_else(|| no_node(&name))?;
    let read = move || match api.site.roots() {
        Some(roots) => {
            roots.read(&api.site, &name, &file.path).map_err(|why| Failed(StatusCode::NOT_FOUND, why))
        }
        None => Err(Failed(StatusCode::SERVICE_UNAVAILABLE, "the roots are not served yet".into())),
    };
    off_the_runtime(read).await
}

async fn forget(State(api): State<Api>, Path(name): Path<String>) -> Result<Json<Forgotten>, Failed> {
    off_the_runtime(move || Ok(Json(Forgotten { is_node: api.site.forget(&name)? }))).await
}

async fn token(State(api): State<Api>, Path(name): Path<String>) -> Result<Json<Joins>, Failed> {
    let token = api.site.join_token(&name)?.to_string();
    let master = api.site.current().cluster.master.address.addr();
    Ok(Json(Joins { master, token }))
}

async fn power(
    State(api): State<Api>,
    Path(name): Path<String>,
    Json(to): Json<PowerTo>,
) -> Result<Json<Powered>, Failed> {
    let generation = api.site.current();
    let node = generation.node(&name).ok_or_else(|| no_node(&name))?;
    let action = match to {
        PowerTo::On => None,
        PowerTo::Off => Some(PowerAction::Off),
        PowerTo::Reboot => Some(PowerAction::Reboot),
    };
    let said = match action {
        Some(action) => {
            let refused = |error| {
                let may = if matches!(error, AskError::Refused(_)) { "does" } else { "may" };
                let what = format!("{name} {may} not end: {error}; `tesela node log {name}` has its history");
                Failed(StatusCode::CONFLICT, what)
            };
            api.agents.power(&name, action, POWER_PATIENCE).await.map_err(refused)?;
            if action == PowerAction::Off { "switches itself off" } else { "boots again" }.to_owned()
        }
        None => {
            let mac = NodeView::of(&api.site, node, &HashMap::new()).mac.ok_or_else(|| {
                let why = "its hardware address is not known: say `mac:` in cluster.yaml, or switch it on by hand once";
                Failed(StatusCode::CONFLICT, format!("{name} cannot be woken: {why}"))
            })?;
            let master = &generation.cluster.master;
            let (interface, own) = (master.interface.clone(), master.address.addr());
            off_the_runtime(move || {
                wake::wake(&interface, own, mac).map_err(|error| {
                    let what = format!("no packet leaves by {interface}: {error}");
                    Failed(StatusCode::INTERNAL_SERVER_ERROR, what)
                })
            })
            .await?;
            format!("is sent the packet that wakes it up ({mac})")
        }
    };
    api.site.inventory.event(Some(&name), None, None, said.clone());
    Ok(Json(Powered { said }))
}

async fn rebase(
    State(api): State<Api>,
    Path(name): Path<String>,
    Json(how): Json<RebaseHow>,
) -> Result<Json<Rebase>, Failed> {
    off_the_runtime(move || Ok(Json(api.site.rebase(&name, how)?))).await
}

async fn accept(State(api): State<Api>, Json(accept): Json<Accept>) -> Result<Json<Accepted>, Failed> {
    let accepting = move || {
        let accepted = api.site.accept(&Acceptance {
            nodes: &accept.nodes,
            macs: &accept.macs,
            profile: accept.profile.as_deref(),
            address: accept.address,
        })?;
        let Acceptances { nodes, passed, generation } = accepted;
        Ok(Json(Accepted { nodes, passed: passed.iter().map(Passed::to_string).collect(), generation }))
    };
    off_the_runtime(accepting).await
}

async fn machines(State(api): State<Api>) -> Json<Vec<inventory::Machine>> {
    Json(api.site.unknown_machines())
}

async fn apply(State(api): State<Api>) -> Result<Json<Applied>, Failed> {
    let applying = move || {
        let before = api.site.current();
        let now = api.site.apply()?;
        let due = cluster::plan(&before.cluster, &now.cluster).due();
        Ok(Json(Applied { generation: now.number, changed: now.number != before.number, due }))
    };
    off_the_runtime(applying).await
}

async fn in_force(State(api): State<Api>) -> Result<Json<InForce>, Failed> {
    let looking = move || {
        let now = api.site.current();
        let mut remarks = Vec::new();
        let troubles = api.site.troubles();
        for node in now.nodes() {
            let own = api.site.roots().map(|roots| roots.conflicts(&node.name)).unwrap_or_default();
            let all = troubles.get(&node.name).into_iter().chain(&own);
            remarks.extend(all.map(|remark| format!("{}: {remark}", node.name)));
        }
        let config = api.site.paths().config.clone();
        Ok(Json(InForce { generation: now.number, text: now.text.clone(), config, remarks }))
    };
    off_the_runtime(looking).await
}

async fn events(State(api): State<Api>, Query(limit): Query<Limit>) -> Result<Response, Failed> {
    let follow = api.site.inventory.follow();
    let inventory = Arc::clone(&api.site.inventory);
    let past = move || Ok(inventory.history(None, limit.limit.unwrap_or(20))?);
    let past = off_the_runtime(past).await?;
    let coming = stream::unfold(follow, async |mut follow| {
        loop {
            match follow.recv().await {
                Ok(event) => return Some((event, follow)),
                // A reader that is too slow misses some: the history has them.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    });
    let lines = stream::iter(past)
        .chain(coming.take_until(api.stop.cancelled_owned()))
        .map(|event| Ok::<_, std::io::Error>(serde_json::to_string(&event)? + "\n"));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;
    use crate::boot::testing;

    #[tokio::test(flavor = "multi_thread")]
    async fn whoever_follows_the_events_does_not_hold_up_the_end() {
        let state = tempfile::tempdir().unwrap();
        std::fs::write(state.path().join("cluster.yaml"), include_str!("../../../configs/aula.yaml"))
            .unwrap();
        let site = Arc::new(testing::open(state.path(), Arc::default()).unwrap());
        let socket = state.path().join("socket");
        let stop = CancellationToken::new();
        let router = router(Api { site: Arc::clone(&site), agents: Agents::default(), stop: stop.clone() });
        let api = axum::serve(tokio::net::UnixListener::bind(&socket).unwrap(), router);
        let served = tokio::spawn(api.with_graceful_shutdown(stop.clone().cancelled_owned()).into_future());
        let mut reader = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        reader.write_all(b"GET /v1/events?limit=0 HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = vec![0; 4096];
        let mut length = 0;
        while !String::from_utf8_lossy(&answer[..length]).contains("\r\n\r\n") {
            length += reader.read(&mut answer[length..]).unwrap();
        }
        site.inventory.event(None, None, None, "the last one".into());
        stop.cancel();
        tokio::time::timeout(Duration::from_secs(10), served).await.unwrap().unwrap().unwrap();
    }
}
