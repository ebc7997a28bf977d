//! The token bucket against one that steps through every millisecond, the uplink against a diary.

use proptest::collection::vec;
use proptest::prelude::*;
use suanli_base::Time;
use suanli_rdpa::{
    DAY_MINUTES, LocalTime, Pace, Uplink, UplinkDay, UplinkLimits, WaitReason, Window,
};

/// A bucket that fills by hand, a millisecond at a time.
struct Stepped {
    rate: i128,
    burst: i128,
    level: i128,
    now: u64,
}

impl Stepped {
    fn go_to(&mut self, now: u64) {
        while self.now < now {
            self.now += 1;
            self.level = (self.level + self.rate).min(self.burst * 1000);
        }
    }

    fn may_take(&self, bytes: u64) -> bool {
        self.level >= i128::from(bytes).min(self.burst) * 1000
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn a_bucket_is_one_that_is_filled_by_hand(
        rate in 1..3000_u64, burst in 1..2000_u64,
        asks in vec((0..400_u64, 0..3000_u64), 1..60),
    ) {
        let mut pace = Pace::new(rate, burst, Time(0));
        let (wide_rate, wide_burst) = (i128::from(rate), i128::from(burst));
        let mut model =
            Stepped { rate: wide_rate, burst: wide_burst, level: wide_burst * 1000, now: 0 };
        let mut taken = Vec::new();
        for (wait, bytes) in asks {
            let now = model.now + wait;
            model.go_to(now);
            match pace.may_take(Time(now), bytes) {
                Ok(()) => {
                    prop_assert!(model.may_take(bytes), "{bytes} bytes too early");
                    pace.take(Time(now), bytes);
                    model.level -= i128::from(bytes) * 1000;
                    taken.push((now, bytes));
                }
                Err(until) => {
                    prop_assert!(!model.may_take(bytes), "{bytes} bytes held back");
                    let until = until.expect("a rate above zero waits for some time");
                    model.go_to(until.0 - 1);
                    prop_assert!(!model.may_take(bytes), "asked to wait for too long");
                    model.go_to(until.0);
                    prop_assert!(model.may_take(bytes), "asked to wait for too short");
                }
            }
        }
        // What is promised about any stretch of time.
        let largest = taken.iter().map(|(_, bytes)| *bytes).max().unwrap_or(0);
        for (first, (start, _)) in taken.iter().enumerate() {
            let mut sum = 0;
            for (end, bytes) in &taken[first..] {
                sum += bytes;
                let bound = (end - start) * rate / 1000 + 1 + burst + largest;
                prop_assert!(sum <= bound, "{sum} bytes in {} ms", end - start);
            }
        }
    }

    #[test]
    fn an_uplink_keeps_to_its_hours_and_days(
        shut in (0..DAY_MINUTES, 1..DAY_MINUTES),
        rate in 1000..50_000_u64,
        per_day in 1..2_000_000_u64,
        asks in vec((0..400_u64, 1..100_000_u64), 1..80),
    ) {
        let window = Window {
            from_minute: shut.0,
            to_minute: (shut.0 + shut.1) % DAY_MINUTES,
            bytes_per_s: 0,
        };
        let limits =
            UplinkLimits { bytes_per_s: rate, windows: vec![window], bytes_per_day: per_day };
        let local = |minutes: u64| LocalTime {
            day: u32::try_from(minutes / 1440).unwrap(),
            minute: u16::try_from(minutes % 1440).unwrap(),
        };
        let is_shut = |minutes: u64| {
            (0..shut.1).any(|ahead| u64::from((shut.0 + ahead) % DAY_MINUTES) == minutes % 1440)
        };
        let mut uplink =
            Uplink::new(limits.clone(), UplinkDay::default(), Time(0), local(0)).unwrap();
        let (mut minutes, mut diary) = (0, Vec::<(u64, u64)>::new());
        for (wait, bytes) in asks {
            minutes += wait;
            let now = Time(minutes * 60_000);
            // A restart in between changes nothing about the day.
            if wait % 5 == 0 {
                uplink = Uplink::new(limits.clone(), uplink.today(), now, local(minutes)).unwrap();
            }
            let today: u64 =
                diary.iter().filter(|(at, _)| at / 1440 == minutes / 1440).map(|(_, b)| b).sum();
            match uplink.may_send(now, local(minutes), bytes) {
                Ok(()) => {
                    prop_assert!(!is_shut(minutes) && today + bytes <= per_day);
                    uplink.sent(now, local(minutes), bytes);
                    diary.push((minutes, bytes));
                }
                Err(wait) => match wait.why {
                    WaitReason::Hour => {
                        prop_assert!(is_shut(minutes));
                        let open = (minutes..).find(|minute| !is_shut(*minute)).unwrap();
                        prop_assert_eq!(wait.until, Some(Time(open * 60_000)));
                    }
                    WaitReason::Day { used, .. } => {
                        prop_assert_eq!(used, today);
                        prop_assert!(today + bytes > per_day && bytes <= per_day);
                        let midnight = (minutes / 1440 + 1) * 1440 * 60_000;
                        prop_assert_eq!(wait.until, Some(Time(midnight)));
                    }
                    WaitReason::MoreThanADay { .. } => prop_assert!(bytes > per_day),
                    _ => prop_assert!(!is_shut(minutes) && today + bytes <= per_day),
                },
            }
        }
    }
}
