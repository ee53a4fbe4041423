//! What a processor has to have for a program that was started on another one.

use std::fs;
use std::io;

use super::xstate;

/// The instructions that the processor has and a program may choose: names of /proc/cpuinfo; and behind
/// [`XSAVE_OCTETS`] how much its xsave saves.
///
/// # Errors
/// Those of /proc.
pub fn here() -> io::Result<String> {
    let text = fs::read_to_string("/proc/cpuinfo")?;
    let flags = text.lines().find_map(|line| line.strip_prefix("flags")).unwrap_or_default();
    let instructions = instructions(flags.trim_start_matches([' ', '\t', ':']));
    Ok(format!("{instructions} {XSAVE_OCTETS}{}", xstate::octets()))
}

/// Begins the word that says how many octets xsave saves.
const XSAVE_OCTETS: &str = "xsave_octets:";

/// What a processor lacks of that of a program's home. How much xsave saves has to be the same where there is no xsavec:
/// the dynamic linker saves the registers of a function's arguments by xsave then, in as much of the stack as was enough
/// at home.
pub fn lacks<'a>(here: &str, home: &'a str) -> Vec<&'a str> {
    let has = |text: &str, flag: &str| text.split_ascii_whitespace().any(|word| word == flag);
    let compact = has(home, "xsavec");
    home.split_ascii_whitespace()
        .filter(|flag| !(has(here, flag) || compact && flag.starts_with(XSAVE_OCTETS)))
        .collect()
}

/// Those of a processor's flags that stand for instructions of programs. The others are the kernel's; and four that
/// only AMD's have (sse4a, clzero, rdpru, mwaitx) no compiler chooses and no library looks for, so they keep nothing
/// from moving to one of Intel's.
fn instructions(flags: &str) -> String {
    const FAMILIES: [&str; 5] = ["sse", "avx", "amx_", "3dnow", "bmi"];
    const SINGLE: [&str; 45] = [
        "abm",
        "adx",
        "aes",
        "cldemote",
        "clflush",
        "clflushopt",
        "clwb",
        "cmov",
        "cx16",
        "cx8",
        "enqcmd",
        "f16c",
        "fma",
        "fma4",
        "fpu",
        "fsgsbase",
        "fxsr",
        "gfni",
        "hle",
        "lahf_lm",
        "mmx",
        "mmxext",
        "movbe",
        "movdir64b",
        "movdiri",
        "pclmulqdq",
        "pku",
        "pni",
        "popcnt",
        "ptwrite",
        "rdpid",
        "rdrand",
        "rdseed",
        "rdtscp",
        "rtm",
        "serialize",
        "sha_ni",
        "ssse3",
        "tbm",
        "vaes",
        "vpclmulqdq",
        "waitpkg",
        "xop",
        "xsave",
        "xsavec",
    ];
    let is_one = |flag: &&str| {
        *flag != "sse4a" && (SINGLE.contains(flag) || FAMILIES.iter().any(|family| flag.starts_with(family)))
    };
    flags.split_ascii_whitespace().filter(is_one).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::{instructions, lacks};

    #[test]
    fn of_a_processor_only_what_programs_choose_counts() {
        let amd = "fpu vme cx8 sse sse2 sse4_2 svm sse4a misalignsse topoext avx2 bmi1 clzero rdpru nx npt";
        assert_eq!(instructions(amd), "fpu cx8 sse sse2 sse4_2 avx2 bmi1");
        assert_eq!(instructions("vmx avx512f amx_tile amx_int8 hypervisor"), "avx512f amx_tile amx_int8");
        let here = super::here().unwrap();
        assert!(here.split(' ').any(|flag| flag == "sse2"));
        assert_eq!(lacks(&here, &here), <[&str; 0]>::default());
        let (old, new) =
            ("sse2 avx xsave xsave_octets:832", "sse2 avx avx512f xsave xsavec xsave_octets:2696");
        assert_eq!(lacks(new, old), ["xsave_octets:832"]);
        assert_eq!(lacks(old, new), ["avx512f", "xsavec",]);
        assert_eq!(lacks(&new.replace("2696", "2440"), new), <[&str; 0]>::default());
    }
}
