//! Datagrams, checked and encrypted with the cluster's key: XChaCha20-Poly1305, a random nonce in each.
//!
//! `TSL1`, 24 octets of nonce, the content, 16 octets of tag. Whoever has no key can neither make one nor read it;
//! one that is sent again is found by the number in it ([`super::Core`]).

use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{KeyInit, XChaCha20Poly1305};

/// What every datagram begins with.
const MAGIC: &[u8; 4] = b"TSL1";
const NONCE: usize = 24;
const TAG: usize = 16;
/// What sealing adds to the content, in octets.
pub const OVERHEAD: usize = MAGIC.len() + NONCE + TAG;

/// The cluster's key.
pub struct Seal(XChaCha20Poly1305);

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seal")
    }
}

impl Seal {
    /// With this key.
    pub fn new(key: &[u8; 32]) -> Self {
        Self(XChaCha20Poly1305::new(key.into()))
    }

    /// The datagram with this content.
    ///
    /// # Errors
    /// The kernel gives no random octets.
    pub fn seal(&self, content: &[u8]) -> Result<Vec<u8>, getrandom::Error> {
        let mut nonce = [0; NONCE];
        getrandom::fill(&mut nonce)?;
        let mut datagram = Vec::with_capacity(OVERHEAD + content.len());
        datagram.extend_from_slice(MAGIC);
        datagram.extend_from_slice(&nonce);
        let start = datagram.len();
        datagram.extend_from_slice(content);
        // It fails only for a content of 256 GiB.
        let tag = self.0.encrypt_inout_detached(&nonce.into(), MAGIC, (&mut datagram[start..]).into());
        datagram.extend_from_slice(&tag.map(Into::<[u8; TAG]>::into).unwrap_or_default());
        Ok(datagram)
    }

    /// The content of a datagram; `None`: it is none of this cluster's.
    pub fn open(&self, datagram: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = datagram.strip_prefix(MAGIC)?.split_first_chunk::<NONCE>()?;
        let (sealed, tag) = sealed.split_last_chunk::<TAG>()?;
        let mut content = sealed.to_vec();
        self.0.decrypt_inout_detached(nonce.into(), MAGIC, content.as_mut_slice().into(), tag.into()).ok()?;
        Some(content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_sealed_with_the_key_opens() {
        let (ours, theirs) = (Seal::new(&[1; 32]), Seal::new(&[2; 32]));
        let datagram = ours.seal(b"here I am").unwrap();
        assert_eq!(ours.open(&datagram).as_deref(), Some(&b"here I am"[..]));
        assert_eq!(theirs.open(&datagram), None);
        for at in 0..datagram.len() {
            let mut forged = datagram.clone();
            forged[at] ^= 1;
            assert_eq!(ours.open(&forged), None, "octet {at}");
            assert_eq!(ours.open(&datagram[..at]), None);
        }
        assert_ne!(ours.seal(b"here I am").unwrap(), datagram, "each has a nonce of its own");
    }
}
