//! The pieces that NFS version 3 replies are made of (RFC 1813, section 2.6).

use super::fs::{Attr, Handle, Kind, Status, Time, Wcc};
use super::xdr::Encode;
use bytes::{BufMut, BytesMut};

/// The octets of `fattr3` on the wire.
const ATTR_SIZE: usize = 84;
/// The most octets of an entry of READDIRPLUS besides its name: what follows it, fileid, length,
/// cookie, attributes and a handle of 64.
pub const PLUS_ENTRY: usize = 4 + 8 + 4 + 8 + 4 + ATTR_SIZE + 4 + 4 + 64;

/// Writes a status (`nfsstat3`).
pub fn put_status(out: &mut BytesMut, status: Status) {
    out.put_u32(status as u32);
}

/// Writes attributes (`fattr3`).
pub fn put_attr(out: &mut BytesMut, attr: &Attr) {
    let (kind, major, minor) = match attr.kind {
        Kind::File => (1, 0, 0),
        Kind::Directory => (2, 0, 0),
        Kind::Block(major, minor) => (3, major, minor),
        Kind::Char(major, minor) => (4, major, minor),
        Kind::Symlink => (5, 0, 0),
        Kind::Socket => (6, 0, 0),
        Kind::Fifo => (7, 0, 0),
    };
    let [size, used, fsid, fileid] = [attr.size, attr.used, attr.fsid, attr.fileid].map(halves);
    let words: [u32; ATTR_SIZE / 4] = [
        kind,
        attr.mode,
        attr.nlink,
        attr.uid,
        attr.gid,
        size[0],
        size[1],
        used[0],
        used[1],
        major,
        minor,
        fsid[0],
        fsid[1],
        fileid[0],
        fileid[1],
        attr.atime.seconds,
        attr.atime.nanos,
        attr.mtime.seconds,
        attr.mtime.nanos,
        attr.ctime.seconds,
        attr.ctime.nanos,
    ];
    // One copy of the whole: this is what the server writes most often.
    let mut wire = [0; ATTR_SIZE];
    for (place, word) in wire.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_be_bytes());
    }
    out.put_slice(&wire);
}

/// Writes attributes after an operation (`post_op_attr`).
pub fn put_post(out: &mut BytesMut, attr: Option<&Attr>) {
    out.put_bool(attr.is_some());
    if let Some(attr) = attr {
        put_attr(out, attr);
    }
}

/// Writes a handle (`nfs_fh3`).
pub fn put_handle(out: &mut BytesMut, handle: &Handle) {
    out.put_opaque(handle.as_bytes());
}

/// Writes weak cache consistency data (`wcc_data`) of an operation that was done.
pub fn put_wcc(out: &mut BytesMut, wcc: &Wcc) {
    out.put_bool(true);
    out.put_u64(wcc.before.size);
    put_time(out, wcc.before.mtime);
    put_time(out, wcc.before.ctime);
    put_post(out, Some(&wcc.after));
}

/// Writes weak cache consistency data of an operation that failed: what is there now, if anything.
pub fn put_failed_wcc(out: &mut BytesMut, now: Option<&Attr>) {
    out.put_bool(false);
    put_post(out, now);
}

/// The high and the low word of a hyper.
fn halves(wide: u64) -> [u32; 2] {
    [(wide >> 32) as u32, (wide & 0xffff_ffff) as u32]
}

fn put_time(out: &mut BytesMut, time: Time) {
    out.put_u32(time.seconds);
    out.put_u32(time.nanos);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_laid_out_as_in_the_rfc() {
        let at = |seconds| Time { seconds, nanos: seconds + 1 };
        let attr = Attr {
            kind: Kind::Char(5, 1),
            mode: 0o620,
            nlink: 2,
            uid: 3,
            gid: 4,
            size: 0x0000_0005_0000_0006,
            used: 7,
            fsid: 8,
            fileid: 0x0000_0009_0000_000a,
            atime: at(20),
            mtime: at(30),
            ctime: at(40),
        };
        let mut out = BytesMut::new();
        put_attr(&mut out, &attr);
        let words: Vec<u32> =
            out.chunks(4).map(|word| u32::from_be_bytes(word.try_into().unwrap())).collect();
        assert_eq!(words, [4, 0o620, 2, 3, 4, 5, 6, 0, 7, 5, 1, 0, 8, 9, 10, 20, 21, 30, 31, 40, 41]);
    }
}
