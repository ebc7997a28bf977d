//! How numbers, names and tables look on a terminal.

use crate::language::Language;
use crate::words;
use std::time::Duration;
use suanli_host::control::{FamilyState, JobState, MemberState};

/// Bytes with a unit of 1024.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{count} B"),
        _ if value < 10.0 => format!("{value:.2} {}", UNITS[unit]),
        _ if value < 100.0 => format!("{value:.1} {}", UNITS[unit]),
        _ => format!("{value:.0} {}", UNITS[unit]),
    }
}

/// Bits a second with a unit of 1000.
pub(crate) fn rate(bits_per_s: f64) -> String {
    const UNITS: [&str; 4] = ["bit/s", "kbit/s", "Mbit/s", "Gbit/s"];
    let (mut value, mut unit) = (bits_per_s, 0);
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0 && value < 100.0);
    format!("{value:.digits$} {}", UNITS[unit])
}

/// A count, short: 950, 12.3 k, 4.56 M.
pub(crate) fn count(count: u64) -> String {
    let value = count as f64;
    match count {
        0..=9_999 => count.to_string(),
        10_000..=999_999 => format!("{:.1} k", value / 1e3),
        1_000_000..=999_999_999 => format!("{:.2} M", value / 1e6),
        _ => format!("{:.2} G", value / 1e9),
    }
}

/// A span as people say it.
pub(crate) fn span(span: Duration) -> String {
    let s = span.as_secs();
    match s {
        0..=9 => format!("{:.1} s", span.as_secs_f64()),
        10..=119 => format!("{s} s"),
        120..=7199 => format!("{} min {:02} s", s / 60, s % 60),
        7200..=172_799 => format!("{} h {:02} min", s / 3600, s % 3600 / 60),
        _ => format!("{} d {:02} h", s / 86_400, s % 86_400 / 3600),
    }
}

/// A text that a stranger chose, without what would steer a terminal.
pub(crate) fn printable(text: &str) -> String {
    let safe = |c: char| {
        !c.is_control() && !matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if safe(c) { c } else { '\u{fffd}' }).collect()
}

/// A text of several lines without what would steer a terminal.
pub(crate) fn lines(text: &str) -> String {
    let line = |line: &str| printable(&line.replace('\t', "    "));
    text.split('\n').map(line).collect::<Vec<_>>().join("\n")
}

/// A text of several lines, indented, its line ends kept and what would steer a terminal taken out.
pub(crate) fn block(text: &str) -> String {
    text.lines().map(|line| format!("    {}\n", printable(&line.replace('\t', "    ")))).collect()
}

/// How many columns a text takes: two for the wide characters of Chinese, Japanese, Korean.
pub(crate) fn columns(text: &str) -> usize {
    text.chars()
        .map(|c| match c {
            '\u{1100}'..='\u{115f}'
            | '\u{2e80}'..='\u{a4cf}'
            | '\u{ac00}'..='\u{d7a3}'
            | '\u{f900}'..='\u{faff}'
            | '\u{fe30}'..='\u{fe6f}'
            | '\u{ff00}'..='\u{ff60}'
            | '\u{ffe0}'..='\u{ffe6}'
            | '\u{1f300}'..='\u{1faff}'
            | '\u{20000}'..='\u{3fffd}' => 2,
            '\u{300}'..='\u{36f}' | '\u{200b}'..='\u{200f}' => 0,
            _ => 1,
        })
        .sum()
}

/// A text filled up with spaces to `width` columns.
pub(crate) fn padded(text: &str, width: usize) -> String {
    format!("{text}{}", " ".repeat(width.saturating_sub(columns(text))))
}

/// Rows under a head; the first column to the left, the others to the right.
pub(crate) fn table(head: &[String], rows: &[Vec<String>]) -> String {
    let width = |at: usize| {
        let cells = rows.iter().filter_map(|row| row.get(at)).chain(head.get(at));
        cells.map(|cell| columns(cell)).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |row: &[String]| {
        let mut line = String::new();
        for (at, (cell, width)) in row.iter().zip(&widths).enumerate() {
            if at == 0 {
                line += &padded(cell, *width);
            } else {
                line += "  ";
                line += &" ".repeat(width.saturating_sub(columns(cell)));
                line += cell;
            }
        }
        line.trim_end().to_owned() + "\n"
    };
    let rule = "-".repeat(widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1));
    let mut text = line(head) + &rule + "\n";
    for row in rows {
        text += &line(row);
    }
    text
}

/// The last points of a curve as a row of blocks, high to low.
pub(crate) fn sparkline(values: &[f64], width: usize) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let values: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    if values.is_empty() || width == 0 {
        return String::new();
    }
    let (low, high) = values
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &v| (low.min(v), high.max(v)));
    let shown = width.min(values.len());
    (0..shown)
        .map(|at| {
            let index = if shown > 1 { at * (values.len() - 1) / (shown - 1) } else { 0 };
            let part = if high > low { (values[index] - low) / (high - low) } else { 0.0 };
            BLOCKS[((part * 7.0).round() as usize).min(7)]
        })
        .collect()
}

/// A job's state.
pub(crate) fn job_state(language: Language, state: JobState) -> String {
    match state {
        JobState::Waiting => words::state_waiting(language),
        JobState::Running => words::state_running(language),
        JobState::Paused => words::state_paused(language),
        JobState::Done => words::state_done(language),
        JobState::Cancelled => words::state_cancelled(language),
        _ => "?".into(),
    }
}

/// A member's state.
pub(crate) fn member_state(language: Language, state: MemberState) -> String {
    match state {
        MemberState::Away => words::state_away(language),
        MemberState::Idle => words::state_idle(language),
        MemberState::Working => words::state_working(language),
        MemberState::Paused => words::state_paused(language),
        _ => "?".into(),
    }
}

/// A family's state.
pub(crate) fn family_state(language: Language, state: FamilyState) -> String {
    match state {
        FamilyState::Connecting => words::state_connecting(language),
        FamilyState::Idle => words::state_idle(language),
        FamilyState::Fetching => words::state_fetching(language),
        FamilyState::Training => words::state_training(language),
        FamilyState::HandingIn => words::state_handing_in(language),
        FamilyState::Paused => words::state_paused(language),
        FamilyState::Leaving => words::state_leaving(language),
        _ => "?".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_keep_their_unit() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1 << 20), "1.00 MiB");
        assert_eq!(bytes(250 << 20), "250 MiB");
        assert_eq!(count(9_999), "9999");
        assert_eq!(count(1_234_567), "1.23 M");
        assert_eq!(rate(40_000.0), "40.0 kbit/s");
        assert_eq!(rate(5_000_000.0), "5.0 Mbit/s");
        assert_eq!(rate(940e6), "940 Mbit/s");
        assert_eq!(rate(0.0), "0 bit/s");
        assert_eq!(span(Duration::from_secs(185)), "3 min 05 s");
    }

    #[test]
    fn a_strangers_name_cannot_steer_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\n\u{202e}"), "a\u{fffd}[2Jb\u{fffd}\u{fffd}");
        assert_eq!(printable("阁楼"), "阁楼");
    }

    #[test]
    fn columns_line_up_with_wide_characters() {
        let head = ["家庭".to_owned(), "n".to_owned()];
        let text = table(&head, &[vec!["attic".into(), "7".into()]]);
        assert_eq!(text, "家庭   n\n--------\nattic  7\n");
    }

    #[test]
    fn a_falling_curve_falls() {
        assert_eq!(sparkline(&[8.0, 4.5, 1.0], 3), "█▅▁");
        assert_eq!(sparkline(&[f64::NAN], 3), "");
        assert_eq!(sparkline(&[1.0; 100], 4).chars().count(), 4);
    }
}
