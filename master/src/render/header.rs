//! The first line of a template: what else is to be known of the file.

/// What the first line says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) mode: u32,
    pub(super) link: bool,
}

/// Takes the first line off `source` if it is a header, and reads it.
pub(super) fn take(source: &mut String) -> Result<Header, String> {
    let mut header = Header { mode: 0o644, link: false };
    let line = source.lines().next().unwrap_or_default();
    let Some(words) = line.strip_prefix("{#").and_then(|rest| rest.trim_end().strip_suffix("#}")) else {
        return Ok(header);
    };
    let words: Vec<&str> = words.split(',').map(str::trim).collect();
    // Any other comment is none of ours.
    if !words.iter().any(|word| is_meant(word)) {
        return Ok(header);
    }
    for word in words {
        match word.split_once(':').map(|(key, value)| (key.trim(), value.trim())) {
            None if word == "link" => header.link = true,
            Some(("mode", digits)) => {
                header.mode = mode(digits)
                    .ok_or_else(|| format!("`{digits}` is no file mode; write four octal digits as 0644"))?;
            }
            _ => {
                return Err(format!(
                    "`{word}` says nothing of a file; write `mode: 0600`, `link`, or both with a comma"
                ));
            }
        }
    }
    let rest = source[line.len()..].strip_prefix('\n').unwrap_or_default().to_owned();
    *source = rest;
    Ok(header)
}

/// Whether a part of a comment is, or was to be, one that says something of the file.
fn is_meant(word: &str) -> bool {
    let mut parts = word.splitn(2, |c: char| !c.is_ascii_alphanumeric());
    let (first, rest) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let value = rest.trim_start_matches([' ', ':', '=']);
    match first.to_ascii_lowercase().as_str() {
        "mode" => word.contains(':') || value.starts_with(|c: char| c.is_ascii_digit()),
        "link" => rest.is_empty(),
        _ => false,
    }
}

/// Three or four octal digits.
fn mode(digits: &str) -> Option<u32> {
    let fits = (3..=4).contains(&digits.len()) && digits.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
    u32::from_str_radix(digits, 8).ok().filter(|_| fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(line: &str) -> Result<(u32, bool), String> {
        take(&mut format!("{line}\ntext\n")).map(|header| (header.mode, header.link))
    }

    #[test]
    fn what_is_meant_for_us_holds_or_is_told() {
        for (line, said) in [
            ("{# mode: 0600 #}", (0o600, false)),
            ("{# mode: 4755, link #}", (0o4755, true)),
            ("{#link#}", (0o644, true)),
            ("{# The names of all nodes; the mode of it is what it is. #}", (0o644, false)),
            ("{# link to what the package has #}", (0o644, false)),
            ("text", (0o644, false)),
        ] {
            assert_eq!(header(line), Ok(said), "{line}");
        }
        for line in [
            "{# mode: 0999 #}",
            "{# mode: 6 #}",
            "{# mode: 00644 #}",
            "{# mode: +600 #}",
            "{# mode: rw------- #}",
            "{# mode 0600 #}",
            "{# mode=0600 #}",
            "{# Mode: 0600 #}",
            "{# mode: 0600 link #}",
            "{# mode: 0600, lnk #}",
        ] {
            let why = header(line).unwrap_err();
            assert!(why.contains("write"), "{line}: {why}");
        }
    }
}
