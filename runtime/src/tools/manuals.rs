//! The manual pages in `packaging/man` against the tools that they tell of.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::{Ended, TOOLS, mosctl};

/// What every page has, in this order (man-pages(7)); some have more between.
const SECTIONS: [&str; 8] =
    ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "FILES", "EXAMPLES", "SEE ALSO"];

/// A page as it is read, without its fonts; of one that only names another (`.so`) that one.
fn page(file: &str) -> String {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/man")).join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    if let Some(other) = text.strip_prefix(".so ") {
        let (section, other) = other.trim_end().split_once('/').unwrap();
        assert_eq!(Some(section.trim_start_matches("man")), other.rsplit_once('.').map(|(_, it)| it));
        return page(other);
    }
    let fonts = ["\\fB", "\\fI", "\\fP", "\\fR", "\""];
    fonts.iter().fold(text.replace("\\-", "-"), |text, font| text.replace(font, ""))
}

fn section<'a>(page: &'a str, name: &str) -> &'a str {
    let rest = page.split_once(&format!("\n.SH {name}\n")).unwrap_or_else(|| panic!("no {name} in {page}")).1;
    rest.split("\n.SH ").next().unwrap_or(rest)
}

fn names(page: &str) -> Vec<&str> {
    let (names, _) = section(page, "NAME").split_once(" - ").unwrap();
    names.split(", ").collect()
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '-')
}

/// `--socket`, `-F`, `-off`; of `-jLIST` what stands before the value.
fn options(text: &str) -> BTreeSet<String> {
    let option = |word: &str| {
        let name = word.trim_start_matches('-');
        let small = name.find(|letter: char| !letter.is_ascii_lowercase()).unwrap_or(name.len());
        let name = if name.len() == 1 { name } else { &name[..small] };
        (word.starts_with('-') && !name.is_empty())
            .then(|| format!("{}{name}", if word.starts_with("--") { "--" } else { "-" }))
    };
    words(text).filter_map(option).collect()
}

fn usage(tool: super::Tool) -> String {
    match tool(&["--help".to_owned()]) {
        Ended::Done(usage) => usage,
        ended => panic!("{ended:?}"),
    }
}

#[test]
fn every_tool_has_a_page_with_all_its_options() {
    for (name, tool) in TOOLS {
        let page = page(&format!("{name}.1"));
        assert!(names(&page).contains(name), "{name} is not in the NAME of its page");
        let told = options(section(&page, "OPTIONS"));
        let untold: Vec<String> = options(&usage(*tool)).difference(&told).cloned().collect();
        assert!(untold.is_empty(), "the page of {name} has nothing of {untold:?}");
    }
}

#[test]
fn every_verb_of_mosctl_is_in_its_page() {
    let page = page("mosctl.1");
    let told: BTreeSet<&str> = words(&page).collect();
    let usage = usage(mosctl::run);
    let table = usage.lines().filter_map(|line| line.strip_prefix("  "));
    let verbs = table.filter_map(|line| line.split_whitespace().next()).flat_map(|verbs| verbs.split('|'));
    let verbs: Vec<&str> = verbs.chain(["-stay", "nblock", "mfs", "nomfs", "dfsalinks"]).collect();
    assert!(verbs.len() > 30, "{verbs:?}");
    for verb in verbs {
        assert!(told.contains(verb), "{verb}");
    }
}

#[test]
fn every_page_has_its_sections() {
    for entry in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/man")).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        let (name, number) = file.rsplit_once('.').unwrap();
        let page = page(&file);
        assert!(names(&page).contains(&name), "{file} has not its own name");
        let title = page.lines().next().unwrap();
        assert!(title.starts_with(".TH ") && title.split(' ').nth(2) == Some(number), "{file}: {title}");
        let mut left = page.lines().filter_map(|line| line.strip_prefix(".SH "));
        for section in SECTIONS {
            assert!(left.any(|heading| heading == section), "{file}: no {section} where it is due");
        }
    }
}
