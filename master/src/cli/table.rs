//! Tables for people: columns as wide as they need, nothing else.

/// Prints `rows` below `head`, each column as wide as its widest cell; the last one is not padded.
pub(crate) fn print(head: &[&str], rows: &[Vec<String>]) {
    for line in lines(head, rows) {
        println!("{line}");
    }
}

fn lines(head: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let mut widths: Vec<usize> = head.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells.zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        plain(padded.join("  ").trim_end())
    };
    let mut out = vec![line(&mut head.iter().copied())];
    out.extend(rows.iter().map(|row| line(&mut row.iter().map(String::as_str))));
    out
}

/// Text for a terminal: what a machine or a program on a node made up must not steer it.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

/// `3 s`, `5 min`, `2 h`, `4 d` for so many milliseconds.
pub(crate) fn ago(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn nothing_steers_the_terminal() {
        let row = vec![vec!["PXE\u{1b}[2J\r\u{9b}0m".into()]];
        assert_eq!(super::lines(&["V"], &row)[1], "PXE\u{fffd}[2J\u{fffd}\u{fffd}0m");
    }

    #[test]
    fn columns_are_as_wide_as_they_need() {
        let rows = vec![vec!["firstslave".into(), "member".into()], vec!["n2".into(), "dhcp".into()]];
        assert_eq!(
            super::lines(&["NODE", "STAGE"], &rows),
            ["NODE        STAGE", "firstslave  member", "n2          dhcp"]
        );
    }
}
