//! The agent of this machine, and how it takes part.

use super::Finding;
use crate::wire::local::{ByHand, Settings};

/// Whether it answers; `start`: the unit that runs it.
pub fn answers(socket: &str, answered: Result<(), &str>, unit: &str) -> Finding {
    const WHAT: &str = "agent";
    match answered {
        Ok(()) => Finding::ok(WHAT, format!("it answers at {socket}")),
        Err(why) => Finding::fail(
            WHAT,
            format!("it does not answer at {socket}: {why}"),
            format!("`systemctl restart {unit}`; why it ended says `journalctl -u {unit}`"),
        ),
    }
}

/// Whether this node shares its load at all: what is set by hand holds until it boots again.
pub fn sharing(settings: &Settings) -> Finding {
    const WHAT: &str = "sharing";
    let by_hand: Vec<(&str, &str)> = [
        (settings.block, ("it lets no guests in", "`mosctl noblock`")),
        (settings.stay, ("nothing leaves it by itself", "`mosctl nostay`")),
        (settings.lstay, ("its own processes do not leave it by themselves", "`mosctl nolstay`")),
        (settings.quiet, ("it tells nobody of its load", "`mosctl noquiet`")),
        (settings.share == ByHand::No, ("it shares with nobody", "`mosctl autoshare`")),
    ]
    .into_iter()
    .filter_map(|(is, told)| is.then_some(told))
    .collect();
    if by_hand.is_empty() {
        let now = if settings.sharing {
            "shares its load"
        } else {
            "does not share its load now, as its pool says"
        };
        return Finding::ok(WHAT, format!("this node {now}"));
    }
    let (what, mends): (Vec<_>, Vec<_>) = by_hand.into_iter().unzip();
    Finding::warn(
        WHAT,
        format!("set by hand: {}", what.join(", ")),
        format!("{} lifts that", mends.join(", ")),
    )
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn an_agent_answers_or_is_to_be_started() {
        assert_eq!(answers("/s", Ok(()), "teselad").verdict, Verdict::Ok);
        let silent = answers("/s", Err("Connection refused"), "teselad");
        assert_eq!(silent.finding, "it does not answer at /s: Connection refused");
        assert!(silent.mend.unwrap().starts_with("`systemctl restart teselad`"));
    }

    #[test]
    fn what_is_set_by_hand_is_told() {
        let settings = Settings::default();
        assert_eq!(sharing(&settings), Finding::ok("sharing", "this node shares its load"));
        let by_pool = Settings { sharing: false, ..settings.clone() };
        assert_eq!(sharing(&by_pool).verdict, Verdict::Ok);
        let by_hand = Settings { block: true, share: ByHand::No, ..settings };
        assert_eq!(
            sharing(&by_hand),
            Finding::warn(
                "sharing",
                "set by hand: it lets no guests in, it shares with nobody",
                "`mosctl noblock`, `mosctl autoshare` lifts that"
            )
        );
    }
}
