//! `suanli log`: look into a city's record.

use crate::arguments::Log;
use crate::context::Context;
use crate::exit::Failure;
use crate::verify::verify;
use crate::words;
use suanli_base::CityId;

pub(super) fn run(context: &Context, command: &Log) -> Result<(), Failure> {
    let Log::Verify { dir, city } = command;
    let city = city.as_deref().map(parse_city).transpose()?;
    let verified = verify(dir, city)?;
    context.answer(&verified, || {
        let folder = dir.display().to_string();
        let (jobs, rounds) = (verified.jobs.len(), verified.rounds());
        let mut text =
            words::log_good(context.language, &folder, verified.entries, jobs, rounds) + "\n";
        if verified.torn_bytes > 0 {
            text += &words::log_torn(context.language, verified.torn_bytes);
        }
        text
    })
}

fn parse_city(text: &str) -> Result<CityId, Failure> {
    text.parse().map_err(|error: suanli_base::ParseHashError| {
        Failure::usage(error.to_string(), "copy the city's id whole, 64 digits")
    })
}
