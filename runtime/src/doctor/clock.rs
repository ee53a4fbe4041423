//! The clock against the master's, by SNTP (RFC 4330, section 5).

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Finding, list};

/// RFC 5905.
pub const SNTP_PORT: u16 = 123;
/// Length of a message without extensions (RFC 4330, section 4).
const MESSAGE: usize = 48;
/// Version 4, mode 3: a client.
const CLIENT: u8 = 4 << 3 | 3;
const MODE_SERVER: u8 = 4;
/// Seconds from 1900 to 1970.
const UNIX_ERA: i128 = 2_208_988_800;
const PATIENCE: Duration = Duration::from_secs(1);
/// Milliseconds that nobody notices: make(1) tells of files of the future from a second on.
const NOTICED: u64 = 1000;
/// Milliseconds with which logs, files and schedules of pools are of no use.
const WRONG: u64 = 60_000;

/// A time in units of 2^-32 s since 1900, in an era of 2^32 s.
type Stamp = u64;

/// By how many milliseconds this clock is ahead of the server's, of the four times of an exchange: sent and come back
/// by this clock, come and sent back by the server's.
fn ahead([sent, came, returned, back]: [Stamp; 4]) -> i64 {
    let behind = |ours: Stamp, theirs: Stamp| i128::from(theirs.wrapping_sub(ours).cast_signed());
    let milliseconds = -(behind(sent, came) + behind(back, returned)) / 2 * 1000 / (1 << 32);
    i64::try_from(milliseconds).unwrap_or(i64::MAX)
}

fn now() -> Stamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = (i128::from(since.as_secs()) + UNIX_ERA) << 32;
    let units = seconds + (i128::from(since.subsec_nanos()) << 32) / 1_000_000_000;
    // The era is left out.
    u64::try_from(units & i128::from(u64::MAX)).unwrap_or(0)
}

fn stamp(message: &[u8; MESSAGE], at: usize) -> Stamp {
    message[at..].first_chunk().map_or(0, |octets| Stamp::from_be_bytes(*octets))
}

/// The times of an exchange, where this is the answer to what was sent at `sent`.
fn answered(message: &[u8], sent: Stamp, back: Stamp) -> Option<[Stamp; 4]> {
    let message: &[u8; MESSAGE] = message.first_chunk()?;
    let is_answer = message[0] & 7 == MODE_SERVER && stamp(message, 24) == sent && stamp(message, 40) != 0;
    is_answer.then(|| [sent, stamp(message, 32), stamp(message, 40), back])
}

/// Asks a server by how many milliseconds this clock is ahead of its.
///
/// # Errors
/// Those of the socket; `TimedOut` or `WouldBlock` where nothing comes within a second.
pub fn ask(server: Ipv4Addr, port: u16) -> io::Result<i64> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect((server, port))?;
    let mut message = [0; MESSAGE];
    message[0] = CLIENT;
    let sent = now();
    message[40..].copy_from_slice(&sent.to_be_bytes());
    socket.send(&message)?;
    let length = socket.recv(&mut message)?;
    let times = answered(&message[..length], sent, now());
    times
        .map(ahead)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "what answers is no time server"))
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
            format!("the master does not tell the time (UDP port {SNTP_PORT}): {why}"),
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

    const SECOND: u64 = 1 << 32;

    #[test]
    fn the_way_there_and_back_is_taken_out() {
        // A way of a second each, of a clock that is 10 s ahead.
        assert_eq!(ahead([100, 91, 91, 102].map(|seconds| seconds * SECOND)), 10_000);
        assert_eq!(ahead([100, 111, 112, 103].map(|seconds| seconds * SECOND)), -10_000);
        // Over the end of an era, in 2036.
        assert_eq!(ahead([u64::MAX - SECOND + 1, 0, 0, 0]), -500);
    }

    #[test]
    fn only_the_answer_to_the_question_counts() {
        let mut message = [0; MESSAGE];
        message[0] = 4 << 3 | MODE_SERVER;
        message[24..32].copy_from_slice(&7_u64.to_be_bytes());
        message[32..40].copy_from_slice(&8_u64.to_be_bytes());
        message[40..48].copy_from_slice(&9_u64.to_be_bytes());
        assert_eq!(answered(&message, 7, 10), Some([7, 8, 9, 10]));
        assert_eq!(answered(&message, 6, 10), None);
        assert_eq!(answered(&message[..47], 7, 10), None);
        message[0] = CLIENT;
        assert_eq!(answered(&message, 7, 10), None);
    }

    #[test]
    fn a_server_is_asked() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        let answering = std::thread::spawn(move || {
            let mut message = [0; MESSAGE];
            let (_, client) = server.recv_from(&mut message).unwrap();
            message[0] = 4 << 3 | MODE_SERVER;
            message.copy_within(40..48, 24);
            let hour_ahead = now() + 3600 * SECOND;
            message[32..40].copy_from_slice(&hour_ahead.to_be_bytes());
            message[40..48].copy_from_slice(&hour_ahead.to_be_bytes());
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
