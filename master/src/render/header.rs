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
    for word in words.split(',').map(str::trim) {
        match word.split_once(':').map(|(key, value)| (key.trim(), value.trim())) {
            None if word == "link" => header.link = true,
            Some(("mode", digits)) => {
                header.mode = u32::from_str_radix(digits, 8)
                    .ok()
                    .filter(|mode| *mode <= 0o7777)
                    .ok_or_else(|| format!("`{digits}` is no file mode; write four octal digits as 0644"))?;
            }
            // An ordinary comment.
            _ => return Ok(header),
        }
    }
    let rest = source[line.len()..].strip_prefix('\n').unwrap_or_default().to_owned();
    *source = rest;
    Ok(header)
}
