//! Whether to look for the next packet before going to sleep.
//!
//! To put a thread to sleep and wake it up costs its processor some microseconds, in a virtual machine ten,
//! where moving a block costs three. So it pays to look a little longer where the answer comes in that time:
//! from a client on the same machine or next to it. Where it does not, looking is pure loss, so every look in
//! vain halves how often it is tried, down to one wait in [`MOST_SKIPPED`].

use std::time::Duration;

/// How long to look: about what sleeping costs, so that a look in vain costs at most that once more.
pub const LOOK: Duration = Duration::from_micros(10);
/// Waits without a look after many looks in vain: what they cost is then lost in the noise.
const MOST_SKIPPED: u32 = 1024;

/// The record of the last looks.
#[derive(Debug, Default)]
pub struct Spin {
    /// Waits to let pass after the next look in vain, less one.
    pause: u32,
    /// Waits still to let pass.
    skip: u32,
}

impl Spin {
    /// Whether the wait that begins is to be begun with a look.
    pub fn worth_it(&mut self) -> bool {
        let worth_it = self.skip == 0;
        self.skip = self.skip.saturating_sub(1);
        worth_it
    }

    /// What came of the look.
    pub fn looked(&mut self, found: bool) {
        self.pause = if found { 0 } else { (self.pause * 2 + 1).min(MOST_SKIPPED) };
        self.skip = self.pause;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks among so many waits, where they find something or not.
    fn looks(spin: &mut Spin, waits: u32, found: bool) -> usize {
        let looked = (0..waits).filter(|_| {
            let worth_it = spin.worth_it();
            if worth_it {
                spin.looked(found);
            }
            worth_it
        });
        looked.count()
    }

    #[test]
    fn it_looks_as_long_as_that_pays_and_then_hardly_ever() {
        let mut spin = Spin::default();
        assert_eq!(looks(&mut spin, 100, true), 100);
        // 1 + 1 + 1 + 3 + 1 + 7 + … waits: ten looks in vain, and then one in 1025.
        assert_eq!(looks(&mut spin, 2000, false), 10);
        assert_eq!(looks(&mut spin, 10_250, false), 10);
        // Once one pays, all do again.
        while !spin.worth_it() {}
        spin.looked(true);
        assert_eq!(looks(&mut spin, 100, true), 100);
    }
}
