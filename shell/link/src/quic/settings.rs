//! What a QUIC connection is set to, and why.
//!
//! **Windows.** The library keeps what a stream has received and nobody has read as one piece per
//! packet, and ends the connection with INTERNAL_ERROR "too many gaps in stream buffer" when a
//! stream holds more than 2 048 pieces of which more than 1 024 stay after it has put them together
//! (noq-proto 1.4, `connection/assembler.rs`). It never puts full packets together, so those are not
//! gaps at all: any reader that falls 2 048 packets behind meets it, about 2.8 MB at 1 420 bytes a
//! packet, and so does one lost packet with as much behind it. Hence [`LANE_WINDOW_BYTES`]: at the
//! smallest packets (1 200 bytes) a lane's window is 904 pieces, under 1 024 however they came. A path
//! that needs more in flight gets more lanes, not a larger window.

use super::congestion::BbrConfig;
use iroh::endpoint::{QuicTransportConfig, VarInt};
use noq_proto::congestion::{ControllerFactory, CubicConfig};
use std::sync::Arc;

/// What may be on its way, or unread, on one lane.
pub const LANE_WINDOW_BYTES: u32 = 1 << 20;
/// Bulk lanes of one link at most: 64 MiB on their way, enough for 5 Gbit/s over 100 ms.
pub const LANES_MAX: u8 = 64;
/// Bulk lanes unless told otherwise: enough for 1 Gbit/s over 120 ms.
pub const LANES: u8 = 16;
/// What may be unread of somebody who has not said anything that was listened to yet.
pub(crate) const STRANGER_WINDOW_BYTES: u32 = 2 << 20;

/// How a sender finds its rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Congestion {
    /// By the bandwidth it measures; loss alone does not slow it down.
    #[default]
    Bbr,
    /// By loss, as most of the internet.
    Cubic,
}

/// The window of a connection with so many bulk lanes of such windows.
pub(crate) fn window(lanes: u8, lane_window_bytes: u32) -> u32 {
    (u32::from(lanes) + 1) * lane_window_bytes
}

pub(crate) fn transport(
    lanes: u8,
    lane_window_bytes: u32,
    congestion: Congestion,
) -> QuicTransportConfig {
    let factory: Arc<dyn ControllerFactory + Send + Sync> = match congestion {
        Congestion::Bbr => Arc::new(BbrConfig),
        Congestion::Cubic => Arc::new(CubicConfig::default()),
    };
    QuicTransportConfig::builder()
        .max_concurrent_bidi_streams(VarInt::from_u32(u32::from(LANES_MAX) + 1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(lane_window_bytes))
        .receive_window(VarInt::from_u32(STRANGER_WINDOW_BYTES))
        .send_window(u64::from(window(lanes, lane_window_bytes)))
        .congestion_controller_factory(factory)
        .enable_segmentation_offload(true)
        .build()
}
