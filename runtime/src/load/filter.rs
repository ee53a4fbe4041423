//! Of counts a load, by MOSIX's two filters: what is told to others rises at once and falls slowly, so that nobody sends
//! too much; what is used here rises slowly and falls at once, so that nothing is sent off for a moment's sake.

/// Counts in one measurement.
const COUNTS: u32 = 3;

/// What counts have become.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Filtered {
    /// How many run, on the average of the last counts.
    pub now: f64,
    /// The same, as it is told.
    pub told: f64,
    /// The same, as it is used here.
    pub mean: f64,
}

/// The filters of one node.
#[derive(Clone, Copy, Debug, Default)]
pub struct Filter {
    sum: u32,
    counts: u32,
    told: f64,
    mean: f64,
}

impl Filter {
    /// Takes in how many run; every third count makes a measurement.
    pub fn count(&mut self, running: u32) -> Option<Filtered> {
        self.sum = self.sum.saturating_add(running);
        self.counts += 1;
        if self.counts < COUNTS {
            return None;
        }
        let now = f64::from(self.sum) / f64::from(self.counts);
        (self.sum, self.counts) = (0, 0);
        self.told = if now >= self.told { now } else { (3.0 * self.told + now) / 4.0 };
        self.mean = if now > self.mean { (5.0 * self.mean + 3.0 * now) / 8.0 } else { now };
        // What is left of one that has long gone is nothing.
        if self.told < 0.01 {
            self.told = 0.0;
        }
        Some(Filtered { now, told: self.told, mean: self.mean })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_rises_at_once_and_what_is_used_here_falls_at_once() {
        let mut filter = Filter::default();
        let mut next = |running| (0..COUNTS).find_map(|_| filter.count(running)).unwrap();
        assert_eq!(next(16), Filtered { now: 16.0, told: 16.0, mean: 6.0 });
        assert_eq!(next(0), Filtered { now: 0.0, told: 12.0, mean: 0.0 });
        let last = (0..30).map(|_| next(0)).last();
        assert_eq!(last.map(|it| it.told), Some(0.0));
    }
}
