//! How a command ends: one class per exit code (`docs/exit-codes.md`), and the one place that
//! decides which class an error is of.

use crate::language::Language;
use serde::Serialize;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use suanli_base::Fault;
use suanli_host::control::{ControlError, Refusal, RefusalClass};
use suanli_identity::GrantError;
use suanli_store::checkpoint::CheckpointError;
use suanli_store::data::DataError;

/// A class of endings. The numbers never change their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub(crate) enum Class {
    /// A defect of ours, or an ending without a class.
    Unknown = 1,
    /// Wrong flags or settings.
    Usage = 2,
    /// The data or the job file.
    Input = 3,
    /// Ticket, identity, permission.
    Permission = 4,
    /// The other side cannot be reached.
    Network = 5,
    /// Ports, disks and folders of this machine.
    Environment = 6,
    /// What lies on disk is not what was written.
    Corrupt = 7,
    /// Somebody pressed Ctrl-C.
    Interrupted = 130,
}

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Whose {
    /// What was typed or handed over.
    Yours,
    /// The machine this runs on.
    ThisMachine,
    /// The node at the other end.
    OtherSide,
    /// Loss, time-outs: nobody's.
    Nobody,
    /// This program's.
    Ours,
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Yours => "what was typed or handed over",
            Self::ThisMachine => "this machine",
            Self::OtherSide => "the other side",
            Self::Nobody => "nobody",
            Self::Ours => "this program",
        })
    }
}

/// A command did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The class, which is the exit code.
    pub(crate) class: Class,
    /// What was expected and what was found.
    pub(crate) what: String,
    /// Whose fault it is.
    pub(crate) whose: Whose,
    /// What to do next; may be empty.
    pub(crate) next: String,
}

impl Failure {
    /// Wrong flags.
    pub(crate) fn usage(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { class: Class::Usage, what: what.into(), whose: Whose::Yours, next: next.into() }
    }

    /// Wrong data.
    pub(crate) fn input(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { class: Class::Input, what: what.into(), whose: Whose::Yours, next: next.into() }
    }

    /// A defect of ours.
    pub(crate) fn ours(what: impl Into<String>) -> Self {
        Self {
            class: Class::Unknown,
            what: what.into(),
            whose: Whose::Ours,
            next: "report it with this message".into(),
        }
    }

    /// Ctrl-C.
    pub(crate) fn interrupted() -> Self {
        Self {
            class: Class::Interrupted,
            what: "interrupted".into(),
            whose: Whose::Yours,
            next: "run the command again to go on".into(),
        }
    }

    /// A system call on a path failed.
    pub(crate) fn io(attempt: &str, path: &Path, error: &io::Error) -> Self {
        let (class, whose, next) = of_io(error.kind());
        let what = format!("cannot {attempt} {}: {error}", path.display());
        Self { class, what, whose, next: next.into() }
    }

    /// Writes it to standard error, as people or programs read it.
    /// What was found stays in English: it is searched for word by word.
    pub(crate) fn report(&self, json: bool, language: Language) {
        if json {
            let object = serde_json::json!({
                "code": self.class as u8,
                "class": self.class,
                "error": self.what,
                "fault": self.whose,
                "advice": self.next,
            });
            eprintln!("{object}");
        } else if self.class == Class::Interrupted {
            eprintln!("{}", if language == Language::Chinese { "已中断" } else { &self.what });
        } else if language == Language::Chinese {
            eprintln!("{}", self.in_chinese());
        } else {
            eprintln!("error: {self}");
        }
    }

    fn in_chinese(&self) -> String {
        let class = match self.class {
            Class::Unknown => "程序自身的缺陷",
            Class::Usage => "用法或设置有误",
            Class::Input => "数据或任务文件有误",
            Class::Permission => "入场券、身份或权限不符",
            Class::Network => "连接不到对方",
            Class::Environment => "本机的端口、磁盘或文件夹有问题",
            Class::Corrupt => "磁盘上的内容已损坏",
            Class::Interrupted => "已中断",
        };
        let whose = match self.whose {
            Whose::Yours => "所输入或交来的内容",
            Whose::ThisMachine => "这台机器",
            Whose::OtherSide => "对方",
            Whose::Nobody => "无人",
            Whose::Ours => "本程序",
        };
        let mut text = format!("错误：{class}。\n  详情：{}\n  起因：{whose}", self.what);
        if !self.next.is_empty() {
            text += "\n  下一步：";
            text += &self.next;
        }
        text
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n  fault: {}", self.what, self.whose)?;
        if !self.next.is_empty() {
            write!(f, "\n  next:  {}", self.next)?;
        }
        Ok(())
    }
}

/// Attaches a path to a system's error.
pub(crate) trait At<T> {
    /// Says what was tried on which path.
    fn at(self, attempt: &str, path: impl Into<PathBuf>) -> Result<T, Failure>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, attempt: &str, path: impl Into<PathBuf>) -> Result<T, Failure> {
        self.map_err(|error| Failure::io(attempt, &path.into(), &error))
    }
}

fn of_io(kind: io::ErrorKind) -> (Class, Whose, &'static str) {
    use io::ErrorKind as K;
    match kind {
        K::NotFound => (Class::Input, Whose::Yours, "check the path"),
        K::IsADirectory | K::NotADirectory | K::InvalidData | K::UnexpectedEof => {
            (Class::Input, Whose::Yours, "check what lies there")
        }
        K::PermissionDenied => (
            Class::Environment,
            Whose::ThisMachine,
            "give yourself the right to it, or choose another place",
        ),
        K::AddrInUse => (
            Class::Environment,
            Whose::ThisMachine,
            "another program has this port: choose another with --listen, or port 0 for any",
        ),
        K::AddrNotAvailable => {
            (Class::Environment, Whose::ThisMachine, "choose an address of this machine")
        }
        K::StorageFull | K::QuotaExceeded | K::FileTooLarge => {
            (Class::Environment, Whose::ThisMachine, "free some space, or choose another place")
        }
        K::ConnectionRefused
        | K::ConnectionReset
        | K::ConnectionAborted
        | K::HostUnreachable
        | K::NetworkUnreachable
        | K::NetworkDown
        | K::TimedOut
        | K::BrokenPipe => {
            (Class::Network, Whose::Nobody, "check that the other side runs, then try again")
        }
        K::Interrupted => (Class::Interrupted, Whose::Yours, "run the command again"),
        _ => (Class::Environment, Whose::ThisMachine, ""),
    }
}

impl From<GrantError> for Failure {
    fn from(error: GrantError) -> Self {
        Self {
            class: Class::Permission,
            what: error.to_string(),
            whose: Whose::Yours,
            next: match error {
                // These say it themselves.
                GrantError::NotATicket { .. }
                | GrantError::Typo { .. }
                | GrantError::Expired { .. }
                | GrantError::WrongRole { .. } => String::new(),
                _ => "ask the city's operator for a new ticket".into(),
            },
        }
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        let what = error.to_string();
        let (class, whose, next) = match error {
            ControlError::Refused(refusal) => {
                let (class, whose) = match refusal.class {
                    RefusalClass::Usage => (Class::Usage, Whose::Yours),
                    RefusalClass::Input => (Class::Input, Whose::Yours),
                    RefusalClass::Permission => (Class::Permission, Whose::Yours),
                    RefusalClass::Network => (Class::Network, Whose::Nobody),
                    RefusalClass::Environment => (Class::Environment, Whose::ThisMachine),
                    RefusalClass::Corrupt => (Class::Corrupt, Whose::ThisMachine),
                    _ => (Class::Unknown, Whose::Ours),
                };
                (class, whose, refusal.next)
            }
            ControlError::NotRunning { .. } => (
                Class::Environment,
                Whose::Yours,
                "start it (suanli city serve, suanli join), or name its folder with --dir".into(),
            ),
            ControlError::AlreadyRunning { .. } => (
                Class::Environment,
                Whose::Yours,
                "stop the other one, or name another folder with --dir".into(),
            ),
            ControlError::WrongKind { .. } => {
                (Class::Usage, Whose::Yours, "name the other folder with --dir".into())
            }
            ControlError::Io { source, .. } => {
                let (class, whose, next) = of_io(source.kind());
                (class, whose, next.to_owned())
            }
            ControlError::Version { .. } => (
                Class::Environment,
                Whose::Yours,
                "restart the running process with this version of suanli".into(),
            ),
            ControlError::Closed => {
                (Class::Environment, Whose::Nobody, "look whether it still runs".into())
            }
            ControlError::TimedOut { .. } => {
                (Class::Environment, Whose::Nobody, "try again; if it stays, restart it".into())
            }
            _ => (Class::Unknown, Whose::Ours, "report it with this message".into()),
        };
        Self { class, what, whose, next }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        ControlError::Refused(refusal).into()
    }
}

impl From<DataError> for Failure {
    fn from(error: DataError) -> Self {
        let what = error.to_string();
        match error {
            DataError::Cancelled => Self::interrupted(),
            DataError::Io { source, .. } => {
                let (class, whose, next) = of_io(source.kind());
                Self { class, what, whose, next: next.into() }
            }
            DataError::Lock(_) | DataError::Damaged { .. } => Self {
                class: Class::Environment,
                what,
                whose: Whose::ThisMachine,
                next: String::new(),
            },
            // The rest say themselves what to do.
            _ => Self::input(what, ""),
        }
    }
}

impl From<CheckpointError> for Failure {
    fn from(error: CheckpointError) -> Self {
        match error {
            CheckpointError::Io { doing, path, source } => Self::io(doing, &path, &source),
            // The rest say themselves what to do.
            other => Self::input(other.to_string(), ""),
        }
    }
}

/// Errors that carry their cause along: the first cause with a class of its own decides.
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        let what = format!("{error:#}");
        for cause in error.chain() {
            if let Some(failure) = cause.downcast_ref::<Failed>() {
                return Self { what, ..failure.0.clone() };
            }
            if let Some(grant) = cause.downcast_ref::<GrantError>() {
                return Self { what, ..grant.clone().into() };
            }
            if let Some(io) = cause.downcast_ref::<io::Error>() {
                let (class, whose, next) = of_io(io.kind());
                return Self { class, what, whose, next: next.into() };
            }
        }
        Self { what, ..Self::ours("") }
    }
}

/// A [`Failure`] as an error, to travel inside another.
#[derive(Debug)]
pub(crate) struct Failed(pub(crate) Failure);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.what)
    }
}

impl std::error::Error for Failed {}

/// Whose fault, as lower layers say it.
impl From<Fault> for Whose {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Ours => Self::Yours,
            Fault::Peer => Self::OtherSide,
            Fault::Weather => Self::Nobody,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_error_has_its_code() {
        let code = |failure: Failure| failure.class as u8;
        assert_eq!(code(GrantError::Typo { chars: 9 }.into()), 4);
        assert_eq!(code(ControlError::NotRunning { folder: "x".into() }.into()), 6);
        let refusal = Refusal::new(RefusalClass::Corrupt, "a flipped bit", "restore a copy");
        assert_eq!(code(ControlError::Refused(refusal).into()), 7);
        for (kind, expected) in [
            (io::ErrorKind::AddrInUse, 6),
            (io::ErrorKind::StorageFull, 6),
            (io::ErrorKind::ConnectionRefused, 5),
            (io::ErrorKind::NotFound, 3),
        ] {
            let error = anyhow::Error::new(io::Error::from(kind)).context("while doing something");
            assert_eq!(code(error.into()), expected, "{kind:?}");
        }
        assert_eq!(code(anyhow::anyhow!("who knows").into()), 1);
    }

    #[test]
    fn in_chinese_the_class_comes_first_and_the_detail_stays_as_it_is() {
        let text = Failure::usage("expected a, found b", "type a").in_chinese();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "错误：用法或设置有误。");
        assert_eq!(lines[1], "  详情：expected a, found b");
        assert_eq!(lines[3], "  下一步：type a");
    }

    #[test]
    fn a_message_says_what_whose_and_what_next() {
        let text = Failure::usage("expected a, found b", "type a").to_string();
        assert_eq!(
            text,
            "expected a, found b\n  fault: what was typed or handed over\n  next:  type a"
        );
    }
}
