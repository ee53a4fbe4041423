//! What a tool that fills the terminal needs: it is taken, drawn anew with each news and key, and given back however
//! the tool ends: by a key, a signal, an error or a panic.

use std::io;
use std::ops::ControlFlow;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal, raise};
use ratatui::Terminal;
use ratatui::backend::Backend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{self, KeyCode, KeyModifiers};
use ratatui::layout::Rect;

/// The signals that end a tool by default, and are sent to one that has a terminal.
const ENDING: [Signal; 4] = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM];

/// What such a tool shows.
pub(super) trait Picture {
    /// What is asked for again and again.
    type News: Send + 'static;
    /// There are news.
    fn take(&mut self, news: Self::News) -> ControlFlow<()>;
    /// A key was typed.
    fn key(&mut self, key: KeyCode) -> ControlFlow<()>;
    /// As it is now; nothing was drawn on this area yet.
    fn draw(&self, area: Rect, buffer: &mut Buffer);
}

/// What happens meanwhile.
#[derive(Debug)]
enum Event<N> {
    News(N),
    Key(event::KeyEvent),
    Resized,
    Signal(Signal),
    Broken(io::Error),
}

/// Shows a picture until it has enough. `look` is asked for news at once, and then after each interval.
///
/// # Errors
/// Those of the terminal. On a signal this does not return: the process ends by it.
pub(super) fn show<P: Picture>(
    picture: &mut P,
    every: Duration,
    mut look: impl FnMut() -> P::News + Send + 'static,
) -> io::Result<()> {
    let signals: SigSet = ENDING.into_iter().collect();
    // Threads inherit the mask, so that one of them waits for these and none is interrupted.
    signals.thread_block()?;
    let (tell, events) = mpsc::channel();
    let drawn = ratatui::try_init().and_then(|mut terminal| {
        let (keys, news) = (tell.clone(), tell.clone());
        thread::spawn(move || while keys.send(typed(event::read())).is_ok() {});
        thread::spawn(move || {
            while news.send(Event::News(look())).is_ok() {
                thread::sleep(every);
            }
        });
        thread::spawn(move || wait(signals, &tell));
        drive(picture, &mut terminal, &events)
    });
    let restored = ratatui::try_restore();
    if let Some(signal) = drawn? {
        signals.thread_unblock()?;
        raise(signal)?;
    }
    restored
}

fn wait<N>(signals: SigSet, tell: &Sender<Event<N>>) {
    let event = signals.wait().map_or_else(|error| Event::Broken(error.into()), Event::Signal);
    // Nobody hears it where the tool ends already.
    let _told = tell.send(event);
}

fn typed<N>(event: io::Result<event::Event>) -> Event<N> {
    match event {
        Ok(event::Event::Key(key)) => Event::Key(key),
        Ok(_) => Event::Resized,
        Err(error) => Event::Broken(error),
    }
}

/// The signal that it has ended by, where it was one.
fn drive<P: Picture, B>(
    picture: &mut P,
    terminal: &mut Terminal<B>,
    events: &Receiver<Event<P::News>>,
) -> io::Result<Option<Signal>>
where
    B: Backend<Error: Send + Sync + 'static>,
{
    while let Ok(event) = events.recv() {
        let flow = match event {
            Event::News(news) => picture.take(news),
            Event::Key(key) if key.modifiers == KeyModifiers::CONTROL && key.code == KeyCode::Char('c') => {
                ControlFlow::Break(())
            }
            Event::Key(key) => picture.key(key.code),
            Event::Resized => ControlFlow::Continue(()),
            Event::Signal(signal) => return Ok(Some(signal)),
            Event::Broken(error) => return Err(error),
        };
        if flow.is_break() {
            break;
        }
        terminal.draw(|frame| picture.draw(frame.area(), frame.buffer_mut())).map_err(io::Error::other)?;
    }
    Ok(None)
}

/// A picture as text, for what is no terminal: the lines without the blanks behind them.
pub(super) fn text(picture: &impl Picture, width: u16, height: u16) -> String {
    let area = Rect::new(0, 0, width, height);
    let mut buffer = Buffer::empty(area);
    picture.draw(area, &mut buffer);
    let cells = buffer.content.chunks(usize::from(width.max(1)));
    let lines: Vec<String> = cells
        .map(|cells| cells.iter().map(|cell| cell.symbol()).collect::<String>().trim_end().to_owned())
        .collect();
    lines.join("\n").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::KeyEvent;

    #[derive(Default)]
    struct Count(u32);

    impl Picture for Count {
        type News = u32;

        fn take(&mut self, news: u32) -> ControlFlow<()> {
            self.0 += news;
            ControlFlow::Continue(())
        }

        fn key(&mut self, key: KeyCode) -> ControlFlow<()> {
            if key == KeyCode::Char('q') { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        }

        fn draw(&self, area: Rect, buffer: &mut Buffer) {
            buffer.set_string(area.x + 1, area.y, self.0.to_string(), ratatui::style::Style::new());
        }
    }

    /// What is on the screen in the end, and how it ended.
    fn driven(events: Vec<Event<u32>>) -> (String, io::Result<Option<Signal>>) {
        let (tell, heard) = mpsc::channel();
        for event in events {
            tell.send(event).unwrap();
        }
        drop(tell);
        let mut terminal = Terminal::new(TestBackend::new(4, 1)).unwrap();
        let mut picture = Count::default();
        let ended = drive(&mut picture, &mut terminal, &heard);
        (terminal.backend().buffer().content.iter().map(|cell| cell.symbol()).collect(), ended)
    }

    #[test]
    fn it_ends_by_a_key_a_signal_and_an_error() {
        let key = |code, modifiers| Event::Key(KeyEvent::new(code, modifiers));
        let plain = |letter| key(KeyCode::Char(letter), KeyModifiers::NONE);
        let (seen, ended) =
            driven(vec![Event::News(3), plain('x'), Event::News(4), plain('q'), Event::News(9)]);
        assert_eq!((seen.as_str(), ended.unwrap()), (" 7  ", None));
        let interrupted = key(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(driven(vec![Event::News(1), interrupted, Event::News(9)]).0, " 1  ");
        let (seen, ended) = driven(vec![Event::News(2), Event::Resized, Event::Signal(Signal::SIGTERM)]);
        assert_eq!((seen.as_str(), ended.unwrap()), (" 2  ", Some(Signal::SIGTERM)));
        let broken = Event::Broken(io::ErrorKind::BrokenPipe.into());
        assert_eq!(driven(vec![broken]).1.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn text_has_no_blanks_behind_it() {
        assert_eq!(text(&Count(12), 8, 3), " 12");
        assert_eq!(text(&Count(12), 0, 0), "");
    }
}
