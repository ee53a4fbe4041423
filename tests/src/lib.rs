//! Whole-cluster tests.

pub mod calls;
pub mod dhcp;
pub mod lab;
pub mod netns;
pub mod nfs;
pub mod programs;
pub mod ready;
pub mod served;
pub mod sim;
pub mod tftp;

/// A process that ends with its holder.
#[derive(Debug)]
pub struct Ended(pub std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.0.kill().and_then(|()| self.0.wait());
    }
}

/// The processor time that a process has had.
///
/// # Panics
/// There is no such process.
#[expect(clippy::unwrap_used, reason = "what fails here fails the benchmark")]
pub fn cpu_time(pid: i32) -> std::time::Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // utime and stime in hundredths of a second, the 12th and 13th behind the name, which may hold anything.
    let words = stat.rsplit(')').next().unwrap().split_ascii_whitespace();
    let ticks: u64 = words.skip(11).take(2).map(|word| word.parse::<u64>().unwrap()).sum();
    std::time::Duration::from_millis(ticks * 10)
}
