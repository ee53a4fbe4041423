//! What `mosmon` shows of what, and what its keys change.

use std::cell::Cell;
use std::ops::ControlFlow;

use ratatui::buffer::Buffer;
use ratatui::crossterm::event::KeyCode;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::USAGE;
use super::chart::{Bar, Chart};
use crate::discovery::NodeId;
use crate::load::{Load, STANDARD_LOAD, STANDARD_SPEED};
use crate::tools::screen::Picture;
use crate::wire::local::Node;

/// What the bars are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Figure {
    #[default]
    Load,
    LogLoad,
    Speed,
    Memory,
    RawMemory,
    Util,
}

impl Figure {
    pub(super) fn of(letter: char) -> Option<Self> {
        Some(match letter {
            'l' => Self::Load,
            'L' => Self::LogLoad,
            's' => Self::Speed,
            'm' => Self::Memory,
            'r' => Self::RawMemory,
            'u' => Self::Util,
            _ => return None,
        })
    }

    fn title(self) -> &'static str {
        match self {
            Self::Load => "LOAD",
            Self::LogLoad => "LOAD (log)",
            Self::Speed => "SPEED",
            Self::Memory => "MEMORY (MB): used, + free",
            Self::RawMemory => "RAW MEMORY (MB): used, + free",
            Self::Util => "UTILIZATION (%)",
        }
    }

    fn bar(self, load: &Load, yard: u32) -> Bar {
        let yard = f64::from(yard.max(1)) / f64::from(STANDARD_SPEED);
        #[expect(clippy::cast_precision_loss, reason = "it is drawn")]
        let mib = |kib: u64| kib as f64 / 1024.0;
        let of = |value| Bar::Value { value, total: value, mark: None };
        let used = |free: u64| Bar::Value {
            value: mib(load.tmem.saturating_sub(free)),
            total: mib(load.tmem),
            mark: None,
        };
        match self {
            Self::Load | Self::LogLoad => of(f64::from(load.load) / f64::from(STANDARD_LOAD) * yard),
            Self::Speed => {
                let speed = f64::from(load.speed) / yard;
                let mark = Some((f64::from(load.cpus) / 100.0).to_string());
                Bar::Value { value: speed, total: speed, mark }
            }
            Self::Memory => used(load.mem),
            Self::RawMemory => used(load.rmem),
            Self::Util => of(f64::from(load.util)),
        }
    }
}

/// How the numbers of nodes stand below the bars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Numbers {
    /// Wide where all nodes fit so, or not even vertical numbers make all of them fit; else vertical.
    #[default]
    Auto,
    Wide,
    Vertical,
    Tight,
}

impl Numbers {
    pub(super) fn of(letter: char) -> Option<Self> {
        Some(match letter {
            'a' => Self::Auto,
            'w' => Self::Wide,
            'v' => Self::Vertical,
            'V' => Self::Tight,
            _ => return None,
        })
    }
}

/// What was seen last.
#[derive(Debug)]
pub(super) struct Seen {
    /// This node.
    pub own: NodeId,
    /// What a standard processor's speed is.
    pub yard: u32,
    /// All that it knows.
    pub nodes: Vec<Node>,
}

/// What is shown.
#[derive(Debug, Default)]
pub(super) struct View {
    pub figure: Figure,
    pub numbers: Numbers,
    pub dead: bool,
    pub total: bool,
    /// The first node that is shown is this, or the next one.
    pub first: Option<NodeId>,
    help: bool,
    seen: Option<Seen>,
    /// Why there are no news.
    problem: Option<String>,
    /// How many nodes fitted when it was drawn last.
    fitted: Cell<usize>,
}

impl View {
    fn shown(&self) -> Vec<&Node> {
        let nodes = self.seen.iter().flat_map(|seen| &seen.nodes);
        nodes.filter(|node| node.up || self.dead).collect()
    }

    /// Which of these is the first on the picture, where so many fit.
    fn start(&self, shown: &[&Node], fit: usize) -> usize {
        let start = shown.iter().take_while(|node| Some(node.id) < self.first).count();
        start.min(shown.len().saturating_sub(fit.max(1)))
    }

    fn scroll(&mut self, by: isize) {
        let shown = self.shown();
        let start = self.start(&shown, self.fitted.get()).saturating_add_signed(by);
        if let Some(node) = shown.get(start.min(shown.len().saturating_sub(1))) {
            self.first = Some(node.id);
        }
    }

    /// The width that all nodes take, and not less than this.
    pub(super) fn width(&self, least: u16) -> u16 {
        let chart = self.chart(least);
        least.max(u16::try_from(chart.width()).unwrap_or(u16::MAX))
    }

    /// With all nodes, as it is drawn on such a width.
    fn chart(&self, width: u16) -> Chart {
        let seen = self.seen.as_ref();
        let bars = self.shown().into_iter().map(|node| {
            let bar = match (&node.load, node.up) {
                (_, false) => Bar::Dead,
                (None, true) => Bar::Silent,
                (Some(load), true) => self.figure.bar(load, seen.map_or(STANDARD_SPEED, |seen| seen.yard)),
            };
            (node.id, bar)
        });
        let mut chart = Chart::new(bars.collect(), self.figure == Figure::LogLoad);
        if self.figure == Figure::Util {
            chart.scale_to(100.0);
        }
        chart.own = seen.map(|seen| seen.own);
        chart.numbers = match self.numbers {
            Numbers::Auto => {
                let fits = |numbers| chart.fit(numbers, width) >= chart.bars.len();
                let vertical = !fits(Numbers::Wide) && fits(Numbers::Vertical);
                if vertical { Numbers::Vertical } else { Numbers::Wide }
            }
            numbers => numbers,
        };
        chart
    }

    fn totals(&self) -> String {
        let nodes = self.seen.iter().flat_map(|seen| &seen.nodes);
        let (mut all, mut up, mut processors) = (0, 0, 0);
        for node in nodes {
            all += 1;
            if node.up {
                up += 1;
                processors += node.load.map_or(0, |load| load.cpus);
            }
        }
        let processors = f64::from(processors) / 100.0;
        format!("Total: {up} of {all} nodes up, {processors} CPUs")
    }
}

impl Picture for View {
    type News = Result<Seen, String>;

    fn take(&mut self, news: Self::News) -> ControlFlow<()> {
        match news {
            Ok(seen) => (self.seen, self.problem) = (Some(seen), None),
            Err(problem) => self.problem = Some(problem),
        }
        ControlFlow::Continue(())
    }

    fn key(&mut self, key: KeyCode) -> ControlFlow<()> {
        let page = self.fitted.get().cast_signed();
        match key {
            KeyCode::Char('q' | 'Q') => return ControlFlow::Break(()),
            _ if self.help => self.help = false,
            KeyCode::Char('h' | 'H' | '?') => self.help = true,
            KeyCode::Char('d') => self.dead = !self.dead,
            KeyCode::Char('t') => self.total = !self.total,
            KeyCode::Left => self.scroll(-1),
            KeyCode::Right => self.scroll(1),
            KeyCode::PageUp | KeyCode::Up => self.scroll(-page),
            KeyCode::PageDown | KeyCode::Down => self.scroll(page),
            KeyCode::Home => self.first = None,
            KeyCode::End => self.scroll(isize::MAX),
            KeyCode::Char(letter) => {
                self.figure = Figure::of(letter).unwrap_or(self.figure);
                self.numbers = Numbers::of(letter).unwrap_or(self.numbers);
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn draw(&self, area: Rect, buffer: &mut Buffer) {
        let line = |buffer: &mut Buffer, y: u16, x: u16, text: &str| {
            if y < area.height && x < area.width {
                buffer.set_stringn(area.x + x, area.y + y, text, (area.width - x).into(), Style::new());
            }
        };
        if self.help {
            for (y, text) in (0..).zip(USAGE.lines()) {
                line(buffer, y, 0, text);
            }
            return;
        }
        let mut chart = self.chart(area.width);
        let fit = chart.fit(chart.numbers, area.width);
        self.fitted.set(fit);
        let start = self.start(&self.shown(), fit);
        chart.bars.drain(..start);
        chart.bars.truncate(fit);
        line(buffer, 0, 0, self.figure.title());
        if self.total {
            let totals = self.totals();
            let x = usize::from(area.width).saturating_sub(totals.len());
            line(buffer, 0, u16::try_from(x).unwrap_or(0), &totals);
        }
        let last = area.height.saturating_sub(1);
        let foot = self.problem.as_deref().unwrap_or("h: help, q: quit");
        chart.draw(Rect { y: area.y + 1, height: last.saturating_sub(1), ..area }, buffer);
        line(buffer, last, 0, foot);
    }
}
