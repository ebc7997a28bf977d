//! What of its uplink an owner lends, as it is typed: `5mbit`, `18:00-23:00=1mbit`.

use crate::arguments::Upload;
use crate::config::UploadConfig;
use crate::exit::Failure;
use crate::link_settings::parse_rate;
use suanli_rdpa::{DAY_MINUTES, UplinkLimits, Window};

/// The flags, then the configuration file.
pub(crate) fn limits(arguments: &Upload, settings: &UploadConfig) -> Result<UplinkLimits, Failure> {
    let per_day = arguments.upload_per_day.or(settings.upload_per_day_mib);
    let windows = match arguments.upload_at.as_slice() {
        [] => settings.upload_at.clone(),
        typed => typed.to_vec(),
    };
    let limits = UplinkLimits {
        bytes_per_s: arguments.upload.or(settings.upload).map_or(u64::MAX, |rate| rate.0),
        windows: windows.into_iter().map(|at| at.0).collect(),
        bytes_per_day: per_day.map_or(u64::MAX, |mib| mib.saturating_mul(1 << 20)),
    };
    let next = "correct --upload-at, or upload_at in the configuration file";
    limits.check().map_err(|error| Failure::usage(error.to_string(), next))?;
    Ok(limits)
}

/// Bytes a second, typed in bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct UploadRate(u64);

/// A part of the day and its rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct UploadAt(Window);

impl TryFrom<String> for UploadRate {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        parse_upload(&text)
    }
}

impl TryFrom<String> for UploadAt {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        parse_upload_at(&text)
    }
}

pub(crate) fn parse_upload(text: &str) -> Result<UploadRate, String> {
    let bits = parse_rate(text)?;
    match bits {
        1..8 => {
            Err(format!("expected at least 8bit a second, or 0bit for nothing, found {text:?}"))
        }
        bits => Ok(UploadRate(bits / 8)),
    }
}

pub(crate) fn parse_upload_at(text: &str) -> Result<UploadAt, String> {
    let wrong =
        || format!("expected a part of the day and its rate, as 18:00-23:00=1mbit, found {text:?}");
    let (span, rate) = text.split_once('=').ok_or_else(wrong)?;
    let (from, to) = span.split_once('-').ok_or_else(wrong)?;
    let from_minute = minute(from).ok_or_else(wrong)?;
    let to_minute = minute(to).ok_or_else(wrong)? % DAY_MINUTES;
    if from_minute == to_minute {
        return Err(format!("{span} is no part of the day: name two different times"));
    }
    let bytes_per_s = parse_upload(rate)?.0;
    Ok(UploadAt(Window { from_minute, to_minute, bytes_per_s }))
}

/// Minutes since midnight; 24:00 is the midnight that ends a day.
fn minute(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let two = |text: &str| text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
    let digits = |text: &str| two(text).then(|| text.parse::<u16>().ok()).flatten();
    let (hours, minutes) = (digits(hours)?, digits(minutes)?);
    let at = hours * 60 + minutes;
    (minutes < 60 && at <= DAY_MINUTES).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_hours_are_read() {
        assert_eq!(parse_upload("5mbit"), Ok(UploadRate(625_000)));
        assert_eq!(parse_upload("0bit"), Ok(UploadRate(0)));
        let at = |text: &str| parse_upload_at(text).map(|at| at.0).unwrap();
        let evening = Window { from_minute: 18 * 60, to_minute: 23 * 60, bytes_per_s: 125_000 };
        assert_eq!(at("18:00-23:00=1mbit"), evening);
        let night = Window { from_minute: 22 * 60 + 30, to_minute: 0, bytes_per_s: 0 };
        assert_eq!(at("22:30-24:00=0mbit"), night);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for text in [
            "18:00=1mbit",
            "18:00-23:00",
            "18-23=1mbit",
            "18:60-23:00=1mbit",
            "24:01-02:00=1mbit",
            "+1:00-02:00=1mbit",
            "00:00-24:00=1mbit",
            "07:00-07:00=1mbit",
            "18:00-23:00=fast",
        ] {
            assert!(parse_upload_at(text).is_err(), "{text}");
        }
        assert!(parse_upload("7bit").unwrap_err().contains("8bit"));
    }
}
