//! Pictures of `mosmon`, and what its keys do to them.

use ratatui::crossterm::event::KeyCode;

use super::USAGE;
use super::view::{Seen, View};
use crate::discovery::NodeId;
use crate::load::{Load, STANDARD_SPEED, Status};
use crate::tools::screen::{Picture as _, text};
use crate::wire::local::Node;

fn node(low: u8, load: Option<Load>) -> Node {
    let address = [10, 77, 0, low].into();
    Node { id: NodeId(low.into()), name: None, address, up: true, age_ms: None, load, multicast: None }
}

fn load(load: u32, cpus: u32, util: u8) -> Option<Load> {
    let status = Status::UP;
    Some(Load { load, speed: 12_000, cpus, util, mem: 1 << 20, rmem: 128 << 10, tmem: 2 << 20, status })
}

fn view(nodes: Vec<Node>) -> View {
    let mut view = View::default();
    assert!(view.take(Ok(Seen { own: NodeId(11), yard: STANDARD_SPEED, nodes })).is_continue());
    view
}

fn few() -> View {
    let dead = Node { up: false, ..node(13, load(50, 100, 0)) };
    view(vec![node(11, load(150, 200, 75)), node(12, load(25, 50, 10)), dead, node(14, None)])
}

fn typed(view: &mut View, keys: &str) {
    for key in keys.chars() {
        assert!(view.key(KeyCode::Char(key)).is_continue());
    }
}

#[test]
fn bars_have_a_scale_and_numbers() {
    let mut view = few();
    for (keys, width, picture) in [
        (
            "",
            30,
            "\
LOAD
   2.0 │
       │
   1.5 │███
       │███
   1.0 │███
       │███
   0.5 │███
       │███ ███ ???
   0.0 └──────────────────────
Node #  11  12  14
h: help, q: quit",
        ),
        (
            "tdm",
            60,
            "\
MEMORY (MB): used, + free   Total: 3 of 4 nodes up, 2.5 CPUs
  5000 │
       │
  4000 │
  3000 │
       │         D
  2000 │+++ +++  E
  1000 │▅▅▅ ▅▅▅  A
       │███ ███  D  ???
     0 └────────────────────────────────────────────────────
Node #  11  12  13  14
h: help, q: quit",
        ),
        (
            "tsV",
            20,
            "\
SPEED
 20000 │
       │2
 15000 │▂▂
 10000 │██D
       │██E
  5000 │██A
       │██D?
     0 └────────────
Node #  1111
        1234
h: help, q: quit",
        ),
        (
            "Lv",
            20,
            "\
LOAD (log)
    10 │
       │▁
     1 │█
       │█ ▂ D
       │█ █ E
   0.1 │█ █ A
       │█ █ D ?
  0.01 └────────────
Node #  1 1 1 1
        1 2 3 4
h: help, q: quit",
        ),
    ] {
        typed(&mut view, keys);
        assert_eq!(text(&view, width, 12), picture, "{keys}");
    }
}

#[test]
fn numbers_stand_as_they_fit() {
    let mut view = view((1..=3).map(|low| node(low, load(1, 100, 1))).collect());
    let numbers = |view: &View, width| text(view, width, 8).lines().nth(6).unwrap_or_default().to_owned();
    // Eight columns are the scale's.
    assert_eq!(numbers(&view, 20), "Node #   1   2   3");
    assert_eq!(numbers(&view, 19), "Node #  1 2 3");
    assert_eq!(numbers(&view, 13), "Node #   1", "not all fit in any way");
    assert_eq!(view.width(13), 20);
    typed(&mut view, "V");
    assert_eq!(numbers(&view, 13), "Node #  123");
    assert_eq!(view.width(13), 13);
}

#[test]
fn it_scrolls() {
    let mut view = view((1..=20).map(|low| node(low, load(1, 100, 1))).collect());
    typed(&mut view, "w");
    let first = |view: &View| {
        let picture = text(view, 8 + 5 * 4, 8);
        picture.lines().nth(6).and_then(|line| line.split_whitespace().nth(2)?.parse::<u16>().ok())
    };
    assert_eq!(first(&view), Some(1));
    for (key, from) in [
        (KeyCode::Left, 1),
        (KeyCode::Right, 2),
        (KeyCode::PageDown, 7),
        (KeyCode::Left, 6),
        (KeyCode::End, 16),
        (KeyCode::Right, 16),
        (KeyCode::Left, 15),
        (KeyCode::PageUp, 10),
        (KeyCode::Home, 1),
    ] {
        assert!(view.key(key).is_continue());
        assert_eq!(first(&view), Some(from), "{key}");
    }
    view.first = Some(NodeId(9));
    assert_eq!(first(&view), Some(9));
}

#[test]
fn any_size_and_anything_told_is_drawn() {
    let odd =
        Load { load: u32::MAX, speed: u32::MAX, mem: u64::MAX, tmem: u64::MAX, ..load(0, 0, 255).unwrap() };
    for mut view in [View::default(), view(Vec::new()), view(vec![node(1, Some(odd)), node(2, None)])] {
        for key in "lLsmrudtwvVah".chars() {
            typed(&mut view, &key.to_string());
            for (width, height) in [(0, 0), (1, 1), (9, 5), (8, 30), (300, 4), (300, 100)] {
                text(&view, width, height);
            }
        }
    }
}

#[test]
fn help_and_why_there_are_no_news_are_told() {
    let mut view = few();
    assert!(view.take(Err("no agent listens".to_owned())).is_continue());
    assert!(text(&view, 40, 10).ends_with("\nno agent listens"), "with what was seen last");
    typed(&mut view, "h");
    assert_eq!(text(&view, 120, 40), USAGE);
    assert!(USAGE.lines().all(|line| line.len() <= 80 && USAGE.lines().count() <= 24));
    typed(&mut view, "s");
    assert!(text(&view, 40, 10).starts_with("LOAD"), "any key ends it, and does no more");
    assert!(view.key(KeyCode::Char('q')).is_break());
}
