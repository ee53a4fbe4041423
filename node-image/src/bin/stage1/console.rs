//! What the node says on its console.

use std::io::Write;

/// Seconds since the kernel started.
pub fn uptime() -> f64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
    now.map_or(0.0, |now| std::time::Duration::from(now).as_secs_f64())
}

/// Prints a line with the time since the kernel started.
pub fn say(text: impl std::fmt::Display) {
    // A console that cannot be written to must not stop the boot.
    let _ = writeln!(std::io::stderr(), "[{:9.3}] tesela: {text}", uptime());
}
