//! How fast a processor of this node is, measured.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use super::STANDARD_SPEED;

/// Steps a second of a standard processor: about what one of 3 GHz makes.
const STANDARD_STEPS: f64 = 300e6;
/// Steps of one try.
const STEPS: u64 = 1_000_000;
/// The best of so many counts: the others were disturbed.
const TRIES: usize = 7;

/// The speed of this processor, where a standard one has [`STANDARD_SPEED`]. Takes some 25 ms of its time.
pub fn measured() -> u32 {
    let best = (0..TRIES).filter_map(|_| one_try()).min();
    let Some(best) = best.filter(|best| !best.is_zero()) else { return STANDARD_SPEED };
    #[expect(clippy::cast_precision_loss, reason = "a million is exact")]
    let steps = STEPS as f64 / best.as_secs_f64();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is clamped")]
    let speed = (steps / STANDARD_STEPS * f64::from(STANDARD_SPEED)).clamp(100.0, 1e6) as u32;
    speed
}

/// Processor time and not the clock's: others run meanwhile, and a quota may stop this.
fn one_try() -> Option<Duration> {
    let now = || clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).ok().map(Duration::from);
    let start = now()?;
    let mut state = 88_172_645_463_325_252_u64;
    // xorshift64* (Vigna 2016): each step needs the one before it.
    for _ in 0..STEPS {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state = state.wrapping_mul(2_685_821_657_736_338_717);
    }
    std::hint::black_box(state);
    now()?.checked_sub(start)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_processor_has_a_speed() {
        assert!((100..1_000_000).contains(&super::measured()));
    }
}
