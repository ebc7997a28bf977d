//! How fast QUIC sends: the model of [`bbr`], as the library asks for it.
//!
//! Ours and not the library's BBRv3 (noq-proto 1.4), for two reasons that were measured. It took quiet
//! times for the rate of the path (after some heart-beats, 320 KiB took 2.7 s over loopback); and on a
//! home's line with 1 % of losses it kept 0.70 of the rate, 0.88 without any
//! (`docs/decisions/0011-congestion-control.md`).

mod bbr;
#[cfg(test)]
mod tests;

use bbr::Bbr;
use noq_proto::RttEstimator;
use noq_proto::congestion::{Controller, ControllerFactory, ControllerMetrics};
use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

/// Packets that go before anything is known of the path (RFC 9002, section 7.2, allows ten; as many as
/// browsers send, since a pace is set from the first round trip on).
const INITIAL_PACKETS: u64 = 32;

/// Makes the controller of a path.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BbrConfig;

impl ControllerFactory for BbrConfig {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let mss = u64::from(current_mtu);
        Box::new(Path(Bbr::new(now, mss, INITIAL_PACKETS * mss)))
    }
}

#[derive(Clone, Debug)]
struct Path(Bbr);

impl Controller for Path {
    fn on_packet_sent(&mut self, now: Instant, bytes: u16, _: u64) {
        self.0.sent(now, u64::from(bytes));
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        _: u64,
        _: bool,
        _: &RttEstimator,
    ) {
        self.0.acked(now, sent, bytes);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, _: Option<u64>) {
        self.0.acks_end(now, in_flight, app_limited);
    }

    fn on_packet_lost(&mut self, lost_bytes: u16, _: u64, _: Instant) {
        self.0.lost(u64::from(lost_bytes));
    }

    fn on_congestion_event(
        &mut self,
        _: Instant,
        _: Instant,
        is_persistent_congestion: bool,
        _: bool,
        _: u64,
        _: u64,
    ) {
        if is_persistent_congestion {
            self.0.collapse();
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.0.set_mss(u64::from(new_mtu));
    }

    fn window(&self) -> u64 {
        self.0.window()
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = ControllerMetrics::default();
        metrics.congestion_window = self.0.window();
        metrics.pacing_rate = self.0.pacing_rate();
        metrics.send_quantum = Some(self.0.quantum());
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the cast saturates, and a rate is never negative"
        )]
        let bits_per_s = (self.0.rate() * 8.0) as u64;
        metrics.bandwidth_estimate = Some(bits_per_s).filter(|bits| *bits > 0);
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.0.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
