//! The bars: a scale on the left, and below each bar the number of its node.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};

use super::view::Numbers;
use crate::discovery::NodeId;

/// What is left of the numbers.
const FOOT: &str = "Node #";
/// Where the logarithmic scale begins.
const LEAST: f64 = 0.01;
/// A cell that is filled from below by one eighth, and so on.
const EIGHTHS: [&str; 8] = ["▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"];

/// What stands above a number.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Bar {
    /// The node is gone.
    Dead,
    /// It has told nothing of itself.
    Silent,
    Value {
        value: f64,
        /// What the value is a part of; + extend the bar to this.
        total: f64,
        /// What stands above the bar, where there is room.
        mark: Option<String>,
    },
}

/// A chart of bars.
#[derive(Debug)]
pub(super) struct Chart {
    pub bars: Vec<(NodeId, Bar)>,
    pub numbers: Numbers,
    /// This node's number is bold.
    pub own: Option<NodeId>,
    /// What the whole height is.
    top: f64,
    log: bool,
    /// Values on the scale, and how they are written.
    ticks: Vec<(f64, String)>,
}

impl Chart {
    pub(super) fn new(bars: Vec<(NodeId, Bar)>, log: bool) -> Self {
        let values =
            bars.iter().map(|(_, bar)| if let Bar::Value { total, .. } = bar { *total } else { 0.0 });
        let most = values.fold(1.0, f64::max);
        let mut chart = Self { bars, numbers: Numbers::Wide, own: None, top: 1.0, log, ticks: Vec::new() };
        chart.scale_to(most);
        chart
    }

    /// Has the whole height be 1, 2 or 5 by a power of ten, and not less than this.
    pub(super) fn scale_to(&mut self, most: f64) {
        let power = 10_f64.powf(most.log10().floor());
        if self.log {
            let powers = std::iter::successors(Some(LEAST), |value| Some(value * 10.0));
            self.ticks = powers
                .take_while(|value| *value < most * 9.999)
                .map(|value| (value, value.to_string()))
                .collect();
            self.top = self.ticks.last().map_or(1.0, |(value, _)| *value);
            return;
        }
        let (factor, steps) = [(1.0, 5), (2.0, 4), (5.0, 5), (10.0, 5)]
            .into_iter()
            .find(|(factor, _)| factor * power >= most)
            .unwrap_or((10.0, 5));
        self.top = factor * power;
        let step = self.top / f64::from(steps);
        let digits = usize::from(step < 1.0);
        self.ticks = (0..=steps)
            .map(|index| f64::from(index) * step)
            .map(|value| (value, format!("{value:.digits$}")))
            .collect();
    }

    /// How high a value is, of 1.
    fn height(&self, value: f64) -> f64 {
        let part = if self.log {
            (value / LEAST).max(1.0).log10() / (self.top / LEAST).log10()
        } else {
            value / self.top
        };
        part.clamp(0.0, 1.0)
    }

    /// Columns of the scale and its line.
    fn left(&self) -> usize {
        self.ticks.iter().map(|(_, text)| text.len()).chain([FOOT.len()]).max().unwrap_or(0) + 2
    }

    fn digits(&self) -> usize {
        self.bars.iter().map(|(id, _)| id.to_string().len()).max().unwrap_or(1)
    }

    /// Columns of one node; the last is blank unless there is only one.
    fn column(&self, numbers: Numbers) -> usize {
        match numbers {
            Numbers::Wide | Numbers::Auto => self.digits().max(3) + 1,
            Numbers::Vertical => 2,
            Numbers::Tight => 1,
        }
    }

    /// Columns of the whole.
    pub(super) fn width(&self) -> usize {
        self.left() + self.bars.len() * self.column(self.numbers)
    }

    /// How many nodes fit on such a width.
    pub(super) fn fit(&self, numbers: Numbers, width: u16) -> usize {
        usize::from(width).saturating_sub(self.left()) / self.column(numbers)
    }

    /// Draws as many nodes as fit, from the first one on.
    pub(super) fn draw(&self, area: Rect, buffer: &mut Buffer) {
        let column = self.column(self.numbers);
        let wide = column > 2;
        let rows = if wide { 1 } else { self.digits() };
        let rows = u16::try_from(rows).unwrap_or(1);
        let left = u16::try_from(self.left()).unwrap_or(u16::MAX);
        // Below this there is no room for a bar.
        if area.height < rows + 3 || area.width <= left {
            return;
        }
        let plot =
            Rect { x: area.x + left, width: area.width - left, height: area.height - rows - 1, ..area };
        self.draw_scale(area, plot, buffer);
        for (index, (id, bar)) in self.bars.iter().enumerate() {
            let Some(x) =
                u16::try_from(index * column).ok().filter(|x| usize::from(*x) + column <= plot.width.into())
            else {
                break;
            };
            let width = u16::try_from(if column > 1 { column - 1 } else { 1 }).unwrap_or(1);
            let place = Rect { x: plot.x + x, width, ..plot };
            draw_bar(bar, |value| self.height(value), place, buffer);
            let own = self.own == Some(*id);
            let style = if own { Style::new().add_modifier(Modifier::BOLD) } else { Style::new() };
            let number = id.to_string();
            if wide {
                buffer.set_string(
                    place.x,
                    plot.bottom() + 1,
                    format!("{number:^0$}", usize::from(width)),
                    style,
                );
            } else {
                for (y, digit) in (plot.bottom() + 1..).zip(number.chars()) {
                    buffer.set_string(place.x, y, digit.to_string(), style);
                }
            }
        }
    }

    fn draw_scale(&self, area: Rect, plot: Rect, buffer: &mut Buffer) {
        let line = plot.x - 1;
        for y in plot.top()..plot.bottom() {
            buffer.set_string(line, y, "│", Style::new());
        }
        let floor = "─".repeat(plot.width.into());
        buffer.set_string(line, plot.bottom(), format!("└{floor}"), Style::new());
        for (value, text) in &self.ticks {
            let up = cells(self.height(*value) * f64::from(plot.height));
            let width = usize::from(line - area.x - 1);
            buffer.set_string(
                area.x,
                plot.bottom() - up.min(plot.height),
                format!("{text:>width$}"),
                Style::new(),
            );
        }
        buffer.set_string(area.x, plot.bottom() + 1, FOOT, Style::new());
    }
}

fn draw_bar(bar: &Bar, height: impl Fn(f64) -> f64, place: Rect, buffer: &mut Buffer) {
    let across = |buffer: &mut Buffer, up: u16, symbol: &str| {
        let line = symbol.repeat(place.width.into());
        buffer.set_string(place.x, place.bottom() - 1 - up.min(place.height - 1), line, Style::new());
    };
    match bar {
        Bar::Dead => {
            for (up, letter) in (0..place.height).zip("DAED".chars()) {
                let x = place.x + place.width / 2;
                buffer.set_string(x, place.bottom() - 1 - up, letter.to_string(), Style::new());
            }
        }
        Bar::Silent => across(buffer, 0, "?"),
        Bar::Value { value, total, mark } => {
            let whole = f64::from(place.height);
            let eighths = cells(height(*value) * whole * 8.0);
            // What is there at all is seen.
            let eighths = if *value > 0.0 { eighths.max(1) } else { eighths };
            let upto = cells(height(*total) * whole);
            for up in 0..place.height {
                match eighths.saturating_sub(up.saturating_mul(8)) {
                    0 if up < upto => across(buffer, up, "+"),
                    0 => break,
                    part => across(buffer, up, EIGHTHS[usize::from(part.min(8)) - 1]),
                }
            }
            if let Some(mark) = mark
                && mark.len() <= place.width.into()
            {
                let up = upto.max(eighths.div_ceil(8)).min(place.height - 1);
                let y = place.bottom() - 1 - up;
                buffer.set_string(place.x, y, format!("{mark:^0$}", usize::from(place.width)), Style::new());
            }
        }
    }
}

/// To whole ones.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
fn cells(length: f64) -> u16 {
    length.round() as u16
}
