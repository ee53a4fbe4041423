//! The conversation in which a node gets its keys signed.

use std::net::Ipv4Addr;
use std::sync::Arc;

use tesela_runtime::wire::{EnrollReply, EnrollRequest, Enrolled, FrameReader, Refusal, frame};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{debug, error, info};

use super::{Control, Member, PATIENCE};
use crate::keys::{Candidate, Error};

/// Why the node was refused, if it was.
pub(super) async fn conversation(
    control: &Control,
    stream: impl AsyncRead + AsyncWrite + Unpin,
    deadline: Instant,
    port: u16,
    address: Ipv4Addr,
    member: Option<Member>,
) -> Option<String> {
    let (read, mut write) = tokio::io::split(stream);
    let request: EnrollRequest = match timeout_at(deadline, FrameReader::new(read).next()).await {
        Ok(Ok(Some(request))) => request,
        failed => {
            control.metrics.strangers.inc();
            debug!(%address, ?failed, "no request to enrol");
            return None;
        }
    };
    let member = member
        .filter(|member| member.name == request.node)
        .or_else(|| control.members.joining(&request.node, address));
    let (reply, refused) = match answer(control, port, address, member, request).await {
        Ok((node, enrolled)) => {
            control.metrics.enrolled.inc();
            info!(node, %address, "enrolled");
            // What an agent of an earlier boot said is no news any more, nor that it is gone.
            control.agents.forget(&node);
            control.members.enrolled(&node);
            (EnrollReply::Enrolled(enrolled), None)
        }
        Err(refusal) => {
            let reason = refusal.reason.clone();
            (EnrollReply::Refused(refusal), Some(reason))
        }
    };
    let said = timeout(PATIENCE, async {
        frame::send(&mut write, &reply).await?;
        Ok::<_, tesela_runtime::wire::FrameError>(write.shutdown().await?)
    });
    if let Ok(Err(error)) = said.await {
        // The node asks again.
        debug!(%address, %error, "the answer to an enrolment did not arrive");
    }
    refused
}

async fn answer(
    control: &Control,
    port: u16,
    address: Ipv4Addr,
    member: Option<Member>,
    request: EnrollRequest,
) -> Result<(String, Enrolled), Refusal> {
    let refusal = |reason: String, boot_again| Refusal { reason, boot_again };
    if port >= 1024 {
        return Err(refusal(
            "only root of a node can enrol it: the source port is not below 1024".into(),
            false,
        ));
    }
    let Some(member) = member else {
        return Err(refusal(format!("{address} is not the address of a node {}", request.node), true));
    };
    let (keys, members) = (Arc::clone(&control.keys), Arc::clone(&control.members));
    let signed = tokio::task::spawn_blocking(move || {
        let Member { name, names, joins } = member;
        let candidate = Candidate { node: &name, address, joins, names };
        let mut config = None;
        if joins {
            // Nothing is rendered for whoever has no token, and none is used up for nothing.
            keys.check(&candidate, &request)?;
            config = Some(
                members
                    .agent_config(&name)
                    .map_err(|problem| Error::Make { what: "the agent's configuration", problem })?,
            );
        }
        let enrolled = keys.enroll(&candidate, &request)?;
        Ok((name, Enrolled { config, ..enrolled }))
    });
    match signed.await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(problem)) => Err(match problem {
            Error::Token(problem) => refusal(problem.to_string(), true),
            Error::Request(_) => refusal(problem.to_string(), false),
            // Ours: told in full here, and no more to the node than it can use.
            Error::Io { .. } | Error::Content { .. } | Error::Make { .. } => {
                error!(%address, error = %problem, "cannot enrol");
                refusal("the master cannot sign; its log says why".into(), true)
            }
        }),
        Err(problem) => {
            error!(%address, error = %problem, "cannot enrol");
            Err(refusal("the master cannot sign; its log says why".into(), true))
        }
    }
}
