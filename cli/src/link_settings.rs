//! How a link is typed: `100mbit`, `15ms`, `0.5%`, `1bdp`; and the profile that comes of it.

use crate::arguments::EmulateLink;
use crate::exit::Failure;
use suanli_link_model::{Direction, Order, PRESETS, Preset, Profile, Span, preset};

/// The delay in each direction where none is given: 30 ms there and back.
const DELAY: Span = Span::from_ms(15);

/// Places behind the point that are read.
const PLACES_MAX: usize = 6;

/// The size of a queue as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Queue {
    Bytes(u64),
    /// Thousandths of a direction's bandwidth-delay product.
    Bdp(u64),
}

/// The link that was asked for.
pub(crate) fn profile(arguments: &EmulateLink) -> Result<Profile, Failure> {
    let named = arguments.preset.map(|preset| preset.profile);
    let Some(rate) = arguments.rate.or(named.map(|profile| profile.down.bits_per_s)) else {
        let next = "say --rate 100mbit, or --preset with one of its names";
        return Err(Failure::usage("expected a rate or a preset, found neither", next));
    };
    let plain = Direction {
        bits_per_s: rate,
        delay: DELAY,
        jitter: Span::ZERO,
        loss_ppm: 0,
        queue_bytes: 0,
        order: Order::Kept,
    };
    let Profile { up, down } = named.unwrap_or(Profile { up: plain, down: plain });
    let up_rate = arguments.up.or(arguments.rate).unwrap_or(up.bits_per_s);
    let profile =
        Profile { up: changed(up, up_rate, arguments), down: changed(down, rate, arguments) };
    // Without a word, a preset's queue stays; a link by hand has one bandwidth-delay product.
    let queue = arguments.queue.or(named.is_none().then_some(Queue::Bdp(1000)));
    let profile = match queue {
        Some(Queue::Bdp(thousandths)) => profile.with_queues_of_bdp(thousandths),
        Some(Queue::Bytes(queue_bytes)) => Profile {
            up: Direction { queue_bytes, ..profile.up },
            down: Direction { queue_bytes, ..profile.down },
        },
        None => profile,
    };
    profile.check().map_err(|error| Failure::usage(error.to_string(), ""))?;
    Ok(profile)
}

fn changed(direction: Direction, bits_per_s: u64, arguments: &EmulateLink) -> Direction {
    Direction {
        bits_per_s,
        delay: arguments.delay.unwrap_or(direction.delay),
        jitter: arguments.jitter.unwrap_or(direction.jitter),
        loss_ppm: arguments.loss.unwrap_or(direction.loss_ppm),
        order: if arguments.reorder { Order::MayOvertake } else { direction.order },
        ..direction
    }
}

/// A number and its unit, as a whole count of what `units` say a unit is worth.
fn measure(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(unit_at);
    let (_, factor) = units.iter().find(|(name, _)| unit.eq_ignore_ascii_case(name))?;
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    if part.len() > PLACES_MAX || whole.is_empty() {
        return None;
    }
    let whole = whole.parse::<u64>().ok()?.checked_mul(*factor)?;
    if part.is_empty() {
        return Some(whole);
    }
    let places = 10_u64.pow(u32::try_from(part.len()).ok()?);
    whole.checked_add(part.parse::<u64>().ok()?.checked_mul(*factor)? / places)
}

pub(crate) fn parse_rate(text: &str) -> Result<u64, String> {
    measure(text, &[("bit", 1), ("kbit", 1_000), ("mbit", 1_000_000), ("gbit", 1_000_000_000)])
        .ok_or_else(|| {
            format!("expected a rate such as 500kbit, 100mbit or 1gbit (a second), found {text:?}")
        })
}

pub(crate) fn parse_span(text: &str) -> Result<Span, String> {
    measure(text, &[("us", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000)])
        .map(Span)
        .ok_or_else(|| format!("expected a time such as 500us, 15ms or 1s, found {text:?}"))
}

/// Parts per million.
pub(crate) fn parse_loss(text: &str) -> Result<u32, String> {
    measure(text, &[("%", 10_000), ("ppm", 1)])
        .and_then(|ppm| u32::try_from(ppm).ok())
        .filter(|ppm| *ppm <= 1_000_000)
        .ok_or_else(|| format!("expected a share such as 0.5% or 200ppm, found {text:?}"))
}

pub(crate) fn parse_queue(text: &str) -> Result<Queue, String> {
    let bdp = measure(text, &[("bdp", 1000)]).map(Queue::Bdp);
    let bytes = || measure(text, &[("b", 1), ("kb", 1_000), ("mb", 1_000_000)]).map(Queue::Bytes);
    bdp.or_else(bytes)
        .ok_or_else(|| format!("expected a size such as 1bdp, 0.5bdp, 64kb or 1mb, found {text:?}"))
}

pub(crate) fn parse_preset(text: &str) -> Result<&'static Preset, String> {
    preset(text).ok_or_else(|| {
        let names: Vec<&str> = PRESETS.iter().map(|preset| preset.name).collect();
        format!("expected one of {}, found {text:?}", names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::{Arguments, Command};
    use clap::Parser as _;

    fn of(line: &str) -> Result<Profile, Failure> {
        let words = format!("suanli emulate-link {line} -- true");
        let Command::EmulateLink(arguments) =
            Arguments::try_parse_from(words.split_whitespace()).unwrap().command
        else {
            panic!("another command");
        };
        profile(&arguments)
    }

    #[test]
    fn numbers_have_units_and_bounds() {
        assert_eq!(parse_rate("100mbit"), Ok(100_000_000));
        assert_eq!(parse_rate("2.5Gbit"), Ok(2_500_000_000));
        assert_eq!(parse_span("1.5ms"), Ok(Span::from_us(1500)));
        assert_eq!(parse_loss("0.5%"), Ok(5_000));
        assert_eq!(parse_queue("0.5bdp"), Ok(Queue::Bdp(500)));
        assert_eq!(parse_queue("64kb"), Ok(Queue::Bytes(64_000)));
        for wrong in ["", "5", "mbit", ".5mbit", "1.2.3mbit", "-1mbit", "99999999999999999gbit"] {
            assert!(parse_rate(wrong).is_err(), "{wrong}");
        }
        assert!(parse_loss("101%").is_err());
        assert!(parse_span("1.1234567ms").is_err());
        assert!(parse_queue("算").is_err());
    }

    #[test]
    fn what_is_typed_changes_what_a_preset_says() {
        let plain = of("--rate 100mbit --up 30mbit").unwrap();
        assert_eq!((plain.up.bits_per_s, plain.down.bits_per_s), (30_000_000, 100_000_000));
        assert_eq!((plain.up.queue_bytes, plain.down.queue_bytes), (112_500, 375_000));
        let named = of("--preset adsl --loss 1%").unwrap();
        let adsl = preset("adsl").unwrap().profile;
        assert_eq!(named.up, Direction { loss_ppm: 10_000, ..adsl.up });
        let both = of("--preset adsl --rate 8mbit").unwrap();
        assert_eq!((both.up.bits_per_s, both.down.bits_per_s), (8_000_000, 8_000_000));
    }

    #[test]
    fn a_link_without_a_rate_or_outside_its_bounds_is_a_usage_error() {
        for line in ["", "--rate 1bit", "--rate 1mbit --delay 11s", "--rate 1mbit --queue 1b"] {
            let failure = of(line).unwrap_err();
            assert_eq!(failure.class as u8, 2, "{line}");
        }
    }
}
