//! How a grant to regions is typed: `--regions job/ID/ --rights read --bytes 10G --rate 1M`.

use crate::arguments::parse_seconds;
use clap::{Args, Subcommand};
use std::path::PathBuf;
use suanli_base::NodeId;
use suanli_identity::{Prefix, Rights};

/// `suanli grant`.
#[derive(Debug, Subcommand)]
pub(crate) enum Grant {
    /// Show what a grant allows, to whom and until when
    Show {
        /// The grant, or a file that holds it
        grant: String,
    },
    /// Print the node that grants to this user are for; its key is drawn when there is none
    Node {
        /// File of the key [default: the one of this user's Python programs]
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
    },
    /// Hand a part of a grant on to another node
    Narrow(Narrow),
}

/// `suanli city grant`.
#[derive(Debug, Args)]
pub(crate) struct Issue {
    /// The node that it is for: 64 hexadecimal digits
    #[arg(long, value_name = "NODE", value_parser = parse_node)]
    pub(crate) to: NodeId,
    /// Which regions: job/ID/ for all of a job, job/ID/theta for one, / for all there are
    #[arg(long, value_name = "PREFIX", value_parser = parse_prefix)]
    pub(crate) regions: Prefix,
    /// What may be done: read, subscribe, revoke, with commas between them
    #[arg(long, value_name = "RIGHTS", default_value = "read,subscribe")]
    pub(crate) rights: Rights,
    /// For how long: 90s, 30m, 24h, 7d
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_seconds)]
    pub(crate) expires: u64,
    /// Bytes in all: 500M, 10G [default: no bound]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) bytes: Option<u64>,
    /// Bytes a second: 500K, 2M [default: no bound]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) rate: Option<u64>,
    /// How often it may be handed on, narrower each time
    #[arg(long, value_name = "N", default_value_t = 0)]
    #[arg(value_parser = clap::value_parser!(u8).range(0..=3))]
    pub(crate) depth: u8,
}

/// `suanli grant narrow`. What is not said stays as it is, but for the depth, which goes down by one.
#[derive(Debug, Args)]
pub(crate) struct Narrow {
    /// The grant, or a file that holds it
    pub(crate) grant: String,
    /// The node that the part is for: 64 hexadecimal digits
    #[arg(long, value_name = "NODE", value_parser = parse_node)]
    pub(crate) to: NodeId,
    /// File of the key that the grant was given to [default: the one of this user's Python programs]
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    /// Which of its regions [default: all of them]
    #[arg(long, value_name = "PREFIX", value_parser = parse_prefix)]
    pub(crate) regions: Option<Prefix>,
    /// Which of its rights [default: all of them]
    #[arg(long, value_name = "RIGHTS")]
    pub(crate) rights: Option<Rights>,
    /// For how long: 90s, 30m, 24h, 7d [default: as long as it lasts]
    #[arg(long, value_name = "TIME", value_parser = parse_seconds)]
    pub(crate) expires: Option<u64>,
    /// Bytes in all: 500M, 10G [default: as many as it has]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) bytes: Option<u64>,
    /// Bytes a second: 500K, 2M [default: as many as it allows]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) rate: Option<u64>,
    /// How often the part may be handed on [default: once less than the grant]
    #[arg(long, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u8).range(0..=2))]
    pub(crate) depth: Option<u8>,
}

fn parse_node(text: &str) -> Result<NodeId, String> {
    text.parse().map_err(|error: suanli_base::ParseHashError| error.to_string())
}

/// `/` stands for all regions; an empty argument is more often a slip than a wish.
pub(crate) fn parse_prefix(text: &str) -> Result<Prefix, String> {
    match text {
        "/" => Ok(Prefix::all()),
        "" => Err("expected a prefix such as job/ID/, or / for all regions, found nothing".into()),
        text => Prefix::new(text).map_err(|error| error.to_string()),
    }
}

/// `500`, `500K`, `10G`: units of 1024, as `suanli` shows them.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("expected a size such as 500K, 10M or 2G, found {text:?}");
    let (count, shift) = match text.char_indices().last().ok_or_else(wrong)? {
        (_, digit) if digit.is_ascii_digit() => (text, 0),
        (at, 'k' | 'K') => (&text[..at], 10),
        (at, 'm' | 'M') => (&text[..at], 20),
        (at, 'g' | 'G') => (&text[..at], 30),
        (at, 't' | 'T') => (&text[..at], 40),
        _ => return Err(wrong()),
    };
    let count: u64 = count.parse().map_err(|_| wrong())?;
    match count.checked_mul(1 << shift) {
        Some(bytes) if bytes > 0 => Ok(bytes),
        _ => Err(format!("expected a size from 1 to 16777215T, found {text:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_of_1024_and_no_sign_or_fraction() {
        for (text, bytes) in [("1", 1), ("3k", 3 << 10), ("5M", 5 << 20), ("10G", 10 << 30)] {
            assert_eq!(parse_size(text), Ok(bytes));
        }
        for text in ["", "0", "0G", "-1", "1.5G", "G", "10GB", "99999999T", "1 G", "１"] {
            assert!(parse_size(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn all_regions_are_asked_for_by_name_only() {
        assert_eq!(parse_prefix("/"), Ok(Prefix::all()));
        assert_eq!(parse_prefix("job/1/").unwrap().as_str(), "job/1/");
        for text in ["", "//", "/job", "a//b", ".."] {
            assert!(parse_prefix(text).is_err(), "{text:?}");
        }
    }
}
