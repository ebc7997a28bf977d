//! What may be typed. Settings that the configuration file or the environment may give are
//! options here, so that "not said" stays visible until `settings` puts them together.

use crate::grant_settings::{self, Grant, Issue};
use crate::language::Language;
use crate::link_settings;
use crate::upload_settings::{UploadAt, UploadRate, parse_upload, parse_upload_at};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::net::SocketAddr;
use std::path::PathBuf;
use suanli_identity::{Prefix, Role};
use suanli_link::dial::Prefer;

/// Suanli (算粒): households train a model together.
#[derive(Debug, Parser)]
#[command(
    name = "suanli",
    version,
    about = "Suanli (算粒): many small computers train one model together",
    long_about = "Suanli (算粒): many small computers train one model together.\n\
        算粒：许多小计算机一起训练一个模型。\n\n\
        Begin with `suanli demo`: a city and four families on this machine, in minutes.\n\
        从 `suanli demo` 开始：几分钟内，在本机看到一座城市和四个家庭。",
    after_help = "Exit codes: 0 done, 1 a defect of ours, 2 usage, 3 data or job file, 4 ticket or \
        permission, 5 network, 6 this machine (port, disk, folder in use), 7 corrupt state, 130 \
        interrupted.\nSettings: flags, then SUANLI_* variables, then the configuration file.",
    arg_required_else_help = true,
    propagate_version = true,
    max_term_width = 100
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command understands.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Print JSON, for programs
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Language of messages [default: from LANG]
    #[arg(long, global = true, value_enum, env = "SUANLI_LANG", hide_env = true)]
    pub(crate) lang: Option<Language>,
    /// Say only what was asked for
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Say more; twice: everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Configuration file [default: $XDG_CONFIG_HOME/suanli/config.toml]
    #[arg(long, global = true, value_name = "FILE", env = "SUANLI_CONFIG", hide_env = true)]
    pub(crate) config: Option<PathBuf>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Watch a city and four families on this machine train a model, in minutes
    Demo(Demo),
    /// Found and run a city
    #[command(subcommand)]
    City(City),
    /// Lend this computer to a city
    Join(Join),
    /// Hand a job to a city
    Train(Train),
    /// List the jobs of a city or family on this machine
    Jobs(Folder),
    /// Watch a city or family on this machine at work
    Watch(Watch),
    /// Show how a city or family on this machine does
    Status(Folder),
    /// Stop lending at once, until `resume`
    Pause(Folder),
    /// Lend again after `pause`
    Resume(Folder),
    /// Change the share of CPU time that a running family lends
    Share(Share),
    /// Leave the city
    Leave(Folder),
    /// Write a job's parameters as a Hugging Face folder
    Export(Export),
    /// Continue a text, or answer in a chat, with a checkpoint
    Generate(Generate),
    /// Write a checkpoint with its adapters (LoRA) merged in
    Merge(Merge),
    /// Show grants to regions, and hand parts of them on
    #[command(subcommand)]
    Grant(Grant),
    /// Look into a city's record of rounds
    #[command(subcommand)]
    Log(Log),
    /// Look at this machine: instructions, speed, memory, folders, and whether its bits are right
    Doctor(Doctor),
    /// Run a relay for members that cannot be met straight; a city names it with --via
    Relay(Relay),
    /// Run a command behind a home's link that is emulated on this machine
    EmulateLink(EmulateLink),
    /// Print shell completions
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
    /// Run a city and its families under a virtual clock, network and disk; for developers
    #[command(hide = true)]
    Sim(Sim),
    /// The process that runs the engine; started by `join`, not by people
    #[command(hide = true)]
    Worker,
}

/// `suanli sim`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Sim {
    /// Run this seed, or begin with it
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(crate) seed: u64,
    /// How many seeds
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seeds: u64,
    /// Families of the city
    #[arg(long, value_name = "N", default_value_t = 20)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=200))]
    pub(crate) families: u16,
    /// A defect to plant
    #[arg(long, value_name = "NAME")]
    pub(crate) bug: Option<suanli_sim::Bug>,
}

/// `suanli emulate-link`.
#[derive(Clone, Debug, Args)]
pub(crate) struct EmulateLink {
    /// A link by name: fibre-100, fibre-1000, cable, adsl, mobile
    #[arg(long, value_name = "NAME", value_parser = link_settings::parse_preset)]
    pub(crate) preset: Option<&'static suanli_link_model::Preset>,
    /// Bits a second, such as 100mbit; both ways but for --up
    #[arg(long, value_name = "RATE", value_parser = link_settings::parse_rate)]
    pub(crate) rate: Option<u64>,
    /// The rate from the home, such as 30mbit
    #[arg(long, value_name = "RATE", value_parser = link_settings::parse_rate)]
    pub(crate) up: Option<u64>,
    /// Delay each way, such as 15ms [default: the preset's, or 15ms]
    #[arg(long, value_name = "TIME", value_parser = link_settings::parse_span)]
    pub(crate) delay: Option<suanli_link_model::Span>,
    /// What may come on top of a packet's delay, such as 2ms
    #[arg(long, value_name = "TIME", value_parser = link_settings::parse_span)]
    pub(crate) jitter: Option<suanli_link_model::Span>,
    /// Packets that the line loses, such as 0.5%
    #[arg(long, value_name = "SHARE", value_parser = link_settings::parse_loss)]
    pub(crate) loss: Option<u32>,
    /// Size of each queue, such as 1bdp or 64kb [default: the preset's, or 1bdp]
    #[arg(long, value_name = "SIZE", value_parser = link_settings::parse_queue)]
    pub(crate) queue: Option<link_settings::Queue>,
    /// Let jitter change the order of packets
    #[arg(long)]
    pub(crate) reorder: bool,
    /// Seed of loss and jitter
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// A shell command for the far side; it ends with the command
    #[arg(long, value_name = "CMD", allow_hyphen_values = true)]
    pub(crate) far: Option<String>,
    /// The command, run in the home; the far side is 10.77.0.2
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(crate) command: Vec<std::ffi::OsString>,
}

/// `suanli demo`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Demo {
    /// Text to learn from: a file or a folder [default: Rust sources that cargo left here]
    #[arg(long, value_name = "PATH")]
    pub(crate) data: Option<PathBuf>,
    /// How long to train, about [default: 4]
    #[arg(long, value_name = "N", conflicts_with = "rounds", env = "SUANLI_DEMO_MINUTES")]
    #[arg(value_parser = parse_minutes, hide_env = true)]
    pub(crate) minutes: Option<f64>,
    /// How many rounds to train, instead of minutes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=100_000))]
    pub(crate) rounds: Option<u32>,
    /// How many families take part [default: 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=32))]
    #[arg(env = "SUANLI_DEMO_FAMILIES", hide_env = true)]
    pub(crate) families: Option<u8>,
    /// Throw an earlier demo in the folder away and begin anew
    #[arg(long, conflicts_with = "resume")]
    pub(crate) fresh: bool,
    /// Go on with the earlier demo in the folder
    #[arg(long)]
    pub(crate) resume: bool,
    /// Kill nobody and let nobody join on the way
    #[arg(long)]
    pub(crate) no_chaos: bool,
    /// Where the demo keeps everything [default: suanli-demo]
    #[arg(long, value_name = "DIR", env = "SUANLI_DEMO_DIR", hide_env = true)]
    pub(crate) dir: Option<PathBuf>,
    /// Seed of the model and of the order of the data [default: 1]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
}

/// `suanli city`.
#[derive(Debug, Subcommand)]
pub(crate) enum City {
    /// Make a new city: its key and its empty record
    Init {
        #[command(flatten)]
        folder: Folder,
        /// Its name, for people [default: city]
        #[arg(long, env = "SUANLI_CITY_NAME", hide_env = true)]
        name: Option<String>,
    },
    /// Run a city; prints a ticket with which families join
    Serve(Serve),
    /// Print a ticket of the running city
    Ticket {
        #[command(flatten)]
        folder: Folder,
        /// What its bearer may do
        #[arg(long, value_enum, default_value_t = TicketRole::Join)]
        role: TicketRole,
        /// For how long: 90s, 30m, 24h, 7d
        #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_seconds)]
        expires: u64,
        /// How many nodes may use it
        #[arg(long, value_name = "N", default_value_t = 16)]
        #[arg(value_parser = clap::value_parser!(u32).range(1..=100_000))]
        uses: u32,
    },
    /// Let one node read some regions of the running city, as a guest; prints a grant
    Grant {
        #[command(flatten)]
        folder: Folder,
        #[command(flatten)]
        wish: Issue,
    },
    /// End every grant to some regions that was given so far
    Revoke {
        #[command(flatten)]
        folder: Folder,
        /// Which regions: job/ID/, job/ID/theta, or / for all
        #[arg(value_name = "PREFIX", value_parser = grant_settings::parse_prefix)]
        regions: Prefix,
    },
    /// Stop the running city; the next `serve` goes on from there
    Stop(Folder),
}

/// What a ticket's bearer may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TicketRole {
    /// Lend a computer
    Join,
    /// Hand in jobs and export them
    Train,
    /// All that the operator may do from afar
    Operate,
    /// Look on
    Watch,
}

impl From<TicketRole> for Role {
    fn from(role: TicketRole) -> Self {
        match role {
            TicketRole::Join => Self::Join,
            TicketRole::Train => Self::Train,
            TicketRole::Operate => Self::Operate,
            TicketRole::Watch => Self::Watch,
        }
    }
}

/// A node's data folder.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Folder {
    /// Data folder [default: under $XDG_DATA_HOME/suanli]
    #[arg(long, value_name = "DIR", env = "SUANLI_DIR", hide_env = true)]
    pub(crate) dir: Option<PathBuf>,
}

/// `suanli city serve`.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    pub(crate) folder: Folder,
    /// Address and port to listen on [default: 127.0.0.1, the port of the last time]
    #[arg(long, value_name = "ADDRESS:PORT", env = "SUANLI_LISTEN", hide_env = true)]
    pub(crate) listen: Option<SocketAddr>,
    /// Address to put into tickets, when families reach this machine by another one
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) advertise: Vec<String>,
    /// Offer TCP only, not QUIC on the same port of UDP
    #[arg(long, conflicts_with_all = ["relay", "via"])]
    pub(crate) no_quic: bool,
    /// Run a relay too, on this address and port, for members that cannot be met straight
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with = "via")]
    pub(crate) relay: Option<SocketAddr>,
    /// Meet members at a relay that runs elsewhere, as `suanli relay` printed it
    #[arg(long, value_name = "relay:URL#PASS", env = "SUANLI_RELAY", hide_env_values = true)]
    pub(crate) via: Option<String>,
    /// Whether this network finds the city by multicast DNS [default: unless it listens on loopback]
    #[arg(long, value_name = "yes|no", value_parser = parse_yes)]
    pub(crate) lan: Option<bool>,
    #[command(flatten)]
    pub(crate) upload: Upload,
    #[command(flatten)]
    pub(crate) parent: Parent,
}

/// How much a node may send.
#[derive(Clone, Debug, Args)]
pub(crate) struct Upload {
    /// Rate of upload at most, as 5mbit [default: no limit]
    #[arg(long, value_name = "RATE", env = "SUANLI_UPLOAD", hide_env = true)]
    #[arg(value_parser = parse_upload)]
    pub(crate) upload: Option<UploadRate>,
    /// Another rate for a part of the day, as 18:00-23:00=1mbit, or 0bit for nothing; once for each
    #[arg(long, value_name = "FROM-TO=RATE", env = "SUANLI_UPLOAD_AT", hide_env = true)]
    #[arg(value_delimiter = ',', value_parser = parse_upload_at)]
    pub(crate) upload_at: Vec<UploadAt>,
    /// MiB to send a day, at most [default: no limit]
    #[arg(long, value_name = "MiB", env = "SUANLI_UPLOAD_PER_DAY", hide_env = true)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
    pub(crate) upload_per_day: Option<u64>,
}

/// For programs that start nodes.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Parent {
    /// Stop when standard input ends
    #[arg(long, hide = true)]
    pub(crate) stop_on_eof: bool,
}

/// `suanli join`.
#[derive(Debug, Args)]
pub(crate) struct Join {
    /// The ticket, or a file that holds it; not needed to come back to the same city
    #[arg(value_name = "TICKET", env = "SUANLI_TICKET", hide_env_values = true)]
    pub(crate) ticket: Option<String>,
    #[command(flatten)]
    pub(crate) folder: Folder,
    /// Name of this family, for people
    #[arg(long, env = "SUANLI_NAME", hide_env = true)]
    pub(crate) name: Option<String>,
    /// Share of the CPU time to lend, in percent [default: 100]
    #[arg(long, value_name = "PERCENT", env = "SUANLI_SHARE", hide_env = true)]
    #[arg(value_parser = clap::value_parser!(u8).range(1..=100))]
    pub(crate) share: Option<u8>,
    /// Threads to use [default: one for each core]
    #[arg(long, value_name = "N", env = "SUANLI_THREADS", hide_env = true)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) threads: Option<u32>,
    #[command(flatten)]
    pub(crate) upload: Upload,
    /// Kind of link to the city [default: auto]
    #[arg(long, value_enum, env = "SUANLI_LINK", hide_env = true)]
    pub(crate) link: Option<LinkChoice>,
    #[command(flatten)]
    pub(crate) parent: Parent,
    /// Train with a program of your own; takes the rest of the line, as in: python train.py
    #[arg(long, value_name = "COMMAND", num_args = 1.., allow_hyphen_values = true)]
    pub(crate) trainer: Vec<std::ffi::OsString>,
}

/// Which kind of link is tried first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LinkChoice {
    /// What suits this machine and the city's address; the other when that does not answer
    #[default]
    Auto,
    /// TCP with TLS only
    Tcp,
    /// QUIC only
    Quic,
}

impl From<LinkChoice> for Prefer {
    fn from(choice: LinkChoice) -> Self {
        match choice {
            LinkChoice::Auto => Self::Auto,
            LinkChoice::Tcp => Self::Tcp,
            LinkChoice::Quic => Self::Quic,
        }
    }
}

/// `suanli doctor`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Doctor {
    /// Look at the network instead: every way to a city, the link chosen, its rate, and what is in the way
    #[arg(long)]
    pub(crate) network: bool,
    /// The ticket of a city, or a file that holds it [default: the city that this family joined]
    #[arg(value_name = "TICKET", requires = "network")]
    pub(crate) ticket: Option<String>,
    #[command(flatten)]
    pub(crate) folder: Folder,
}

/// `suanli relay`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Relay {
    /// Address and port to listen on
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:3340")]
    pub(crate) listen: SocketAddr,
    /// Host name or address under which others reach this machine [default: the one it listens on]
    #[arg(long, value_name = "HOST")]
    pub(crate) host: Option<String>,
    /// File of the key that the pass is made of; made when it is not there [default: under $XDG_DATA_HOME/suanli]
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) parent: Parent,
}

/// `suanli train`.
#[derive(Debug, Args)]
pub(crate) struct Train {
    /// The job file
    #[arg(value_name = "JOB.toml", required_unless_present = "example")]
    pub(crate) job: Option<PathBuf>,
    /// A ticket with the role "train", a file that holds it, or a city's data folder here
    #[arg(long, value_name = "TICKET|DIR", env = "SUANLI_CITY", hide_env_values = true)]
    pub(crate) city: Option<String>,
    /// Show memory, bytes and time, and start nothing
    #[arg(long)]
    pub(crate) plan: bool,
    /// Do not ask
    #[arg(long, short)]
    pub(crate) yes: bool,
    /// What people call the job [default: the job file's name]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Where prepared data are kept [default: $XDG_CACHE_HOME/suanli/prepared]
    #[arg(long, value_name = "DIR", env = "SUANLI_PREPARED", hide_env = true)]
    pub(crate) prepared: Option<PathBuf>,
    /// Print an example of a job file
    #[arg(long, conflicts_with_all = ["job", "plan", "yes"])]
    pub(crate) example: bool,
    /// For the plan: tokens a second of one replica [default: measured here]
    #[arg(long, value_name = "N", value_parser = parse_positive)]
    pub(crate) tokens_per_s: Option<f64>,
    /// For the plan: how many replicas are expected [default: the job's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) replicas: Option<u32>,
}

/// `suanli watch`.
#[derive(Debug, Args)]
pub(crate) struct Watch {
    #[command(flatten)]
    pub(crate) folder: Folder,
    /// Milliseconds between two looks
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    #[arg(value_parser = clap::value_parser!(u64).range(50..=3_600_000))]
    pub(crate) interval: u64,
}

/// `suanli share`.
#[derive(Debug, Args)]
pub(crate) struct Share {
    /// Share of the CPU time, in percent
    #[arg(value_parser = clap::value_parser!(u8).range(1..=100))]
    pub(crate) percent: u8,
    #[command(flatten)]
    pub(crate) folder: Folder,
}

/// `suanli export`.
#[derive(Debug, Args)]
pub(crate) struct Export {
    /// The job: its name, or its id or the beginning of it [default: the only one]
    pub(crate) job: Option<String>,
    /// Where to write; must not exist or be empty
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Only the adapters of a job that trains such, in PEFT layout; else they are merged
    #[arg(long)]
    pub(crate) adapters: bool,
    #[command(flatten)]
    pub(crate) folder: Folder,
}

/// `suanli merge`.
#[derive(Debug, Args)]
pub(crate) struct Merge {
    /// Folder of a checkpoint in Hugging Face layout
    #[arg(long, value_name = "DIR")]
    pub(crate) checkpoint: PathBuf,
    /// Folder of its adapters in PEFT layout
    #[arg(long, value_name = "DIR")]
    pub(crate) adapter: PathBuf,
    /// Where to write; must not exist or be empty
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}

/// `suanli generate`.
#[derive(Debug, Args)]
pub(crate) struct Generate {
    /// Folder of a checkpoint: an export, or any other of the Llama family
    #[arg(long, value_name = "DIR")]
    pub(crate) checkpoint: PathBuf,
    /// The text to continue, or what the user says in a chat; -: from standard input. A text that
    /// fills the model's context goes on from its second half; a chat ends there
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) prompt: String,
    /// Answer the prompt as the model's own chat template says
    #[arg(long)]
    pub(crate) chat: bool,
    /// What the system says before the user
    #[arg(long, value_name = "TEXT", requires = "chat", allow_hyphen_values = true)]
    pub(crate) system: Option<String>,
    /// End before this text; may be given several times
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) stop: Vec<String>,
    /// Tokens to add, at most
    #[arg(long, value_name = "N", default_value_t = 200)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) tokens: u32,
    /// 0: always the likeliest token; 1: as the model says
    #[arg(long, value_name = "T", default_value_t = 0.8, value_parser = parse_temperature)]
    pub(crate) temperature: f32,
    /// Choose among the likeliest tokens that together have this probability
    #[arg(long, value_name = "P", default_value_t = 0.95, value_parser = parse_share)]
    pub(crate) top_p: f32,
    /// Choose among this many of the likeliest tokens at most; 0: all
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) top_k: u32,
    /// Seed of the choice
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Folder of adapters in PEFT layout, to be merged in while it runs
    #[arg(long, value_name = "DIR")]
    pub(crate) adapter: Option<PathBuf>,
    /// Hold the matrices in bfloat16: half the memory, faster, other last digits
    #[arg(long)]
    pub(crate) bf16: bool,
    /// Threads to work with [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) threads: Option<u32>,
}

/// `suanli log`.
#[derive(Debug, Subcommand)]
pub(crate) enum Log {
    /// Check a city's record offline: chain, signatures, and every round in order
    Verify {
        /// The city's data folder, or a copy of it
        dir: PathBuf,
        /// The city's id, where its key is not in the folder
        #[arg(long, value_name = "ID")]
        city: Option<String>,
    },
}

/// Seconds from a number and a unit.
fn parse_yes(text: &str) -> Result<bool, String> {
    match text {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err(format!("expected yes or no, found {text:?}")),
    }
}

pub(crate) fn parse_seconds(text: &str) -> Result<u64, String> {
    let wrong = || format!("expected a time such as 90s, 30m, 24h or 7d, found {text:?}");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let factor = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let count: u64 = text[..text.len() - unit.len_utf8()].parse().map_err(|_| wrong())?;
    match count.checked_mul(factor) {
        Some(seconds) if (1..=3_153_600_000).contains(&seconds) => Ok(seconds),
        _ => Err(format!("expected a time from 1s to 36500d, found {text:?}")),
    }
}

fn parse_in(text: &str, range: std::ops::RangeInclusive<f64>, name: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if range.contains(&value) => Ok(value),
        _ => Err(format!("expected {name} from {} to {}", range.start(), range.end())),
    }
}

fn parse_minutes(text: &str) -> Result<f64, String> {
    parse_in(text, 0.1..=10_080.0, "minutes")
}

fn parse_positive(text: &str) -> Result<f64, String> {
    parse_in(text, 1e-3..=1e15, "a number")
}

fn parse_temperature(text: &str) -> Result<f32, String> {
    parse_in(text, 0.0..=10.0, "a temperature").map(|value| value as f32)
}

fn parse_share(text: &str) -> Result<f32, String> {
    parse_in(text, 0.01..=1.0, "a probability").map(|value| value as f32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_commands_agree_with_each_other() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn times_have_a_unit_and_a_bound() {
        assert_eq!(parse_seconds("90s"), Ok(90));
        assert_eq!(parse_seconds("7d"), Ok(604_800));
        for wrong in ["", "90", "h", "-1h", "1.5h", "0s", "99999999999d", "7算"] {
            assert!(parse_seconds(wrong).is_err(), "{wrong}");
        }
    }
}
