//! A DHCP server of its own, for the tests that kill it and for the benchmark:
//! `dhcp-server INTERFACE ADDRESS/LENGTH FIRST LAST LEASES [clients=NETWORK/LENGTH] [proxy]` prints `ready` and
//! serves until its standard input ends.

use std::io::{Read, Write};
use std::path::Path;

use tesela::dhcp::Mode;
use tesela_tests::dhcp::Setup;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [interface, address, first, last, leases, options @ ..] = arguments.as_slice() else {
        panic!("dhcp-server INTERFACE ADDRESS/LENGTH FIRST LAST LEASES [clients=NETWORK/LENGTH] [proxy]");
    };
    let parse = |text: &String| text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
    let mut setup = Setup::new(interface, address, Some((parse(first), parse(last))));
    for option in options {
        match option.split_once('=') {
            Some(("clients", network)) => setup.clients = Some(network.to_owned()),
            None if option == "proxy" => setup.mode = Mode::Proxy,
            _ => panic!("{option}: unknown"),
        }
    }
    let (server, _policy) = setup.start(Path::new(leases));
    println!("ready");
    std::io::stdout().flush().unwrap_or_else(|error| panic!("{error}"));
    let mut rest = Vec::new();
    std::io::stdin().read_to_end(&mut rest).unwrap_or_else(|error| panic!("{error}"));
    for (name, value) in server.counters().snapshot() {
        println!("{name} {value}");
    }
}
