//! One-time tokens that need no memory.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long a token is good.
pub const TOKEN_LIFE: Duration = Duration::from_secs(60);
const LIFE_MS: u64 = 60_000;
/// How long one is good that someone types on another machine (`teselad join`).
pub const JOIN_LIFE: Duration = Duration::from_secs(900);
const JOIN_LIFE_MS: u64 = 900_000;

/// How many nodes' last fetches are remembered at most; the others' tokens just end sooner.
const FETCHES: usize = 16 * 1024;

/// Milliseconds since 1970, by the system's clock.
pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// What can be wrong with a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Never issued, or to another node or address.
    #[error("the token was not issued to this node at this address")]
    Foreign,
    /// Too old, or from a future that the clock has since left.
    #[error("the token has expired; it is good for 60 s after the last file that the loader fetched")]
    Expired,
    /// One of those that are typed, the same.
    #[error(
        "the token has expired, it is good for a quarter of an hour: `tesela node token` prints another one"
    )]
    JoinExpired,
    /// Another pair of keys was enrolled with it, or with a later one.
    #[error("the token is used up")]
    Used,
}

/// A token is the time of its issue (12 hexadecimal digits) and a 128-bit MAC (32 of them).
pub(super) struct Tokens {
    key: [u8; 32],
    fetched: Mutex<HashMap<String, u64>>,
}

impl Tokens {
    pub(super) fn new(key: [u8; 32]) -> Self {
        Tokens { key, fetched: Mutex::default() }
    }

    pub(super) fn issue(&self, node: &str, address: Option<Ipv4Addr>, now: u64) -> String {
        let mac = self.mac(now, node, address.map_or(Bound::Boots, Bound::At));
        format!("{now:012x}{:032x}", u128::from_be_bytes(mac))
    }

    /// One with which a machine joins that the master does not boot, from wherever it is.
    pub(super) fn issue_join(&self, node: &str, now: u64) -> String {
        let mac = self.mac(now, node, Bound::Joins);
        format!("{now:012x}{:032x}", u128::from_be_bytes(mac))
    }

    /// When one that is good was issued.
    pub(super) fn check_join(&self, token: &str, node: &str, now: u64) -> Result<u64, TokenError> {
        let (issued, mac) = parse(token).ok_or(TokenError::Foreign)?;
        if differs(&self.mac(issued, node, Bound::Joins), &mac) {
            return Err(TokenError::Foreign);
        }
        if now.abs_diff(issued) > JOIN_LIFE_MS { Err(TokenError::JoinExpired) } else { Ok(issued) }
    }

    /// When a token that is good was issued.
    pub(super) fn check(
        &self,
        token: &str,
        node: &str,
        address: Ipv4Addr,
        now: u64,
    ) -> Result<u64, TokenError> {
        let (issued, mac) = parse(token).ok_or(TokenError::Foreign)?;
        let bound =
            [Bound::At(address), Bound::Boots].map(|bound| differs(&self.mac(issued, node, bound), &mac));
        if bound == [true, true] {
            return Err(TokenError::Foreign);
        }
        let fetched = self.fetched.lock().unwrap_or_else(PoisonError::into_inner).get(node).copied();
        let from = fetched.unwrap_or(0).max(issued);
        if now.abs_diff(from) > LIFE_MS { Err(TokenError::Expired) } else { Ok(issued) }
    }

    pub(super) fn fetched(&self, node: &str, now: u64) {
        let mut fetched = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        if fetched.len() >= FETCHES {
            fetched.retain(|_, at| now.abs_diff(*at) <= LIFE_MS);
        }
        if fetched.len() < FETCHES {
            fetched.insert(node.to_owned(), now);
        }
    }

    fn mac(&self, issued: u64, node: &str, bound: Bound) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&issued.to_be_bytes());
        match bound {
            Bound::At(address) => hasher.update(&[4]).update(&address.octets()),
            Bound::Boots => hasher.update(&[0]),
            Bound::Joins => hasher.update(&[1]),
        };
        hasher.update(node.as_bytes());
        let mut mac = [0; 16];
        mac.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        mac
    }
}

/// What a token is good for.
#[derive(Clone, Copy)]
enum Bound {
    /// A boot, at this address.
    At(Ipv4Addr),
    /// A boot, at an address that is not known yet.
    Boots,
    /// Joining.
    Joins,
}

fn parse(token: &str) -> Option<(u64, [u8; 16])> {
    let well_formed = token.len() == 44 && token.bytes().all(|digit| digit.is_ascii_hexdigit());
    let (issued, mac) = well_formed.then(|| token.split_at(12))?;
    let mac = u128::from_str_radix(mac, 16).ok()?;
    Some((u64::from_str_radix(issued, 16).ok()?, mac.to_be_bytes()))
}

/// Looks at every byte, so that the time it takes tells nothing of the right MAC.
fn differs(a: &[u8; 16], b: &[u8; 16]) -> bool {
    a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Ipv4Addr = Ipv4Addr::new(192, 168, 45, 11);
    const T: u64 = 1_790_000_000_000;

    #[test]
    fn a_token_is_for_one_node_at_one_address() {
        let tokens = Tokens::new([7; 32]);
        let token = tokens.issue("n1", Some(HERE), T);
        assert_eq!(token.len(), 44);
        assert_eq!(tokens.check(&token, "n1", HERE, T + 1), Ok(T));
        assert_eq!(tokens.check(&token, "n2", HERE, T), Err(TokenError::Foreign));
        let there = Ipv4Addr::new(192, 168, 45, 12);
        assert_eq!(tokens.check(&token, "n1", there, T), Err(TokenError::Foreign));
        assert_eq!(Tokens::new([8; 32]).check(&token, "n1", HERE, T), Err(TokenError::Foreign));
        assert_eq!(tokens.check(&tokens.issue("n1", None, T), "n1", there, T), Ok(T));
        for forged in ["", "x", &token[1..], &token.replace('0', "+"), &"f".repeat(44), &"é".repeat(22)] {
            assert_eq!(tokens.check(forged, "n1", HERE, T), Err(TokenError::Foreign), "{forged}");
        }
    }

    #[test]
    fn a_token_lives_60_seconds_from_the_last_fetch() {
        let tokens = Tokens::new([7; 32]);
        let token = tokens.issue("n1", Some(HERE), T);
        assert_eq!(tokens.check(&token, "n1", HERE, T + 60_000), Ok(T));
        assert_eq!(tokens.check(&token, "n1", HERE, T + 60_001), Err(TokenError::Expired));
        tokens.fetched("n1", T + 50_000);
        assert_eq!(tokens.check(&token, "n1", HERE, T + 110_000), Ok(T));
        assert_eq!(tokens.check(&token, "n1", HERE, T + 110_001), Err(TokenError::Expired));
        assert_eq!(tokens.check(&token, "n1", HERE, T - 100_000), Err(TokenError::Expired));
    }

    #[test]
    fn one_that_is_typed_lives_longer_and_boots_nothing() {
        let tokens = Tokens::new([7; 32]);
        let token = tokens.issue_join("n1", T);
        assert_eq!(tokens.check_join(&token, "n1", T + 900_000), Ok(T));
        assert_eq!(tokens.check_join(&token, "n1", T + 900_001), Err(TokenError::JoinExpired));
        assert_eq!(tokens.check_join(&token, "n2", T), Err(TokenError::Foreign));
        assert_eq!(tokens.check(&token, "n1", HERE, T), Err(TokenError::Foreign));
        for booting in [tokens.issue("n1", Some(HERE), T), tokens.issue("n1", None, T)] {
            assert_eq!(tokens.check_join(&booting, "n1", T), Err(TokenError::Foreign));
        }
    }

    #[test]
    fn memory_of_fetches_is_bounded() {
        let tokens = Tokens::new([7; 32]);
        for i in 0..FETCHES + 10 {
            tokens.fetched(&format!("n{i}"), T);
        }
        assert_eq!(tokens.fetched.lock().unwrap().len(), FETCHES);
        tokens.fetched("late", T + 70_000);
        assert_eq!(tokens.fetched.lock().unwrap().len(), 1);
    }
}
