//! Chat templates: what was said, as the text that a model was trained to answer.
//!
//! Templates are Jinja as `transformers` renders them (`apply_chat_template`): blocks trimmed, the
//! functions `raise_exception` and `strftime_now`, JSON as Python writes it. This is the only place
//! that knows the `minijinja` crate.
//!
//! Not for: reading files, or choosing a template. A template is a stranger's program: its length,
//! its steps and the bytes it makes are bounded, and it reaches nothing but what it is given.

use std::collections::BTreeMap;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{Environment, Error, ErrorKind, Value};
use serde::{Deserialize, Serialize};

/// Most bytes of a template: four times the longest seen in use.
pub const TEMPLATE_BYTES_MAX: usize = 256 << 10;
/// Most bytes of a rendered chat.
pub const CHAT_BYTES_MAX: usize = 4 << 20;

/// Steps of a rendering; 64 bytes made count as one.
const FUEL: u64 = 1 << 20;
/// Calls inside calls.
const DEPTH_MAX: usize = 64;
const NAME: &str = "chat_template";

/// What was said by one side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Who: templates know `system`, `user` and `assistant`.
    pub role: String,
    /// What.
    pub content: String,
}

impl Message {
    /// What `role` said.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// Why a chat was not rendered. The template or the messages are at fault.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChatError {
    /// The template is too long.
    #[error("expected a chat template of at most {TEMPLATE_BYTES_MAX} bytes, found {found}")]
    TemplateLength {
        /// Its bytes.
        found: usize,
    },
    /// The template is not Jinja as it is understood here.
    #[error("the chat template is wrong in line {line}: {reason}")]
    Syntax {
        /// Where.
        line: usize,
        /// What the parser said.
        reason: String,
    },
    /// The template itself refuses these messages.
    #[error("the chat template refuses: {reason}")]
    Refused {
        /// What it says.
        reason: String,
    },
    /// The template did something that cannot be done.
    #[error("the chat template fails in line {line}: {reason}")]
    Failed {
        /// Where.
        line: usize,
        /// What.
        reason: String,
    },
    /// The template did not come to an end.
    #[error(
        "the chat template does more than {FUEL} steps: it does not end, or the chat is too long"
    )]
    Endless,
    /// The chat is too long.
    #[error(
        "expected a rendered chat of at most {CHAT_BYTES_MAX} bytes, found {found}: shorten it"
    )]
    ChatLength {
        /// Its bytes.
        found: usize,
    },
}

/// A chat template that was understood.
#[derive(Debug)]
pub struct Template {
    environment: Environment<'static>,
    special: BTreeMap<String, String>,
}

/// What `raise_exception` said.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

impl Template {
    /// Reads a template; `special` are the texts of special tokens by name, such as `bos_token`.
    ///
    /// # Errors
    /// A template that is too long or not understood.
    pub fn new(source: &str, special: BTreeMap<String, String>) -> Result<Self, ChatError> {
        if source.len() > TEMPLATE_BYTES_MAX {
            return Err(ChatError::TemplateLength { found: source.len() });
        }
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.expect("the delimiters are Jinja's own"));
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_recursion_limit(DEPTH_MAX);
        environment.set_fuel(Some(FUEL));
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", to_json);
        environment.add_function("raise_exception", |reason: String| -> Result<Value, Error> {
            let error = Error::new(ErrorKind::InvalidOperation, "raise_exception was called");
            Err(error.with_source(Raised(reason)))
        });
        environment.add_template_owned(NAME, without_marks(source)).map_err(|error| of(&error))?;
        Ok(Self { environment, special })
    }

    /// The text of a chat, up to where the model answers. `now` is seconds since 1970 in UTC, for
    /// templates that say the date.
    ///
    /// # Errors
    /// A template that refuses, fails or does not end.
    pub fn render(&self, messages: &[Message], now: u64) -> Result<String, ChatError> {
        let mut given: BTreeMap<&str, Value> = BTreeMap::new();
        for (name, text) in &self.special {
            given.insert(name, Value::from(text.as_str()));
        }
        let message = |m: &Message| {
            Value::from_pairs([("role", m.role.as_str()), ("content", m.content.as_str())])
        };
        given.insert("messages", messages.iter().map(message).collect());
        given.insert("add_generation_prompt", Value::from(true));
        given.insert("tools", Value::from(()));
        given.insert("documents", Value::from(()));
        let date = move |format: String| calendar(&format, now);
        given.insert("strftime_now", Value::from_function(date));
        let template = self.environment.get_template(NAME).map_err(|error| of(&error))?;
        let text = template.render(given).map_err(|error| of(&error))?;
        let found = text.len();
        if found > CHAT_BYTES_MAX { Err(ChatError::ChatLength { found }) } else { Ok(text) }
    }
}

/// Our error of minijinja's.
fn of(error: &Error) -> ChatError {
    let raised =
        std::error::Error::source(error).and_then(|source| source.downcast_ref::<Raised>());
    if let Some(raised) = raised {
        return ChatError::Refused { reason: raised.0.clone() };
    }
    let line = error.line().unwrap_or(0);
    let reason = match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    match error.kind() {
        ErrorKind::OutOfFuel => ChatError::Endless,
        ErrorKind::SyntaxError => ChatError::Syntax { line, reason },
        _ => ChatError::Failed { line, reason },
    }
}

/// The template without the marks of what the assistant says: they are for training, and no Jinja.
/// Each becomes a block that changes nothing, so that white space is trimmed around it as before.
fn without_marks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start + 2);
        out.push_str(before);
        let Some(end) = tag.find("%}") else {
            rest = tag;
            break;
        };
        let inner = &tag[..end];
        let word = inner.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        match word {
            "generation" => out.push_str(&inner.replace(word, "if true")),
            "endgeneration" => out.push_str(&inner.replace(word, "endif")),
            _ => out.push_str(inner),
        }
        rest = &tag[end..];
    }
    out.push_str(rest);
    out
}

/// JSON as Python's `json.dumps` writes it, without escapes for HTML.
fn to_json(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    // Characters beyond ASCII always stay as they are.
    let _: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let mut out = Vec::new();
    let written = match indent {
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, OneLine)),
        Some(width) => {
            let indent = " ".repeat(width.min(16));
            let pretty = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, pretty))
        }
    };
    let failed = |reason: String| Error::new(ErrorKind::BadSerialization, reason);
    written.map_err(|error| failed(error.to_string()))?;
    String::from_utf8(out).map(Value::from).map_err(|error| failed(error.to_string()))
}

/// A space after every comma and colon.
struct OneLine;

impl serde_json::ser::Formatter for OneLine {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
    ) -> std::io::Result<()> {
        out.write_all(b": ")
    }
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] =
    ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

/// `now` as `strftime` would write it, in English and UTC.
fn calendar(format: &str, now: u64) -> Result<String, Error> {
    let (days, seconds) = (now / 86_400, now % 86_400);
    let (year, month, day) = date(days);
    let mut out = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            out.push(character);
            continue;
        }
        let mut directive = characters.next();
        let bare = directive == Some('-');
        if bare {
            directive = characters.next();
        }
        let two = |value: u64| if bare { format!("{value}") } else { format!("{value:02}") };
        out += &match directive {
            Some('Y') => year.to_string(),
            Some('y') => two(year % 100),
            Some('m') => two(month),
            Some('d') => two(day),
            Some('H') => two(seconds / 3600),
            Some('I') => two((seconds / 3600 + 11) % 12 + 1),
            Some('M') => two(seconds / 60 % 60),
            Some('S') => two(seconds % 60),
            Some('p') => (if seconds < 43_200 { "AM" } else { "PM" }).to_owned(),
            Some('B') => MONTHS[month as usize - 1].to_owned(),
            Some('b') => MONTHS[month as usize - 1][..3].to_owned(),
            Some('A') => DAYS[(days % 7) as usize].to_owned(),
            Some('a') => DAYS[(days % 7) as usize][..3].to_owned(),
            Some('%') => "%".to_owned(),
            other => {
                let reason = format!("strftime_now does not know %{}", other.unwrap_or(' '));
                return Err(Error::new(ErrorKind::InvalidOperation, reason));
            }
        };
    }
    Ok(out)
}

/// Year, month and day of the days since 1970, by walking through years and months.
fn date(mut days: u64) -> (u64, u64, u64) {
    // 400 years always have as many days.
    let mut year = 1970 + days / 146_097 * 400;
    days %= 146_097;
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    (year, month as u64 + 1, days + 1)
}
