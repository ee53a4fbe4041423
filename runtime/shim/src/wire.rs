//! A forwarded call and its answer.
//!
//! The shim describes what a call's pointers lead to, so that the deputy needs to know nothing of calls:
//! the memory is laid out as one *bounce* area of [`Request::memory`] octets, made of segments; pointers,
//! in arguments and in the area, are offsets into it until the deputy adds where it put the area.
//!
//! ```text
//! Request · segments × Segment · rebases × Rebase · content of each IN segment     shim → deputy
//! Reply · what there is of each OUT segment ([`Segment::got`])                     deputy → shim
//! ```
//! A thread's calls are numbered, and it makes one at a time. The deputy keeps what the last one gave, so over
//! another connection the shim says its request again: one that the deputy has made is only answered again.
//!
//! Both sides compute the lengths of the answer's content in the same way from the segments and the
//! returned value. Integers are little-endian, for both ends are x86-64.

/// The most segments of a request.
pub const MAX_SEGMENTS: usize = 64;
/// The most rebases of a request.
pub const MAX_REBASES: usize = 64;
/// The largest bounce area: what one call may carry.
pub const MAX_MEMORY: u64 = 1 << 30;

/// The deputy makes the call as it is.
pub const KIND_CALL: u32 = 0;
/// fork, vfork or clone: the deputy's child waits for its channel.
pub const KIND_CLONE: u32 = 1;
/// exit, which is answered before it is done, or exit_group, which is not answered.
pub const KIND_EXIT: u32 = 2;
/// The mask has changed, or the deputy makes the call (unless it is [`NO_CALL`]) and there is no answer. It has no
/// number: said twice it is what it was.
pub const KIND_NOTE: u32 = 3;
/// The number of a note's call that is none.
pub const NO_CALL: u64 = u64::MAX;

/// Every segment of this kind is carried to the deputy.
pub const SEGMENT_IN: u16 = 1;
/// Every segment of this kind is carried back.
pub const SEGMENT_OUT: u16 = 2;
/// It is carried back even when the call failed.
pub const SEGMENT_ALWAYS: u16 = 4;

/// All of an OUT segment comes back.
pub const GOT_ALL: u16 = 0;

/// The head of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Request {
    /// Counts a thread's calls, from 1; 0 in a note.
    pub seq: u64,
    /// The call's number.
    pub nr: u64,
    /// Its arguments; those in `relative` are offsets into the bounce area.
    pub args: [u64; 6],
    /// The program's signal mask.
    pub mask: u64,
    /// Octets of the bounce area.
    pub memory: u64,
    /// `KIND_…`.
    pub kind: u32,
    /// Bit n: argument n is an offset.
    pub relative: u32,
    /// How many segments follow.
    pub segments: u32,
    /// How many rebases follow them.
    pub rebases: u32,
    /// The slot of a new thread (`KIND_CLONE`).
    pub slot: u32,
    /// Zero.
    pub reserved: u32,
}

/// A piece of the bounce area.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Segment {
    /// Where it begins in the area.
    pub offset: u32,
    /// Its octets.
    pub length: u32,
    /// `SEGMENT_…`.
    pub flags: u16,
    /// [`GOT_ALL`], or the factor to the returned value.
    pub got: u16,
}

/// Offsets in the area that become pointers: as many 64-bit words as `count` from `offset`, but for zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Rebase {
    /// Where the first is.
    pub offset: u32,
    /// How many there are.
    pub count: u32,
}

/// The head of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Reply {
    /// That of the request.
    pub seq: u64,
    /// What the call returned; one of the kernel's words for a call that is made again where it was interrupted
    /// before it did anything.
    pub value: i64,
    /// Zero.
    pub reserved: u64,
}

impl Segment {
    /// How much of it the answer carries after a call that returned `value`.
    pub fn comes_back(&self, value: i64) -> u32 {
        if self.flags & SEGMENT_OUT == 0 || (value < 0 && self.flags & SEGMENT_ALWAYS == 0) {
            return 0;
        }
        match (self.got, u64::try_from(value)) {
            (GOT_ALL, _) => self.length,
            (factor, Ok(value)) => {
                u32::try_from(value.saturating_mul(u64::from(factor))).unwrap_or(u32::MAX).min(self.length)
            }
            (_, Err(_)) => self.length,
        }
    }
}

/// Structures without padding that any octets are a value of.
///
/// # Safety
/// The type is `repr(C)`, has no padding, and every pattern of bits is a value.
#[expect(unsafe_code, reason = "a promise of the implementor, about layout only")]
pub unsafe trait Plain: Copy + Default {}

macro_rules! plain {
    ($($name:ty: $size:literal),*) => {$(
        const _: () = assert!(size_of::<$name>() == $size);
        // SAFETY: repr(C), integers only, and the size says that there is no padding.
        #[expect(unsafe_code, reason = "integers only, without padding")]
        unsafe impl Plain for $name {}
    )*};
}
plain!(Request: 104, Segment: 12, Rebase: 8, Reply: 24);

/// The octets of a plain value.
#[expect(unsafe_code, reason = "the one place where a structure is seen as octets")]
pub fn octets<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: `Plain` has no padding, so all its octets are initialised.
    unsafe { core::slice::from_raw_parts(core::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// The octets of a plain value, to be filled.
#[expect(unsafe_code, reason = "the one place where a structure is seen as octets")]
pub fn octets_mut<T: Plain>(value: &mut T) -> &mut [u8] {
    // SAFETY: any octets are a value of a `Plain`.
    unsafe { core::slice::from_raw_parts_mut(core::ptr::from_mut(value).cast(), size_of::<T>()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_carries_what_the_call_wrote() {
        let out = |got, flags| Segment { offset: 0, length: 100, flags: SEGMENT_OUT | flags, got };
        assert_eq!(out(GOT_ALL, 0).comes_back(0), 100);
        assert_eq!(out(1, 0).comes_back(7), 7);
        assert_eq!(out(1, 0).comes_back(1000), 100, "recv with MSG_TRUNC returns more than it wrote");
        assert_eq!(out(12, 0).comes_back(3), 36);
        assert_eq!(out(1, 0).comes_back(-5), 0);
        assert_eq!(out(GOT_ALL, SEGMENT_ALWAYS).comes_back(-4), 100);
        assert_eq!(Segment { flags: SEGMENT_IN, length: 9, ..Segment::default() }.comes_back(9), 0);
    }
}
