//! The one error type: what went wrong, where, what to do, and the exit code that tells it to a script.

use std::fmt;
use std::path::Path;

/// What kind of fault ended a command. Each kind has one documented exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A fault inside mtv-bench itself: please report it. Exit code 1.
    Internal,
    /// The command line, a study file, a profile or a card is wrong. Exit code 2.
    Usage,
    /// Scores regressed beyond the band (`check`). Exit code 3.
    Regression,
    /// Weights or data are missing and may not or could not be fetched. Exit code 4.
    Missing,
    /// A file is there but unreadable, corrupt or not what its card says. Exit code 5.
    Corrupt,
    /// The machine can't: disk full, folder read-only, too little memory, no such device. Exit code 6.
    Resource,
    /// Training produced NaN or infinity and was stopped. Exit code 7.
    Diverged,
    /// Another process works on the same run. Exit code 8.
    Busy,
    /// Two things were given that can't be compared (`check`, `score`). Exit code 9.
    Incomparable,
    /// A command of a study (an external method) failed. Exit code 10.
    External,
}

impl Kind {
    /// Every kind, for the documentation and its test.
    pub const ALL: [Kind; 10] = [
        Kind::Internal,
        Kind::Usage,
        Kind::Regression,
        Kind::Missing,
        Kind::Corrupt,
        Kind::Resource,
        Kind::Diverged,
        Kind::Busy,
        Kind::Incomparable,
        Kind::External,
    ];

    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Internal => 1,
            Kind::Usage => 2,
            Kind::Regression => 3,
            Kind::Missing => 4,
            Kind::Corrupt => 5,
            Kind::Resource => 6,
            Kind::Diverged => 7,
            Kind::Busy => 8,
            Kind::Incomparable => 9,
            Kind::External => 10,
        }
    }
}

/// An error that a user reads. The message is one line (a caret excerpt may follow) and says what, where and what to do.
#[derive(Debug)]
pub struct Error {
    pub kind: Kind,
    pub message: String,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Error { kind, message: message.into() }
    }

    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    pub fn corrupt(message: impl Into<String>) -> Self {
        Self::new(Kind::Corrupt, message)
    }

    pub fn missing(message: impl Into<String>) -> Self {
        Self::new(Kind::Missing, message)
    }

    pub fn resource(message: impl Into<String>) -> Self {
        Self::new(Kind::Resource, message)
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Kind::Internal, message)
    }

    /// An error of the file system, with the path and, for the common causes, what to do.
    pub fn io(path: &Path, doing: &str, error: std::io::Error) -> Self {
        use std::io::ErrorKind as K;
        let hint = match error.kind() {
            K::StorageFull | K::QuotaExceeded => "; the disk is full: free some space or choose another folder with --out",
            K::ReadOnlyFilesystem | K::PermissionDenied => "; choose a folder that you may write with --out",
            _ => "",
        };
        Self::new(Kind::Resource, format!("{}: {doing}: {error}{hint}", path.display()))
    }

    /// Puts `context` (a place, a stage, a file) before the message.
    pub fn at(mut self, context: impl fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<candle_core::Error> for Error {
    /// candle prints a backtrace after the first line when RUST_BACKTRACE is set; the first line is the message.
    fn from(error: candle_core::Error) -> Self {
        let text = error.to_string();
        Self::new(Kind::Internal, text.lines().next().unwrap_or("tensor error").to_string())
    }
}
