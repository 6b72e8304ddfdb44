//! Progress on stderr: bars with rate and time left on a terminal, a plain line now and then elsewhere, nothing when quiet.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Quiet,
    Lines,
    Bars,
}

/// How a command shows that it is alive.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    mode: Mode,
}

impl Progress {
    pub fn new(quiet: bool) -> Self {
        let mode = match quiet {
            true => Mode::Quiet,
            false if std::io::stderr().is_terminal() => Mode::Bars,
            false => Mode::Lines,
        };
        Progress { mode }
    }

    /// One line of news.
    pub fn note(&self, text: &str) {
        if self.mode != Mode::Quiet {
            eprintln!("{text}");
        }
    }

    /// Progress over `length` units of something called `label`.
    pub fn bar(&self, length: u64, label: &str) -> Bar {
        let now = Instant::now();
        let state = Mutex::new(State { done: 0, start: 0, began: now, said: now });
        let bar = match self.mode {
            Mode::Bars => {
                let bar = ProgressBar::new(length);
                if let Ok(style) = ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len} {per_sec} {eta} left {msg}") {
                    bar.set_style(style);
                }
                bar.set_prefix(label.to_string());
                Some(bar)
            }
            _ => None,
        };
        Bar { mode: self.mode, bar, length, label: label.into(), state }
    }
}

struct State {
    done: u64,
    start: u64,
    began: Instant,
    said: Instant,
}

/// One running count.
pub struct Bar {
    mode: Mode,
    bar: Option<ProgressBar>,
    length: u64,
    label: String,
    state: Mutex<State>,
}

/// On a pipe or in a log file a line at most this often.
const LINE_EVERY: Duration = Duration::from_secs(10);

impl Bar {
    /// Starts from `done` units that an earlier process did; they don't count in the rate.
    pub fn resume(&self, done: u64) {
        if let Ok(mut s) = self.state.lock() {
            (s.done, s.start, s.began) = (done, done, Instant::now());
        }
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            bar.reset_eta();
        }
    }

    /// `units` more are done; `message` says how it goes.
    pub fn advance(&self, units: u64, message: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(message.to_string());
            bar.inc(units);
        }
        let Ok(mut s) = self.state.lock() else { return };
        s.done += units;
        if self.mode == Mode::Lines && s.said.elapsed() >= LINE_EVERY && s.done < self.length {
            s.said = Instant::now();
            let seconds = s.began.elapsed().as_secs_f64();
            let rate = (s.done - s.start) as f64 / seconds.max(1e-9);
            let left = (self.length - s.done) as f64 / rate.max(1e-9);
            eprintln!("{}: {}/{}, {}, {} left{}{message}", self.label, s.done, self.length, pace(rate), duration(left), sep(message));
        }
    }

    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        if self.mode != Mode::Quiet
            && let Ok(s) = self.state.lock()
        {
            eprintln!("{}: {} in {}", self.label, s.done, duration(s.began.elapsed().as_secs_f64()));
        }
    }
}

fn sep(message: &str) -> &'static str {
    if message.is_empty() { "" } else { ", " }
}

/// A speed for people: "12.5/s", or "20 s each" for what is slow.
fn pace(per_second: f64) -> String {
    if per_second >= 0.5 { format!("{per_second:.1}/s") } else { format!("{} each", duration(1.0 / per_second.max(1e-9))) }
}

/// A time for people: "8 s", "3 min 20 s", "2 h 5 min".
pub fn duration(seconds: f64) -> String {
    let s = seconds.round().max(0.0) as u64;
    match s {
        0..60 if seconds < 9.95 => format!("{seconds:.1} s"),
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        3600..172_800 => format!("{} h {} min", s / 3600, s % 3600 / 60),
        _ => format!("{:.1} days", seconds / 86400.0),
    }
}

/// A size for people: "812 MB", "1.4 GB".
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{} kB", bytes.div_ceil(1000)),
        0..1_000_000_000 => format!("{} MB", bytes / 1_000_000),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}
