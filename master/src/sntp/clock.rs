//! Time as NTP counts it, and what the kernel knows of its clock.

use std::time::{SystemTime, UNIX_EPOCH};

use super::sys;

/// Seconds from 1900 to 1970 (RFC 5905, figure 4).
const UNIX_ERA: u64 = 2_208_988_800;

/// An NTP timestamp: seconds since 1900 modulo 2^32 (the next era begins in 2036), and a binary fraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NtpTime {
    /// Whole seconds of this era.
    pub seconds: u32,
    /// In 2^-32 seconds.
    pub fraction: u32,
}

impl NtpTime {
    /// The system clock's now.
    pub fn now() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::from_unix(now.as_secs(), now.subsec_nanos())
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "an era is 2^32 seconds, and a fraction is below 2^32"
    )]
    fn from_unix(seconds: u64, nanoseconds: u32) -> Self {
        let fraction = (u64::from(nanoseconds) << 32) / 1_000_000_000;
        NtpTime { seconds: seconds.wrapping_add(UNIX_ERA) as u32, fraction: fraction as u32 }
    }

    /// As on the wire.
    pub fn to_be_bytes(self) -> [u8; 8] {
        (u64::from(self.seconds) << 32 | u64::from(self.fraction)).to_be_bytes()
    }
}

/// What is known of a clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Whether something keeps it in step.
    pub synchronised: bool,
    /// Log2 of its resolution in seconds.
    pub precision: i8,
    /// How far off it may be at the most.
    pub error_microseconds: u64,
}

impl Clock {
    /// A microsecond or better.
    const PRECISION: i8 = -20;
    /// Of a clock that nobody checks.
    const UNKNOWN_ERROR: u64 = 1_000_000;

    /// What adjtimex(2) says; of a kernel that does not say (no such call in a sandbox), nothing is
    /// believed.
    pub fn of_the_kernel() -> Self {
        match sys::clock_state() {
            Ok((true, error_microseconds)) => {
                Clock { synchronised: true, precision: Self::PRECISION, error_microseconds }
            }
            Ok((false, _)) | Err(_) => Clock {
                synchronised: false,
                precision: Self::PRECISION,
                error_microseconds: Self::UNKNOWN_ERROR,
            },
        }
    }

    /// Seconds in 16.16 fixed point.
    pub(super) fn root_dispersion(&self) -> u32 {
        let fixed = u128::from(self.error_microseconds) * 65_536 / 1_000_000;
        u32::try_from(fixed).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_counted_from_1900_and_wraps_in_2036() {
        assert_eq!(NtpTime::from_unix(0, 0).seconds, 2_208_988_800);
        let half = NtpTime::from_unix(1, 500_000_000);
        assert_eq!(half.to_be_bytes(), [0x83, 0xaa, 0x7e, 0x81, 0x80, 0, 0, 0]);
        assert_eq!(
            NtpTime::from_unix(2_085_978_496, 999_999_999),
            NtpTime { seconds: 0, fraction: 4_294_967_291 }
        );
    }
}
