//! ONC RPC version 2 (RFC 5531): the header of a call, its credential, and the headers of replies.

use super::xdr::{Decoder, Encode, Garbage};
use bytes::{BufMut, BytesMut};

/// AUTH_NONE and AUTH_UNIX (AUTH_SYS), the flavours that are served.
const AUTH_NONE: u32 = 0;
const AUTH_UNIX: u32 = 1;
/// The most octets of a credential or verifier (RFC 5531, section 8.2).
const MAX_AUTH: usize = 400;
/// The most further groups of AUTH_UNIX (RFC 5531, appendix A).
const MAX_GROUPS: usize = 16;

/// The header of a call, ready to be served. The arguments follow it in the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call<'a> {
    /// Transaction id, chosen by the client.
    pub xid: u32,
    /// Program number.
    pub program: u32,
    /// Its version.
    pub version: u32,
    /// The procedure of that version.
    pub procedure: u32,
    /// Who the client says it calls for.
    pub credential: Credential<'a>,
    /// The arguments, not decoded.
    pub arguments: &'a [u8],
}

/// A credential as it came, so that the same one need not be decoded for every call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credential<'a> {
    /// AUTH_NONE: nobody.
    None,
    /// AUTH_UNIX: the body of it.
    Unix(&'a [u8]),
}

/// User and groups of AUTH_UNIX.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ids {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
}

/// Why a record gets no service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Not a call at all: there is nobody to answer, and the stream cannot be trusted.
    NotACall,
    /// A call whose header is good up to here, and the answer that it gets.
    Answer(u32, Denial),
}

/// The answers to a call that is not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// Another version of RPC.
    RpcMismatch,
    /// AUTH_BADCRED: a flavour that is not served, or a credential that does not decode.
    BadCredential,
    /// AUTH_BADVERF: a verifier over its bound.
    BadVerifier,
    /// AUTH_TOOWEAK: a port that any user of the client can have.
    WeakCredential,
    /// PROG_UNAVAIL.
    NoProgram,
    /// PROG_MISMATCH, with the lowest and highest version there is.
    NoVersion(u32, u32),
    /// PROC_UNAVAIL.
    NoProcedure,
    /// GARBAGE_ARGS.
    GarbageArguments,
    /// SYSTEM_ERR.
    SystemError,
}

impl<'a> Call<'a> {
    /// Reads the header of a record.
    pub fn parse(record: &'a [u8]) -> Result<Self, Refusal> {
        let mut decoder = Decoder::new(record);
        let (Ok(xid), Ok(0)) = (decoder.u32(), decoder.u32()) else {
            return Err(Refusal::NotACall);
        };
        let denied = |denial| Refusal::Answer(xid, denial);
        let garbage = |_: Garbage| denied(Denial::GarbageArguments);
        if decoder.u32().map_err(garbage)? != 2 {
            return Err(denied(Denial::RpcMismatch));
        }
        let program = decoder.u32().map_err(garbage)?;
        let version = decoder.u32().map_err(garbage)?;
        let procedure = decoder.u32().map_err(garbage)?;
        let bad_credential = |_: Garbage| denied(Denial::BadCredential);
        let flavour = decoder.u32().map_err(bad_credential)?;
        let body = decoder.opaque(MAX_AUTH).map_err(bad_credential)?;
        let bad_verifier = |_: Garbage| denied(Denial::BadVerifier);
        decoder.u32().map_err(bad_verifier)?;
        decoder.opaque(MAX_AUTH).map_err(bad_verifier)?;
        let credential = match flavour {
            AUTH_NONE => Credential::None,
            AUTH_UNIX => Credential::Unix(body),
            _ => return Err(denied(Denial::BadCredential)),
        };
        Ok(Self { xid, program, version, procedure, credential, arguments: decoder.rest() })
    }
}

impl Ids {
    /// Nobody: what AUTH_NONE stands for.
    pub const NOBODY: u32 = 65534;

    /// Decodes a credential.
    pub fn decode(credential: Credential<'_>) -> Result<Self, Garbage> {
        let Credential::Unix(body) = credential else {
            return Ok(Self { uid: Self::NOBODY, gid: Self::NOBODY, groups: Vec::new() });
        };
        let mut decoder = Decoder::new(body);
        decoder.u32()?; // stamp
        decoder.opaque(255)?; // machine name, a claim that nothing rests on
        let (uid, gid) = (decoder.u32()?, decoder.u32()?);
        let count = decoder.u32()? as usize;
        if count > MAX_GROUPS {
            return Err(Garbage);
        }
        let groups = (0..count).map(|_| decoder.u32()).collect::<Result<_, _>>()?;
        Ok(Self { uid, gid, groups })
    }
}

/// Writes the header of a reply whose results follow: accepted, verifier AUTH_NONE, SUCCESS.
pub fn put_success(out: &mut BytesMut, xid: u32) {
    let mut header = [0; 24];
    header[..4].copy_from_slice(&xid.to_be_bytes());
    header[7] = 1; // REPLY
    out.put_slice(&header);
}

/// Writes the whole reply to a call that is not carried out.
pub fn put_denial(out: &mut BytesMut, xid: u32, denial: Denial) {
    out.put_u32(xid);
    out.put_u32(1); // REPLY
    let accept_stat = match denial {
        Denial::RpcMismatch => {
            // MSG_DENIED, RPC_MISMATCH, lowest and highest
            out.put_words(&[1, 0, 2, 2]);
            return;
        }
        Denial::BadCredential | Denial::BadVerifier | Denial::WeakCredential => {
            let status = match denial {
                Denial::BadCredential => 1,
                Denial::BadVerifier => 3,
                _ => 5,
            };
            // MSG_DENIED, AUTH_ERROR
            out.put_words(&[1, 1, status]);
            return;
        }
        Denial::NoProgram => 1,
        Denial::NoVersion(..) => 2,
        Denial::NoProcedure => 3,
        Denial::GarbageArguments => 4,
        Denial::SystemError => 5,
    };
    out.put_u32(0); // MSG_ACCEPTED
    out.put_u32(AUTH_NONE);
    out.put_opaque(&[]);
    out.put_u32(accept_stat);
    if let Denial::NoVersion(low, high) = denial {
        out.put_u32(low);
        out.put_u32(high);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// NULL of NFSv3 as the Linux kernel sends it when it mounts: AUTH_NONE, xid 0x6b3d1f2a.
    const NULL: &str =
        "6b3d1f2a 00000000 00000002 000186a3 00000003 00000000 00000000 00000000 00000000 00000000";
    /// GETATTR with AUTH_UNIX: stamp, machine "n1", uid 1000, gid 100, groups 4 and 27.
    const GETATTR: &str = "00000007 00000000 00000002 000186a3 00000003 00000001 \
        00000001 00000024 01020304 00000002 6e310000 000003e8 00000064 00000003 00000004 0000001b 00000064 \
        00000000 00000000 00000004 cafebabe";

    fn words(hex: &str) -> Vec<u8> {
        hex.split_whitespace().flat_map(|word| u32::from_str_radix(word, 16).unwrap().to_be_bytes()).collect()
    }

    fn denial(words: &[u32]) -> Denial {
        let record: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        match Call::parse(&record) {
            Err(Refusal::Answer(9, denial)) => denial,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn golden_calls() {
        let record = words(NULL);
        let null = Call::parse(&record).unwrap();
        assert_eq!((null.xid, null.program, null.version, null.procedure), (0x6b3d_1f2a, 100_003, 3, 0));
        assert_eq!(Ids::decode(null.credential).unwrap().uid, Ids::NOBODY);

        let record = words(GETATTR);
        let getattr = Call::parse(&record).unwrap();
        let ids = Ids::decode(getattr.credential).unwrap();
        assert_eq!(ids, Ids { uid: 1000, gid: 100, groups: vec![4, 27, 100] });
        assert_eq!(getattr.arguments, words("00000004 cafebabe"));
    }

    #[test]
    fn every_prefix_of_a_call_is_refused_or_read_without_a_panic() {
        let record = words(GETATTR);
        for end in 0..record.len() {
            let _ = Call::parse(&record[..end]).map(|call| Ids::decode(call.credential));
        }
        assert_eq!(Call::parse(&record[..7]), Err(Refusal::NotACall));
        assert_eq!(Call::parse(&words("00000007 00000001")), Err(Refusal::NotACall));
    }

    #[test]
    fn refusals() {
        assert_eq!(denial(&[9, 0, 3]), Denial::RpcMismatch);
        assert_eq!(denial(&[9, 0, 2, 100_003, 3, 0, 6, 0, 0, 0]), Denial::BadCredential);
        assert_eq!(denial(&[9, 0, 2, 100_003, 3, 0, 1, 401]), Denial::BadCredential);
        assert_eq!(denial(&[9, 0, 2, 100_003, 3, 0, 0, 0, 0, 401]), Denial::BadVerifier);
        assert_eq!(denial(&[9, 0, 2, 100_003]), Denial::GarbageArguments);
    }

    #[test]
    fn too_many_groups_are_refused() {
        let body = words(&format!("0 0 1 1 11 {}", "5 ".repeat(17)));
        assert_eq!(Ids::decode(Credential::Unix(&body)), Err(Garbage));
    }
}
