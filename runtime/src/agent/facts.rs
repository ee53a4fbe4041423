//! What this node is and how it is, from proc(5).

use std::fs;

use super::{Heartbeat, Hello};

/// Text of a file under /proc, or nothing where it is not mounted: a member without figures is still one.
fn proc(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

pub(super) fn hello() -> Hello {
    Hello {
        boot_id: proc("/proc/sys/kernel/random/boot_id").trim().to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: proc("/proc/sys/kernel/osrelease").trim().to_owned(),
        uptime_seconds: uptime_seconds(),
    }
}

pub(super) fn heartbeat() -> Heartbeat {
    let meminfo = proc("/proc/meminfo");
    Heartbeat {
        load_hundredths: load_hundredths(&proc("/proc/loadavg")).unwrap_or(0),
        memory_total_kib: memory_kib(&meminfo, "MemTotal:").unwrap_or(0),
        memory_available_kib: memory_kib(&meminfo, "MemAvailable:").unwrap_or(0),
        uptime_seconds: uptime_seconds(),
        clock_ms: Some(jiff::Timestamp::now().as_millisecond()),
    }
}

fn uptime_seconds() -> u64 {
    let text = proc("/proc/uptime");
    text.split('.').next().and_then(|seconds| seconds.parse().ok()).unwrap_or(0)
}

/// The kernel always writes two decimals.
fn load_hundredths(loadavg: &str) -> Option<u32> {
    let (whole, hundredths) = loadavg.split(' ').next()?.split_once('.')?;
    whole.parse::<u32>().ok()?.checked_mul(100)?.checked_add(hundredths.parse().ok()?)
}

fn memory_kib(meminfo: &str, key: &str) -> Option<u64> {
    meminfo.lines().find_map(|line| line.strip_prefix(key))?.trim().strip_suffix(" kB")?.parse().ok()
}

/// Between 0 and 0.25, to spread what many nodes do at the same moment.
pub(super) fn random_quarter() -> f32 {
    let mut byte = [0];
    // Without random bytes they all come at once, which the master stands too.
    match getrandom::fill(&mut byte) {
        Ok(()) => f32::from(byte[0]) / 1024.0,
        Err(_) => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_as_the_kernel_writes_them() {
        assert_eq!(load_hundredths("12.05 0.10 0.00 1/99 1234\n"), Some(1205));
        assert_eq!(load_hundredths(""), None);
        let meminfo = "MemTotal:        8048672 kB\nMemFree: 1 kB\nMemAvailable:    7000000 kB\n";
        assert_eq!(memory_kib(meminfo, "MemAvailable:"), Some(7_000_000));
        let heartbeat = heartbeat();
        assert!(heartbeat.memory_total_kib > heartbeat.memory_available_kib);
        assert_eq!(hello().boot_id.len(), 36);
    }
}
