//! `teselad report STAGE`: tells the master by HTTP how far the boot has come, before there is an agent.
//!
//! systemd runs it as soon as it can (`tesela-init.service`), so that the master can tell a node whose
//! init hangs from one that never got there; the agent says its own stage the same way as it starts. `POST /report` with a JSON object, answered 204; it needs
//! no key, but a source port below 1024, for only root of the node may speak for it.

use std::fs;
use std::io::{self, Read, Write};
use std::net::SocketAddrV4;
use std::time::Duration;

use super::Config;
use crate::port::connect_privileged;

const PATIENCE: Duration = Duration::from_secs(5);

/// Reports a stage of the boot (`init`, `agent`). Blocks for 15 seconds at the most.
///
/// # Errors
/// Those of the connection; `Other` with the status line where the master does not take it.
pub fn report(config: &Config, stage: &str) -> io::Result<()> {
    let cmdline = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let master = SocketAddrV4::new(config.master, config.http_port);
    let body = serde_json::json!({ "node": config.node, "mac": boot_mac(&cmdline), "stage": stage });
    let body = body.to_string();
    let mut stream = connect_privileged(master, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "POST /report HTTP/1.1\r\nHost: {master}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    let mut status = [0; 64];
    let length = stream.read(&mut status)?;
    let status = String::from_utf8_lossy(&status[..length]);
    let line = status.lines().next().unwrap_or_default();
    match line.split(' ').nth(1) {
        Some(code) if code.starts_with('2') => Ok(()),
        _ => Err(io::Error::other(format!("the master answered `{line}`"))),
    }
}

/// The hardware address in `BOOTIF=01-aa-bb-cc-dd-ee-ff`, with colons.
fn boot_mac(cmdline: &str) -> Option<String> {
    let value = cmdline.split_ascii_whitespace().find_map(|word| word.strip_prefix("BOOTIF="))?;
    Some(value.strip_prefix("01-")?.replace('-', ":").to_lowercase())
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    #[test]
    fn the_interface_that_booted_is_named_by_the_loader() {
        let cmdline = "quiet BOOTIF=01-68-00-10-37-09-8F tesela.node=n1\n";
        assert_eq!(boot_mac(cmdline).as_deref(), Some("68:00:10:37:09:8f"));
        assert_eq!(boot_mac("quiet"), None);
    }

    #[test]
    fn a_report_is_a_post_and_a_refusal_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let config = Config {
            cluster: "aula".into(),
            node: "n1".into(),
            master: Ipv4Addr::LOCALHOST,
            control_port: 0,
            http_port: listener.local_addr().unwrap().port(),
            keys: "/nonexistent".into(),
            kept: None,
            hpc: None,
            address: None,
            agents_port: 0,
            trusted: false,
            speed: None,
            share: crate::balance::Share::Always,
            peers: "/nonexistent".into(),
        };
        for (answer, taken) in
            [("HTTP/1.1 204 No Content\r\n\r\n", true), ("HTTP/1.1 404 Not Found\r\n\r\n", false)]
        {
            let server = std::thread::scope(|scope| {
                let server = scope.spawn(|| {
                    let (mut stream, _) = listener.accept().unwrap();
                    let mut request = vec![0; 4096];
                    let mut length = 0;
                    while !request[..length].ends_with(b"}") {
                        length += stream.read(&mut request[length..]).unwrap();
                    }
                    stream.write_all(answer.as_bytes()).unwrap();
                    String::from_utf8(request[..length].to_vec()).unwrap()
                });
                assert_eq!(report(&config, "init").is_ok(), taken);
                server.join().unwrap()
            });
            assert!(server.starts_with("POST /report HTTP/1.1\r\n"));
            assert!(server.contains(r#""stage":"init""#), "{server}");
        }
    }
}
