//! The table of `mtop`, on a terminal and as text, and what its keys change.

use std::ops::ControlFlow;

use ratatui::buffer::Buffer;
use ratatui::crossterm::event::KeyCode;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};

use super::processes::{Row, Table};
use crate::tools::screen::Picture;

/// What is shown.
#[derive(Debug, Default)]
pub(super) struct View {
    table: Table,
    by_memory: bool,
    first: usize,
    /// Why there are no news.
    problem: Option<String>,
}

impl View {
    pub(super) fn of(table: Table) -> Self {
        Self { table, ..Self::default() }
    }

    /// The head of the table, and its rows, in order.
    fn lines(&self) -> (String, Vec<String>) {
        let width = self.table.rows.iter().map(|row| row.node.len()).chain([4]).max().unwrap_or(4);
        let mut rows: Vec<&Row> = self.table.rows.iter().collect();
        let key = |row: &Row| if self.by_memory { (row.memory, row.cpu) } else { (row.cpu, row.memory) };
        rows.sort_by(|one, other| {
            let (one_key, other_key) = (key(one), key(other));
            other_key
                .0
                .total_cmp(&one_key.0)
                .then(other_key.1.total_cmp(&one_key.1))
                .then(one.pid.cmp(&other.pid))
        });
        let line = |row: &Row| {
            let Row { pid, node, cpu, memory, seconds, command, .. } = row;
            let user = shortened(&row.user, 8);
            let priority = if row.priority <= -100 { "rt".to_owned() } else { row.priority.to_string() };
            let minutes = (seconds / 60.0).floor();
            let time = format!("{minutes:.0}:{:05.2}", seconds - minutes * 60.0);
            format!(
                "{pid:>7} {node:<width$} {user:<8} {priority:>3} {cpu:>5.1} {memory:>5.1} {time:>9} {command}"
            )
        };
        let head = format!(
            "{:>7} {:<width$} {:<8} {:>3} {:>5} {:>5} {:>9} COMMAND",
            "PID", "NODE", "USER", "PR", "%CPU", "%MEM", "TIME"
        );
        (head, rows.into_iter().map(line).collect())
    }

    /// The whole.
    pub(super) fn text(&self) -> String {
        let (head, rows) = self.lines();
        format!("{}\n\n{head}\n{}", self.table.head, rows.join("\n"))
    }
}

/// With a + where something is left out.
fn shortened(name: &str, most: usize) -> String {
    if name.chars().count() <= most {
        return name.to_owned();
    }
    name.chars().take(most - 1).chain(['+']).collect()
}

impl Picture for View {
    type News = Result<Table, String>;

    fn take(&mut self, news: Self::News) -> ControlFlow<()> {
        match news {
            Ok(table) => (self.table, self.problem) = (table, None),
            Err(problem) => self.problem = Some(problem),
        }
        ControlFlow::Continue(())
    }

    fn key(&mut self, key: KeyCode) -> ControlFlow<()> {
        let last = self.table.rows.len().saturating_sub(1);
        match key {
            KeyCode::Char('q' | 'Q') => return ControlFlow::Break(()),
            KeyCode::Char('M') => self.by_memory = true,
            KeyCode::Char('P') => self.by_memory = false,
            KeyCode::Up => self.first = self.first.saturating_sub(1),
            KeyCode::Down => self.first = (self.first + 1).min(last),
            KeyCode::PageUp => self.first = self.first.saturating_sub(20),
            KeyCode::PageDown => self.first = (self.first + 20).min(last),
            KeyCode::Home => self.first = 0,
            KeyCode::End => self.first = last,
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn draw(&self, area: Rect, buffer: &mut Buffer) {
        let (head, rows) = self.lines();
        let problem = self.problem.clone().unwrap_or_default();
        let first = self.first.min(rows.len().saturating_sub(1));
        let lines = [self.table.head.clone(), problem, head].into_iter().chain(rows.into_iter().skip(first));
        for (y, line) in (area.top()..area.bottom()).zip(lines) {
            buffer.set_stringn(area.x, y, line, area.width.into(), Style::new());
        }
        let reversed = Style::new().add_modifier(Modifier::REVERSED);
        buffer.set_style(Rect { y: area.y + 2, height: 1, ..area }, reversed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::screen::text;

    fn view() -> View {
        let row = |pid, node: &str, user: &str, cpu, memory, command: &str| Row {
            pid,
            node: node.to_owned(),
            user: user.to_owned(),
            priority: if pid == 7 { -100 } else { 20 },
            cpu,
            memory,
            seconds: 61.5,
            command: command.to_owned(),
        };
        let rows = vec![
            row(1, "-", "root", 0.0, 0.4, "systemd"),
            row(7, "node-12", "postgres-admin", 0.0, 30.0, "postgres"),
            row(12, "<n1", "demo", 99.7, 1.2, "gzip"),
        ];
        View { table: Table { head: "mtop: up".to_owned(), rows }, ..View::default() }
    }

    #[test]
    fn the_busiest_are_first_or_the_biggest() {
        let mut view = view();
        assert_eq!(
            view.text(),
            "mtop: up\n\n    PID NODE    USER      PR  %CPU  %MEM      TIME COMMAND\n     \
             12 <n1     demo      20  99.7   1.2   1:01.50 gzip\n      \
             7 node-12 postgre+  rt   0.0  30.0   1:01.50 postgres\n      \
             1 -       root      20   0.0   0.4   1:01.50 systemd"
        );
        assert!(view.key(KeyCode::Char('M')).is_continue());
        let pids =
            |view: &View| view.lines().1.iter().map(|line| line[..7].trim().to_owned()).collect::<Vec<_>>();
        assert_eq!(pids(&view), ["7", "12", "1"]);
        assert!(view.key(KeyCode::Char('P')).is_continue());
        assert_eq!(pids(&view), ["12", "7", "1"]);
        assert!(view.key(KeyCode::Char('q')).is_break());
    }

    #[test]
    fn it_scrolls_and_fits_into_any_terminal() {
        let mut view = view();
        for key in [KeyCode::Down, KeyCode::PageDown, KeyCode::Up] {
            assert!(view.key(key).is_continue());
        }
        assert!(view.take(Err("no agent".to_owned())).is_continue());
        let seen = text(&view, 24, 4);
        assert_eq!(seen, "mtop: up\nno agent\n    PID NODE    USER\n      7 node-12 postgre+");
        for (width, height) in [(0, 0), (1, 1), (3, 2), (300, 3)] {
            text(&view, width, height);
        }
    }
}
