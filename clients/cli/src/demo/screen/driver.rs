//! The terminal: raw while the demo runs, and as it was afterwards.

use std::io::{self, Stdout};
use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{Event, KeyEvent, KeyEventKind, poll, read};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use tokio::sync::mpsc;

use super::keys::Selection;
use crate::demo::picture::Picture;

/// Keys that wait.
const KEYS_MAX: usize = 64;

/// Pause between looks whether the demo has ended.
const POLL: Duration = Duration::from_millis(200);

/// The terminal, until it is dropped.
pub(in crate::demo) struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
    _restore: Restore,
}

/// Gives the terminal back.
struct Restore;

impl Screen {
    /// Takes the terminal.
    pub(in crate::demo) fn open() -> io::Result<Self> {
        enable_raw_mode()?;
        // From here on it is given back in any case.
        let restore = Restore;
        execute!(io::stdout(), EnterAlternateScreen)?;
        let terminal = Terminal::new(CrosstermBackend::new(io::stdout()))?;
        Ok(Self {
            terminal,
            _restore: restore,
        })
    }

    /// Draws the picture.
    pub(in crate::demo) fn draw(&mut self, picture: &Picture, selection: &Selection) -> io::Result<()> {
        self.terminal
            .draw(|frame| super::draw(frame, picture, selection))
            .map(drop)
    }
}

impl Drop for Restore {
    fn drop(&mut self) {
        // Nothing more can be done where the terminal has gone.
        let _ = execute!(io::stdout(), LeaveAlternateScreen, Show);
        let _ = disable_raw_mode();
    }
}

/// Reads keys on a thread of their own, until the receiver is dropped or the terminal goes.
pub(in crate::demo) fn keys() -> io::Result<mpsc::Receiver<KeyEvent>> {
    let (keys, received) = mpsc::channel(KEYS_MAX);
    std::thread::Builder::new()
        .name("keys".to_owned())
        .spawn(move || {
            while !keys.is_closed() {
                match poll(POLL) {
                    Ok(false) => continue,
                    Ok(true) => {}
                    Err(_) => return,
                }
                match read() {
                    Ok(Event::Key(key)) if key.kind == KeyEventKind::Press => {
                        if keys.blocking_send(key).is_err() {
                            return;
                        }
                    }
                    Ok(_) => {}
                    Err(_) => return,
                }
            }
        })?;
    Ok(received)
}
