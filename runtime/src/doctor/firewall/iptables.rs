//! The rules as `iptables-save` lists them (iptables(8), iptables-extensions(8)).

use std::net::Ipv4Addr;

use super::{Chain, Chains, Packet, Rule, Then, Way, dropping};

/// The built-in chain that drops the packet, and the command that lets it pass there.
pub fn drops(saved: &str, packet: &Packet) -> Option<(String, String)> {
    let chains = chains(saved, packet);
    let name = dropping(&chains)?;
    let (table, chain) = name.split_once(' ')?;
    let interface = if packet.way == Way::In { "-i" } else { "-o" };
    let Packet { interface: by, port, .. } = packet;
    let protocol = packet.protocol();
    let mend =
        format!("iptables -t {table} -I {chain} {interface} {by} -p {protocol} --dport {port} -j ACCEPT");
    Some((name.to_owned(), mend))
}

fn chains(saved: &str, packet: &Packet) -> Chains {
    let hooks = match packet.way {
        Way::In => ["PREROUTING", "INPUT"],
        Way::Out => ["OUTPUT", "POSTROUTING"],
    };
    let mut chains = Chains::new();
    let mut table = "";
    for line in saved.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        } else if let Some(line) = line.strip_prefix(':') {
            let mut words = line.split_whitespace();
            let (Some(chain), Some(policy)) = (words.next(), words.next()) else { continue };
            let is_base = table != "nat" && hooks.contains(&chain);
            chains.insert(
                format!("{table} {chain}"),
                Chain { is_base, drops: policy == "DROP", rules: vec![] },
            );
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let words = words(rule);
            let Some((chain, words)) = words.split_first() else { continue };
            let read = read(table, words, packet);
            chains.entry(format!("{table} {chain}")).or_default().rules.push(read);
        }
    }
    chains
}

/// The words of a rule; what stands between quotes is one.
fn words(rule: &str) -> Vec<&str> {
    let quoted = rule.split('"').enumerate();
    quoted
        .flat_map(|(index, part)| match index % 2 {
            0 => part.split_whitespace().collect(),
            _ => vec![part],
        })
        .collect()
}

fn read(table: &str, words: &[&str], packet: &Packet) -> Rule {
    let mut rule = Rule { about: Some(true), then: Then::Nothing };
    let mut words = words.iter().copied();
    let mut holds = true;
    while let Some(option) = words.next() {
        let known = match option {
            "!" => {
                holds = false;
                continue;
            }
            "-j" | "-g" => {
                rule.then = target(table, option, words.next().unwrap_or_default());
                // What follows says how it is marked, or how the sender is told.
                break;
            }
            "-m" | "--comment" => {
                words.next();
                continue;
            }
            "-p" | "-i" | "-o" | "-s" | "-d" | "--dport" | "--dports" | "--ctstate" | "--state" => {
                is(option, words.next().unwrap_or_default(), packet)
            }
            _ => None,
        };
        let known = known.map(|is| is == holds);
        holds = true;
        rule.about = match (rule.about, known) {
            (Some(false), _) | (_, Some(false)) => Some(false),
            (Some(true), Some(true)) => Some(true),
            _ => None,
        };
    }
    rule
}

fn target(table: &str, option: &str, name: &str) -> Then {
    match name {
        "ACCEPT" => Then::Accept,
        "DROP" | "REJECT" => Then::Drop,
        "RETURN" => Then::Return,
        "LOG" | "NFLOG" | "MARK" | "CONNMARK" | "CT" | "NOTRACK" | "TRACE" | "TCPMSS" | "CHECKSUM" => {
            Then::Nothing
        }
        // A chain, or a target that is not known, which no chain is called.
        chain if option == "-g" => Then::Goto(format!("{table} {chain}")),
        chain => Then::Jump(format!("{table} {chain}")),
    }
}

/// Whether the packet is what an option says; none: that is not known.
fn is(option: &str, value: &str, packet: &Packet) -> Option<bool> {
    let mut list = value.split(',');
    Some(match (option, packet.way) {
        ("-p", _) => value == "all" || value == packet.protocol(),
        ("-i", Way::In) | ("-o", Way::Out) => match value.strip_suffix('+') {
            Some(beginning) => packet.interface.starts_with(beginning),
            None => value == packet.interface,
        },
        ("-s", _) => in_net(packet.source()?, value)?,
        ("-d", _) => in_net(packet.destination()?, value)?,
        ("--dport" | "--dports", _) => list.any(|part| {
            let (first, last) = part.split_once(':').unwrap_or((part, part));
            let (first, last) = (first.parse::<u16>().ok(), last.parse::<u16>().ok());
            first.zip(last).is_some_and(|(first, last)| (first..=last).contains(&packet.port))
        }),
        // The first packet of a connection is of a new one.
        ("--ctstate" | "--state", _) => list.any(|state| state == "NEW"),
        _ => return None,
    })
}

fn in_net(address: Ipv4Addr, net: &str) -> Option<bool> {
    let (net, length) = net.split_once('/').unwrap_or((net, "32"));
    Some(is_in(address, net.parse().ok()?, length.parse().ok()?))
}

/// Whether an address is in the network.
pub(super) fn is_in(address: Ipv4Addr, net: Ipv4Addr, length: u32) -> bool {
    let mask = u32::MAX.checked_shl(32_u32.saturating_sub(length)).unwrap_or(0);
    u32::from(address) & mask == u32::from(net) & mask
}

#[cfg(test)]
mod tests {
    use super::super::tests::packet;
    use super::*;

    fn dropped(rules: &str, packet: &Packet) -> Option<String> {
        let saved = format!(
            "# Generated by iptables-save v1.8.9\n*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n\
             :OUTPUT ACCEPT [0:0]\n:cluster - [0:0]\n{rules}\nCOMMIT\n"
        );
        drops(&saved, packet).map(|(chain, _)| chain)
    }

    #[test]
    fn a_rule_that_drops_the_port_is_found() {
        let udp = packet(Way::In, true, 7445);
        let in_input = Some("filter INPUT".to_owned());
        for rule in [
            "-A INPUT -i eth0 -p udp -m udp --dport 7445 -j DROP",
            "-A INPUT -p udp -m multiport --dports 53,7000:8000 -j REJECT --reject-with icmp-port-unreachable",
            "-A INPUT ! -i lo -m comment --comment \"all but -j ACCEPT\" -j DROP",
            "-A INPUT -s 192.168.45.0/24 -d 192.168.45.11/32 -m conntrack --ctstate INVALID,NEW -j DROP",
            "-A INPUT -i eth+ -j cluster\n-A cluster ! -p tcp -j LOG --log-prefix \"drop \"\n-A cluster -j DROP",
        ] {
            assert_eq!(dropped(rule, &udp), in_input, "{rule}");
        }
        let (chain, mend) = drops("*filter\n:INPUT DROP [0:0]\n", &udp).unwrap();
        let due = "iptables -t filter -I INPUT -i eth0 -p udp --dport 7445 -j ACCEPT";
        assert_eq!((&chain[..], &mend[..]), ("filter INPUT", due));
    }

    #[test]
    fn a_rule_about_something_else_is_none() {
        let udp = packet(Way::In, true, 7445);
        for rule in [
            "",
            "-A INPUT -p tcp -m tcp --dport 7445 -j DROP",
            "-A INPUT -i eth1 -j DROP",
            "-A INPUT ! -s 192.168.45.0/24 -j DROP",
            "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j DROP",
            "-A INPUT -m limit --limit 3/min -j DROP",
            "-A INPUT -m set --match-set members src -j ACCEPT\n-A INPUT -j DROP",
            "-A INPUT -j f2b-sshd\n-A INPUT -j DROP",
            "-A OUTPUT -j DROP",
        ] {
            assert_eq!(dropped(rule, &udp), None, "{rule}");
        }
        let out = packet(Way::Out, false, 7444);
        let rule = "-A OUTPUT -o eth0 -d 192.168.45.12 -p tcp -m tcp --dport 7444 -j DROP";
        assert_eq!(dropped(rule, &out), Some("filter OUTPUT".to_owned()));
    }
}
