//! When the nodes of a pool share their load (the manual, 4.4): always, by hand, in these hours, or when nobody uses
//! the machine.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// When the nodes of a pool share their load.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Share {
    /// Always.
    #[default]
    Always,
    /// Never, unless told by hand.
    Manual,
    /// In these hours, or when nobody has used the machine for so long.
    When {
        /// In these hours.
        schedule: Option<Schedule>,
        /// Seconds without a user's input.
        idle_seconds: Option<u32>,
    },
}

impl Share {
    /// Whether a node shares now, whose users have left it alone for so long.
    pub fn shares(&self, now: Moment, idle: Duration) -> bool {
        match self {
            Self::Always => true,
            Self::Manual => false,
            Self::When { schedule, idle_seconds } => {
                schedule.as_ref().is_some_and(|schedule| schedule.holds(now))
                    || idle_seconds.is_some_and(|least| idle.as_secs() >= least.into())
            }
        }
    }
}

/// A moment of the week, in the node's own time zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The day, from Monday, which is 0.
    pub day: u8,
    /// Minutes since its midnight.
    pub minute: u16,
}

/// Hours of some days of the week: `mon-fri 20:00-07:00`. Those that end before they begin end on the next day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Schedule {
    text: String,
    days: [bool; 7],
    from: u16,
    to: u16,
}

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const DAY: u16 = 24 * 60;

/// It is no schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no schedule")]
pub struct NoSchedule(String);

impl Schedule {
    /// Whether it is one of its hours.
    pub fn holds(&self, now: Moment) -> bool {
        let today = usize::from(now.day % 7);
        let on = |day: usize| self.days[day];
        if self.from < self.to {
            return on(today) && (self.from..self.to).contains(&now.minute);
        }
        (on(today) && now.minute >= self.from) || (on((today + 6) % 7) && now.minute < self.to)
    }
}

impl FromStr for Schedule {
    type Err = NoSchedule;

    fn from_str(text: &str) -> Result<Self, NoSchedule> {
        parse(text.trim()).ok_or_else(|| NoSchedule(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<Schedule> {
    let (days_of, hours) = text.rsplit_once(' ').unwrap_or(("", text));
    let day = |name: &str| DAYS.iter().position(|day| *day == name);
    let mut days = [days_of.is_empty(); 7];
    for part in days_of.split(',').map(str::trim).filter(|_| !days_of.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (day(first)?, day(last)?);
        // `fri-mon` goes over the end of the week.
        (0..=(last + 7 - first) % 7).for_each(|step| days[(first + step) % 7] = true);
    }
    let number = |digits: &str, limit: u16| {
        digits.parse::<u16>().ok().filter(|number| digits.len() == 2 && *number < limit)
    };
    let time = |text: &str| {
        if text == "24:00" {
            return Some(DAY);
        }
        let (hour, minute) = text.split_once(':')?;
        Some(number(hour, 24)? * 60 + number(minute, 60)?)
    };
    let (from, to) = hours.split_once('-')?;
    let (from, to) = (time(from)?, time(to)?);
    (from != to).then(|| Schedule { text: text.to_owned(), days, from, to })
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl TryFrom<String> for Schedule {
    type Error = NoSchedule;

    fn try_from(text: String) -> Result<Self, NoSchedule> {
        text.parse()
    }
}

impl From<Schedule> for String {
    fn from(schedule: Schedule) -> Self {
        schedule.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(day: u8, hour: u16, minute: u16) -> Moment {
        Moment { day, minute: hour * 60 + minute }
    }

    #[test]
    fn nights_of_the_week_go_on_until_the_next_morning() {
        let nights: Schedule = "mon-fri 20:00-07:00".parse().unwrap();
        for (day, hour, holds) in [
            (0, 20, true),
            (0, 19, false),
            (0, 6, false),
            (1, 6, true),
            (1, 7, false),
            (5, 6, true),
            (5, 21, false),
            (6, 3, false),
        ] {
            assert_eq!(nights.holds(at(day, hour, 30)), holds, "day {day}, {hour}:30");
        }
        assert_eq!(nights.to_string(), "mon-fri 20:00-07:00");
    }

    #[test]
    fn days_may_be_listed_or_left_out_and_go_over_the_weekend() {
        let holds = |text: &str, day| text.parse::<Schedule>().unwrap().holds(at(day, 12, 0));
        assert!(holds("sat,sun 00:00-24:00", 5) && !holds("sat,sun 00:00-24:00", 4));
        assert!(
            holds("10:00-13:00", 2) && holds("fri-mon 08:00-18:00", 0) && !holds("fri-mon 08:00-18:00", 1)
        );
    }

    #[test]
    fn what_is_no_schedule_is_refused() {
        for text in [
            "",
            "mon",
            "mon 20:00",
            "xyz 10:00-12:00",
            "mon- 10:00-12:00",
            "10:00-10:00",
            "7:00-9:00",
            "10:00-25:00",
        ] {
            assert!(text.parse::<Schedule>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_pool_shares_in_its_hours_or_when_nobody_is_there() {
        let (noon, minute) = (at(2, 12, 0), Duration::from_secs(60));
        let share = |text: &str| serde_json::from_str::<Share>(text).unwrap();
        assert!(share(r#""always""#).shares(noon, minute) && !share(r#""manual""#).shares(noon, minute));
        let either = share(r#"{"when": {"schedule": "mon-fri 20:00-07:00", "idle_seconds": 900}}"#);
        assert!(!either.shares(noon, minute));
        assert!(either.shares(noon, 15 * minute) && either.shares(at(2, 23, 0), minute));
    }
}
