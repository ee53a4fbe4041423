//! The clock against the master's, by SNTP (RFC 4330, section 5).

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Finding, list};
use crate::sntp;

const PATIENCE: Duration = Duration::from_secs(1);
/// Milliseconds that nobody notices: make(1) tells of files of the future from a second on.
const NOTICED: u64 = 1000;
/// Milliseconds with which logs, files and schedules of pools are of no use.
const WRONG: u64 = 60_000;

/// Asks a server by how many milliseconds this clock is ahead of its.
///
/// # Errors
/// Those of the socket; `TimedOut` or `WouldBlock` where nothing comes within a second.
pub fn ask(server: Ipv4Addr, port: u16) -> io::Result<i64> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect((server, port))?;
    let mut mark = [0; 8];
    getrandom::fill(&mut mark).map_err(io::Error::other)?;
    let theirs = sntp::ask(&socket, mark)?;
    let own = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let milliseconds = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    Ok(milliseconds(own).saturating_sub(milliseconds(theirs)))
}

fn off(milliseconds: i64) -> String {
    let direction = if milliseconds > 0 { "ahead of" } else { "behind" };
    let off = milliseconds.unsigned_abs();
    if off < NOTICED { format!("{off} ms {direction}") } else { format!("{} s {direction}", off / 1000) }
}

/// On a node: its clock against the master's, in milliseconds that it is ahead, or why the master does not say.
pub fn against_master(ahead: Result<i64, String>) -> Finding {
    const WHAT: &str = "clock";
    let mend = "see `timedatectl`: systemd-timesyncd takes the time from the master; `timedatectl set-ntp true` starts it";
    match ahead {
        Ok(ahead) if ahead.unsigned_abs() < NOTICED => {
            Finding::ok(WHAT, format!("{} the master's", off(ahead)))
        }
        Ok(ahead) if ahead.unsigned_abs() < WRONG => {
            Finding::warn(WHAT, format!("{} the master's", off(ahead)), mend)
        }
        Ok(ahead) => Finding::fail(WHAT, format!("{} the master's", off(ahead)), mend),
        Err(why) => Finding::warn(
            WHAT,
            format!("the master does not tell the time (UDP port {}): {why}", sntp::PORT),
            "`tesela doctor` on the master says whether its SNTP runs and whether a firewall drops that port",
        ),
    }
}

/// On the master: the members' clocks, each by so many milliseconds ahead of its own.
pub fn of_members(clocks: &[(String, i64)]) -> Finding {
    const WHAT: &str = "clocks";
    let beyond = |limit: u64| clocks.iter().filter(move |(_, ahead)| ahead.unsigned_abs() >= limit);
    let told: Vec<String> =
        beyond(NOTICED).map(|(node, ahead)| format!("{node} is {} the master", off(*ahead))).collect();
    let mend = "on that node see `timedatectl`: systemd-timesyncd takes the time from the master";
    match (told.is_empty(), beyond(WRONG).next()) {
        (true, _) if clocks.is_empty() => Finding::ok(WHAT, "no member has told its time yet"),
        (true, _) => Finding::ok(WHAT, format!("those of {} members agree with the master's", clocks.len())),
        (false, None) => Finding::warn(WHAT, list(told), mend),
        (false, Some(_)) => Finding::fail(WHAT, list(told), mend),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn a_server_is_asked() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        let answering = std::thread::spawn(move || {
            let mut message = [0; sntp::PACKET];
            let (_, client) = server.recv_from(&mut message).unwrap();
            // A server of stratum 1.
            (message[0], message[1]) = (0x24, 1);
            message.copy_within(40..48, 24);
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            let hour_ahead = u32::try_from((now.as_secs() + 3600 + 2_208_988_800) & 0xffff_ffff).unwrap();
            let fraction = u32::try_from((u64::from(now.subsec_nanos()) << 32) / 1_000_000_000).unwrap();
            message[40..44].copy_from_slice(&hour_ahead.to_be_bytes());
            message[44..].copy_from_slice(&fraction.to_be_bytes());
            server.send_to(&message, client).unwrap();
        });
        let ahead = ask(Ipv4Addr::LOCALHOST, port).unwrap();
        answering.join().unwrap();
        assert!((-3_601_000..=-3_599_000).contains(&ahead), "{ahead}");
    }

    #[test]
    fn a_clock_is_right_noticed_or_wrong() {
        let verdict = |ahead| against_master(Ok(ahead)).verdict;
        assert_eq!([-3, 999].map(verdict), [Verdict::Ok; 2]);
        assert_eq!([-1000, 59_000].map(verdict), [Verdict::Warn; 2]);
        assert_eq!([-60_000, i64::MAX].map(verdict), [Verdict::Fail; 2]);
        assert_eq!(against_master(Ok(-90_500)).finding, "90 s behind the master's");
        assert_eq!(against_master(Err("nothing".into())).verdict, Verdict::Warn);
    }

    #[test]
    fn members_clocks_are_told_where_they_are_off() {
        let of = |clocks: &[(&str, i64)]| {
            of_members(&clocks.iter().map(|(node, ahead)| ((*node).to_owned(), *ahead)).collect::<Vec<_>>())
        };
        assert_eq!(of(&[]).verdict, Verdict::Ok);
        assert_eq!(of(&[("n1", 3), ("n2", -20)]).finding, "those of 2 members agree with the master's");
        let noticed = of(&[("n1", 3), ("n2", -2000)]);
        assert_eq!((noticed.verdict, &noticed.finding[..]), (Verdict::Warn, "n2 is 2 s behind the master"));
        assert_eq!(of(&[("n1", 3), ("n2", 7_200_000)]).verdict, Verdict::Fail);
    }
}
