//! Datagrams that come a second time are found by their numbers (RFC 4303, 3.4.3).

/// The numbers that have come of one sender: the highest, and which of the 64 up to it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Window {
    run: u64,
    highest: u64,
    seen: u64,
}

impl Window {
    /// Whether this number of this run is new. A later run begins anew; nothing of an earlier one is new any more.
    pub fn is_new(&mut self, run: u64, number: u64) -> bool {
        if run != self.run {
            if run < self.run {
                return false;
            }
            *self = Self { run, highest: number, seen: 1 };
            return true;
        }
        if number > self.highest {
            let shift = number - self.highest;
            self.seen = if shift < 64 { self.seen << shift | 1 } else { 1 };
            self.highest = number;
            return true;
        }
        let bit = match self.highest - number {
            back @ 0..64 => 1 << back,
            _ => return false,
        };
        let new = self.seen & bit == 0;
        self.seen |= bit;
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_is_new_once() {
        let mut window = Window::default();
        for number in [5, 7, 6, 70, 8] {
            assert!(window.is_new(1, number), "{number}");
            assert!(!window.is_new(1, number), "{number} again");
        }
        assert!(!window.is_new(1, 6), "too old to be told");
        assert!(window.is_new(2, 1) && !window.is_new(2, 1), "a later run begins anew");
        assert!(!window.is_new(1, 99), "the earlier one is over");
    }
}
