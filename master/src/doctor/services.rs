//! The running master and its services.

use std::net::Ipv4Addr;

use tesela_node_image::loaders::MissingLoaders;
use tesela_runtime::doctor::Finding;
use tesela_runtime::doctor::members::Reach;

use crate::ports::Protocol;
use crate::web::client;

/// cluster.yaml holds, and is what was applied. `edited`: whether it is not, or why it does not hold.
pub(super) fn file(path: &str, edited: Result<bool, &str>) -> Finding {
    const WHAT: &str = "cluster.yaml";
    match edited {
        Ok(false) => Finding::ok(WHAT, format!("{path} holds")),
        Ok(true) => Finding::warn(
            WHAT,
            format!("{path} is not what is in force"),
            "`tesela plan` shows the difference, `tesela apply` puts it in force",
        ),
        Err(problem) => Finding::fail(
            WHAT,
            problem,
            "`tesela init` writes a first one, --config names another; of one that is there `tesela check` shows all that is \
             wrong",
        ),
    }
}

/// The master answers.
pub(super) fn runs(socket: &str, answered: Result<(), &client::Error>) -> Finding {
    const WHAT: &str = "master";
    match answered {
        Ok(()) => Finding::ok(WHAT, format!("it answers at {socket}")),
        Err(error @ client::Error::NotAllowed(_)) => {
            Finding::fail(WHAT, error.to_string(), "run this as root, with sudo")
        }
        Err(error) => Finding::fail(
            WHAT,
            error.to_string(),
            "`systemctl start tesela`, or `tesela serve`; `journalctl -u tesela` says why it ended",
        ),
    }
}

/// Where the master runs: its services listen.
pub(super) fn listen(own: Ipv4Addr, tcp: &[(&str, u16, Reach)]) -> Finding {
    const WHAT: &str = "services";
    let deaf: Vec<String> = tcp
        .iter()
        .filter(|(_, _, reach)| *reach != Reach::Answers)
        .map(|(service, port, _)| format!("{service} (TCP port {port})"))
        .collect();
    let all: Vec<&str> = tcp.iter().map(|(service, ..)| *service).collect();
    if deaf.is_empty() {
        return Finding::ok(WHAT, format!("{} answer at {own}", all.join(", ")));
    }
    Finding::fail(
        WHAT,
        format!("nothing answers at {own} for {}", deaf.join(", ")),
        "`systemctl restart tesela`, which a changed address or port in cluster.yaml takes, too",
    )
}

/// Where the master does not run: its ports are free. `held`: service, protocol, port and who has it.
pub(super) fn free(held: &[(&str, Protocol, u16, String)]) -> Finding {
    const WHAT: &str = "ports";
    if held.is_empty() {
        return Finding::ok(WHAT, "those of the services are free");
    }
    let told: Vec<String> = held
        .iter()
        .map(|(service, protocol, port, holder)| {
            let protocol = if *protocol == Protocol::Udp { "UDP" } else { "TCP" };
            format!("{holder} has {protocol} port {port} ({service})")
        })
        .collect();
    let http = held.iter().any(|(service, ..)| *service == "HTTP");
    let hint = if http { "; HTTP can have another: `master: ports: {http: …}`" } else { "" };
    Finding::fail(WHAT, told.join(", "), format!("stop that before the master starts{hint}"))
}

/// What firmware is sent is there.
pub(super) fn has_loaders(found: Result<(), &MissingLoaders>) -> Finding {
    const WHAT: &str = "loaders";
    match found {
        Ok(()) => Finding::ok(WHAT, "those for BIOS, UEFI and Secure Boot are there"),
        Err(missing) => Finding::fail(
            WHAT,
            format!("there is no {}", missing.files.join(", no ")),
            format!("`apt-get install {}`", missing.packages.join(" ")),
        ),
    }
}

/// Something keeps this machine's clock in step.
pub(super) fn in_step(synchronised: bool) -> Finding {
    const WHAT: &str = "clock";
    if synchronised {
        Finding::ok(WHAT, "it is kept in step, and nodes take the time from here")
    } else {
        Finding::warn(
            WHAT,
            "nothing keeps it in step; nodes take the time from here, and agree with it",
            "`apt-get install systemd-timesyncd` or chrony, where this machine reaches a time server",
        )
    }
}

#[cfg(test)]
mod tests {
    use tesela_runtime::doctor::Verdict::{Fail, Ok as Well, Warn};

    use super::*;

    #[test]
    fn a_file_holds_and_is_in_force() {
        assert_eq!(file("c", Ok(false)).verdict, Well);
        assert_eq!(file("c", Ok(true)).finding, "c is not what is in force");
        assert_eq!(file("c", Err("c:3:1: no such key")).verdict, Fail);
    }

    #[test]
    fn a_master_answers() {
        assert_eq!(runs("/s", Ok(())).verdict, Well);
        let not_found = std::io::Error::from_raw_os_error(2);
        let silent = runs("/s", Err(&client::Error::Connect { path: "/s".into(), source: not_found }));
        let told = "no master answers at /s: No such file or directory";
        assert_eq!((silent.verdict, &silent.finding[..]), (Fail, told));
        assert!(silent.mend.unwrap().starts_with("`systemctl start tesela`"));
        let refused = runs("/s", Err(&client::Error::NotAllowed("/s".into())));
        assert_eq!(refused.mend.unwrap(), "run this as root, with sudo");
    }

    #[test]
    fn services_listen() {
        let own = Ipv4Addr::new(192, 168, 45, 1);
        let of = |nfs| listen(own, &[("HTTP", 80, Reach::Answers), ("NFS", 2049, nfs)]);
        assert_eq!(of(Reach::Answers), Finding::ok("services", "HTTP, NFS answer at 192.168.45.1"));
        assert_eq!(of(Reach::Refuses).finding, "nothing answers at 192.168.45.1 for NFS (TCP port 2049)");
    }

    #[test]
    fn loaders_are_there_or_named_with_their_packages() {
        assert_eq!(has_loaders(Ok(())).verdict, Well);
        let files = vec!["/a (for UEFI)".to_owned(), "/b (for UEFI)".to_owned()];
        let found = has_loaders(Err(&MissingLoaders { files, packages: vec!["x", "y"] }));
        assert_eq!(
            (found.verdict, &found.finding[..]),
            (Fail, "there is no /a (for UEFI), no /b (for UEFI)")
        );
        assert_eq!(found.mend.unwrap(), "`apt-get install x y`");
    }

    #[test]
    fn ports_are_free_until_the_master_has_them() {
        assert_eq!(free(&[]).verdict, Well);
        let held = free(&[("HTTP", Protocol::Tcp, 80, "nginx (process 7)".into())]);
        assert_eq!((held.verdict, &held.finding[..]), (Fail, "nginx (process 7) has TCP port 80 (HTTP)"));
        assert!(held.mend.unwrap().ends_with("`master: ports: {http: …}`"));
        let tftp = free(&[("TFTP", Protocol::Udp, 69, "dnsmasq (process 7)".into())]);
        assert_eq!(tftp.mend.unwrap(), "stop that before the master starts");
    }

    #[test]
    fn a_clock_is_kept_in_step_or_not() {
        assert_eq!((in_step(true).verdict, in_step(false).verdict), (Well, Warn));
    }
}
