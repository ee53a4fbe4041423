//! The blob as it is put into a process: its segments at their places, relocated to an address.

use object::LittleEndian;
use object::elf::{self, FileHeader64, ProgramHeader64};
use object::read::elf::{FileHeader as _, ProgramHeader as _};
use tesela_shim::layout::CODE;

const ELF: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/blob.elf"));
const PAGE: u64 = 4096;

/// The blob for one address.
#[derive(Debug)]
pub struct Blob {
    /// The region's address.
    pub base: u64,
    /// From the region's base on, in whole pages.
    pub memory: Vec<u8>,
    /// The address at which a thread enters it.
    pub entry: u64,
    /// Ranges of addresses that hold code, and must be executable; the rest is data.
    pub code: Vec<(u64, u64)>,
}

/// The blob that was built with this program is not one: the build is broken.
#[derive(Debug, thiserror::Error)]
#[error("the code for moving processes that this program carries is broken: {0}")]
pub struct BrokenBlob(&'static str);

impl From<object::Error> for BrokenBlob {
    fn from(_: object::Error) -> Self {
        Self("no ELF file")
    }
}

impl Blob {
    /// Lays it out for a region at `base`.
    ///
    /// # Errors
    /// [`BrokenBlob`].
    pub fn at(base: u64) -> Result<Self, BrokenBlob> {
        let endian = LittleEndian;
        let header = FileHeader64::<LittleEndian>::parse(ELF)?;
        let segments = header.program_headers(endian, ELF)?;
        let load = |segment: &&ProgramHeader64<LittleEndian>| segment.p_type(endian) == elf::PT_LOAD;
        let end = segments.iter().filter(load).map(|one| one.p_vaddr(endian) + one.p_memsz(endian)).max();
        let size = end.unwrap_or(0).next_multiple_of(PAGE);
        if size == 0 || size > CODE {
            return Err(BrokenBlob("too large"));
        }
        let mut memory = vec![0; index(size)];
        let mut code = Vec::new();
        for segment in segments.iter().filter(load) {
            let data = segment.data(endian, ELF).map_err(|()| BrokenBlob("a segment is cut off"))?;
            let start = segment.p_vaddr(endian);
            memory[index(start)..][..data.len()].copy_from_slice(data);
            if segment.p_flags(endian).contains(elf::PF_X) {
                let from = base + start / PAGE * PAGE;
                code.push((from, base + (start + segment.p_memsz(endian)).next_multiple_of(PAGE)));
            }
        }
        relocate(&mut memory, base)?;
        Ok(Self { base, memory, entry: base + header.e_entry(endian), code })
    }
}

/// A static PIE has relative relocations only.
fn relocate(memory: &mut [u8], base: u64) -> Result<(), BrokenBlob> {
    let endian = LittleEndian;
    let header = FileHeader64::<LittleEndian>::parse(ELF)?;
    let sections = header.sections(endian, ELF)?;
    for section in sections.iter() {
        use object::read::elf::SectionHeader as _;
        let Some((relocations, _)) = section.rela(endian, ELF)? else { continue };
        for relocation in relocations {
            if relocation.r_type(endian, false) != elf::R_X86_64_RELATIVE {
                return Err(BrokenBlob("a relocation is not relative"));
            }
            let at = index(relocation.r_offset.get(endian));
            let value = base.wrapping_add_signed(relocation.r_addend.get(endian));
            let place = memory.get_mut(at..at + 8).ok_or(BrokenBlob("a relocation leads outside"))?;
            place.copy_from_slice(&value.to_le_bytes());
        }
    }
    Ok(())
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_blob_is_laid_out_and_relocated() {
        let (one, other) = (Blob::at(0x1000_0000_0000).unwrap(), Blob::at(0x2000_0000_0000).unwrap());
        assert_eq!(one.memory.len(), other.memory.len());
        assert_eq!(one.entry + 0x1000_0000_0000, other.entry);
        assert!(one.code.iter().any(|(from, to)| (from..to).contains(&&one.entry)));
        assert!(one.memory != other.memory, "pointers in it follow the base");
    }
}
