//! What a thread has in the registers that xsave keeps (Intel SDM 1, chapter 13): x87, SSE, AVX and what came after.
//!
//! Two processors do not lay it out alike: AMD's have AVX-512's masks elsewhere than Intel's, and one with AMX has
//! room for 8 KiB of tiles that no program may use unless it has asked. So it travels part by part, and each side
//! lays it out as its own processor does (CPUID, leaf 0xd).

use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::io;
use std::sync::LazyLock;

use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use tesela_shim::layout::{MAGIC1, MAGIC2, SOFTWARE};

use super::sys;

/// Octets of what fxsave keeps: x87 and SSE.
const LEGACY: usize = 512;
/// Octets of these and the header behind them.
const HEAD: usize = 576;
/// In the header: which parts are in use. x87 and SSE are the first two.
const IN_USE: usize = 512;
/// Protection keys: which pages a thread may touch. A processor without them lets it touch all.
const PKRU: u32 = 9;
/// How AMX's tiles are set.
const TILE_CONFIGURATION: u32 = 17;
/// The tiles. A program has to ask the kernel for them, and its body elsewhere would have to, too.
const TILES: u32 = 18;

/// The registers of a thread.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtendedState {
    /// As fxsave lays it out.
    #[serde(with = "serde_bytes")]
    legacy: Vec<u8>,
    /// Other parts that are in use: number and content.
    parts: Vec<(u32, ByteBuf)>,
}

/// What this processor says of them. It is asked once, for a virtual one takes long to answer.
static HERE: LazyLock<Option<Layout>> = LazyLock::new(|| (__cpuid(1).ecx & 1 << 27 != 0).then(Layout::ask));

/// Where xsave puts what.
#[derive(Debug)]
struct Layout {
    /// Octets of all that programs may use.
    octets: u32,
    /// By part: place and size.
    places: [Option<(usize, usize)>; 63],
}

impl Layout {
    fn ask() -> Self {
        let place = |part: usize| {
            let told = __cpuid_count(0xd, u32::try_from(part).ok()?);
            let (size, at) = (usize::try_from(told.eax).ok()?, usize::try_from(told.ebx).ok()?);
            // Those that the kernel has for itself are nowhere in the layout that programs see.
            (part >= 2 && size > 0 && at >= HEAD).then_some((at, size))
        };
        Self { octets: __cpuid_count(0xd, 0).ebx, places: std::array::from_fn(place) }
    }
}

/// Where a part is that this processor has.
fn place(part: u32) -> Option<(usize, usize)> {
    *HERE.as_ref()?.places.get(usize::try_from(part).ok()?)?
}

/// Whether the kernel keeps it by xsave here.
fn has_xsave() -> bool {
    HERE.is_some()
}

/// How many octets xsave saves of what programs may use here; 0: there is none.
pub fn octets() -> u32 {
    HERE.as_ref().map_or(0, |layout| layout.octets)
}

/// Whether this processor has tiles.
pub fn has_amx() -> bool {
    place(TILES).is_some()
}

/// Whether what arch_prctl(2) says by ARCH_GET_XCOMP_PERM has the tiles in it.
pub fn permits_tiles(permitted: u64) -> bool {
    permitted & 1 << TILES != 0
}

impl ExtendedState {
    /// That of a stopped thread.
    ///
    /// # Errors
    /// Those of ptrace(2).
    pub fn of(tid: Pid) -> io::Result<Self> {
        if has_xsave() {
            return Self::read(&sys::register_set(tid, sys::NT_X86_XSTATE)?);
        }
        Ok(Self { legacy: sys::register_set(tid, sys::NT_PRFPREG)?, parts: Vec::new() })
    }

    /// From what xsave has left, here.
    ///
    /// # Errors
    /// It is shorter than its header says.
    pub fn read(saved: &[u8]) -> io::Result<Self> {
        let in_use = saved.get(IN_USE..).and_then(<[u8]>::first_chunk).ok_or(io::ErrorKind::InvalidData)?;
        let in_use = u64::from_le_bytes(*in_use);
        let mut parts = Vec::new();
        for part in (2..63).filter(|part| in_use & 1 << part != 0) {
            let place = place(part).and_then(|(at, size)| saved.get(at..at + size));
            parts.push((part, ByteBuf::from(place.ok_or(io::ErrorKind::InvalidData)?)));
        }
        let mut legacy = saved[..LEGACY].to_vec();
        // The end of it is the kernel's, which says there what it has saved.
        legacy[usize::try_from(SOFTWARE).unwrap_or(LEGACY)..].fill(0);
        Ok(Self { legacy, parts })
    }

    /// From the signal frame that this kernel has made at `address`.
    ///
    /// # Errors
    /// Those of reading the process's memory.
    pub fn of_frame(pid: Pid, address: u64) -> io::Result<Self> {
        let mut head = [0; HEAD];
        sys::read_memory(pid, address, &mut head)?;
        let word = |at: usize| head[at..].first_chunk().map_or(0, |octets| u32::from_le_bytes(*octets));
        let software = usize::try_from(SOFTWARE).unwrap_or(0);
        // The kernel says that it has saved more even where there is no xsave.
        if !has_xsave() || word(software) != MAGIC1 {
            return Ok(Self { legacy: head[..LEGACY].to_vec(), parts: Vec::new() });
        }
        let size = usize::try_from(word(software + 16)).unwrap_or(0);
        let mut saved = vec![0; size.clamp(HEAD, 16 << 10)];
        sys::read_memory(pid, address, &mut saved)?;
        Self::read(&saved)
    }

    /// Gives it to a stopped thread.
    ///
    /// # Errors
    /// Those of ptrace(2); this processor does not have all of it.
    pub fn put(&self, tid: Pid) -> io::Result<()> {
        if !has_xsave() {
            return sys::set_register_set(tid, sys::NT_PRFPREG, &self.legacy);
        }
        let (mut laid, _) = self.laid()?;
        // The kernel wants as much as it tells.
        laid.resize(sys::register_set(tid, sys::NT_X86_XSTATE)?.len(), 0);
        sys::set_register_set(tid, sys::NT_X86_XSTATE, &laid)
    }

    /// Whether a thread of this node's can have it. A program that asks the processor itself (CPUID) may have found more
    /// on another node.
    ///
    /// # Errors
    /// It cannot.
    pub fn fits(&self) -> io::Result<()> {
        self.laid().map(drop)
    }

    /// As this processor's xsave lays it out, as far as it is in use; and what is.
    fn laid(&self) -> io::Result<(Vec<u8>, u64)> {
        let mut laid = self.legacy.clone();
        laid.resize(HEAD, 0);
        let mut in_use: u64 = 3;
        // What is as in a new process needs no place.
        for (part, content) in
            self.parts.iter().filter(|(_, content)| content.iter().any(|octet| *octet != 0))
        {
            let place = place(*part).filter(|(_, size)| *size == content.len());
            let Some((at, size)) = place else {
                if *part == PKRU {
                    continue;
                }
                return Err(io::Error::other(format!("the processor has no state {part} as it was")));
            };
            laid.resize(laid.len().max(at + size), 0);
            laid[at..at + size].copy_from_slice(content);
            in_use |= 1 << part;
        }
        laid[IN_USE..IN_USE + 8].copy_from_slice(&in_use.to_le_bytes());
        Ok((laid, in_use))
    }

    /// As sigreturn(2) takes it (the kernel's `struct _fpx_sw_bytes`), and whether it is more than fxsave keeps
    /// (`UC_FP_XSTATE`). What is not in it is as in a new process then. Where it is longer than all that the program
    /// may use, which ptrace(2)'s layout is on a processor with AMX, the kernel takes x87 and SSE alone.
    ///
    /// # Errors
    /// This processor does not have all of it.
    pub fn frame(&self) -> io::Result<(Vec<u8>, bool)> {
        if !has_xsave() {
            return Ok((self.legacy.clone(), false));
        }
        let (mut frame, in_use) = self.laid()?;
        let size = u32::try_from(frame.len()).map_err(io::Error::other)?;
        let at = usize::try_from(SOFTWARE).unwrap_or(0);
        frame[at..at + 4].copy_from_slice(&MAGIC1.to_le_bytes());
        frame[at + 4..at + 8].copy_from_slice(&(size + 4).to_le_bytes());
        frame[at + 8..at + 16].copy_from_slice(&in_use.to_le_bytes());
        frame[at + 16..at + 20].copy_from_slice(&size.to_le_bytes());
        frame.extend_from_slice(&MAGIC2.to_le_bytes());
        Ok((frame, true))
    }

    /// Whether AMX's tiles are in use.
    pub fn has_tiles(&self) -> bool {
        self.parts.iter().any(|(part, _)| matches!(*part, TILE_CONFIGURATION | TILES))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As xsave lays it out here: x87 and SSE, and AVX where there is any.
    fn saved() -> Vec<u8> {
        let mut saved = vec![0; 16 << 10];
        saved[..LEGACY].fill(7);
        let mut in_use: u64 = 3;
        if let Some((at, size)) = place(2) {
            saved[at..at + size].fill(8);
            in_use |= 1 << 2;
        }
        saved[IN_USE..IN_USE + 8].copy_from_slice(&in_use.to_le_bytes());
        saved
    }

    #[test]
    fn it_is_laid_out_as_it_was() {
        let saved = saved();
        let state = ExtendedState::read(&saved).unwrap();
        let (laid, in_use) = state.laid().unwrap();
        let software = usize::try_from(SOFTWARE).unwrap();
        assert_eq!(laid[..software], saved[..software]);
        assert_eq!(laid[LEGACY..], saved[LEGACY..laid.len()]);
        assert_eq!(in_use.to_le_bytes(), saved[IN_USE..IN_USE + 8]);
        assert_eq!(ExtendedState::read(&laid).unwrap(), state);
        assert!(!state.has_tiles());
        assert!(ExtendedState::read(&saved[..HEAD - 64]).is_err());
    }

    #[test]
    fn a_frame_is_no_longer_than_what_is_in_use() {
        let state = ExtendedState::read(&saved()).unwrap();
        let (frame, is_extended) = state.frame().unwrap();
        assert_eq!(is_extended, has_xsave());
        if is_extended {
            let length = place(2).map_or(HEAD, |(at, size)| at + size);
            assert_eq!(frame.len(), length + 4);
            let found = ExtendedState::of_frame(Pid::this(), frame.as_ptr() as u64).unwrap();
            assert_eq!(found, state);
        }
    }

    #[test]
    fn what_this_processor_does_not_have_is_refused_unless_it_says_nothing() {
        let with = |part, octet| ExtendedState {
            legacy: vec![0; LEGACY],
            parts: vec![(part, ByteBuf::from([octet; 8]))],
        };
        assert!(with(40, 1).laid().is_err());
        assert_eq!(with(40, 0).laid().unwrap().1, 3);
        // Of another size than any has it, as where there are none.
        let keys = ExtendedState { legacy: vec![0; LEGACY], parts: vec![(PKRU, ByteBuf::from([1; 3]))] };
        assert_eq!(keys.laid().unwrap().1, 3);
        assert!(with(TILES, 1).has_tiles());
    }
}
