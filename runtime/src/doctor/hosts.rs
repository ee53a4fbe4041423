//! The own name in /etc/hosts (hosts(5)).
//!
//! Where it is an address of the loopback, programs that ask for the machine's address by its name get one that no
//! other node can reach: openMosix's setpe said so ("my IP address (127.0.0.1) is not there!", manual 10.2.7).

use std::net::Ipv4Addr;

use super::Finding;

const WHAT: &str = "host name";

/// `hosts`: the file's text. `address`: the machine's in the cluster, where it is known.
pub fn own_name(hosts: &str, name: &str, address: Option<Ipv4Addr>) -> Finding {
    let of_name: Vec<(usize, Ipv4Addr)> = hosts
        .lines()
        .enumerate()
        .filter_map(|(index, line)| {
            let mut words = line.split('#').next()?.split_whitespace();
            let address = words.next()?.parse().ok()?;
            words.any(|word| word.eq_ignore_ascii_case(name)).then_some((index + 1, address))
        })
        .collect();
    let due = address.map_or_else(|| "the cluster's address".to_owned(), |address| address.to_string());
    if let Some((line, loopback)) = of_name.iter().find(|(_, address)| address.is_loopback()) {
        return Finding::fail(
            WHAT,
            format!("{name} is {loopback} in line {line} of /etc/hosts, which no other node can reach"),
            format!("take {name} out of that line, and write `{due} {name}` instead"),
        );
    }
    match (of_name.first(), address) {
        (None, _) => Finding::warn(
            WHAT,
            format!("/etc/hosts has no address of {name}, this machine's name"),
            format!("add the line `{due} {name}` to it"),
        ),
        (Some(_), Some(address)) if of_name.iter().all(|(_, other)| *other != address) => Finding::warn(
            WHAT,
            format!("{name} is {} in /etc/hosts, and {address} in the cluster", of_name[0].1),
            format!("add the line `{address} {name}` to it, before others of that name"),
        ),
        (Some((_, other)), _) => {
            Finding::ok(WHAT, format!("{name} is {} in /etc/hosts", address.unwrap_or(*other)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    fn judged(hosts: &str) -> (Verdict, String) {
        let found = own_name(hosts, "oscar0", Some(Ipv4Addr::new(192, 168, 10, 250)));
        (found.verdict, found.finding + " / " + found.mend.as_deref().unwrap_or_default())
    }

    #[test]
    fn the_manuals_red_hat_line_is_found() {
        let (verdict, text) = judged("# comment\n127.0.0.1 oscar0 oscar0.domain.com localhost\n");
        assert_eq!(verdict, Verdict::Fail);
        assert_eq!(
            text,
            "oscar0 is 127.0.0.1 in line 2 of /etc/hosts, which no other node can reach / take oscar0 out of that \
             line, and write `192.168.10.250 oscar0` instead"
        );
        // As Debian's installer writes it, though another line is right.
        assert_eq!(judged("192.168.10.250 oscar0\n127.0.1.1\tOscar0\n").0, Verdict::Fail);
    }

    #[test]
    fn another_address_and_none_are_worth_knowing() {
        for hosts in ["", "127.0.0.1 localhost # oscar0\n", "10.0.0.1 oscar0.domain.com oscar0\n"] {
            assert_eq!(judged(hosts).0, Verdict::Warn, "{hosts}");
        }
        let unknown = own_name("", "n1", None).mend.unwrap();
        assert_eq!(unknown, "add the line `the cluster's address n1` to it");
    }

    #[test]
    fn the_clusters_address_is_right_beside_others_too() {
        for hosts in
            ["192.168.10.250 oscar0\n::1 oscar0\n", "10.0.0.1 oscar0\n192.168.10.250 oscar0.d oscar0\n"]
        {
            assert_eq!(judged(hosts), (Verdict::Ok, "oscar0 is 192.168.10.250 in /etc/hosts / ".to_owned()));
        }
        assert_eq!(own_name("10.0.0.1 n1", "n1", None).verdict, Verdict::Ok);
    }
}
