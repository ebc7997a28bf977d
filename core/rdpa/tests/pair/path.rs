//! Long paths: what is on its way follows the session's window, not a count of chunks.

use super::{
    Download, Holder, Limits, StageInfo, Upload, World, bytes_of, cut, download, name, upload,
};
use crate::net::Weather;
use suanli_base::{Random, Time};
use suanli_rdpa::{RegionInfo, StageKind};

/// A chunk of an int4 update.
const CHUNK: u32 = 36_000;
const BYTES: usize = 12 << 20;

/// 200 ms there and back, and a holder with the bulk window of a city.
fn far(holder: Holder) -> World {
    let weather = Weather { loss: 0, duplication: 0, delay: (100, 100) };
    let limits = Limits::reliable();
    let holder = Holder { window_bytes: Some(limits.bulk_window_bytes), ..holder };
    let mut world = World::within(limits, 1, weather, holder);
    world.say_hello();
    world
}

/// Three windows of 4 MiB, each 200 ms and the holder's own time of up to 120 ms. Sixteen chunks at
/// once took 6 s and more.
fn assert_full(world: &World, begun: Time) {
    let took = world.now.since(begun);
    assert!(took.0 < 2_000, "{took:?} for {BYTES} bytes");
}

#[test]
fn an_update_comes_down_a_long_path_at_the_rate_of_the_window() {
    // Sixteen chunks were on their way at once, however short: of an int4 update 0.56 MB, so that a
    // line of 100 ms carried 45 Mbit/s at the most.
    let content = bytes_of(&mut Random::new(1), BYTES);
    let mut holder = Holder::default();
    holder.publish(&name("job/ab/update/1"), &content, CHUNK);
    let mut world = far(holder);
    let window = Limits::reliable().bulk_window_bytes;
    let begun = world.now;
    let wanted = Download::new(name("job/ab/update/1"), None, window);
    let got = download(&mut world, wanted).unwrap();
    assert_full(&world, begun);
    assert!(got.into_values().flatten().eq(content));
}

#[test]
fn a_contribution_goes_up_a_long_path_at_the_rate_of_the_window() {
    // As above, the other way.
    let content = bytes_of(&mut Random::new(2), BYTES);
    let info = RegionInfo::of(1, &content, CHUNK).unwrap();
    let stage = StageInfo { kind: StageKind::Accumulate, shape: info.shape, root: info.root };
    let mut world = far(Holder::default());
    let window = Limits::reliable().bulk_window_bytes;
    let begun = world.now;
    let mut up = Upload::new(name("job/ab/lease/1"), stage, window);
    assert_eq!(upload(&mut world, &mut up, &cut(&content, CHUNK), |_| false), Some(Ok(())));
    assert_full(&world, begun);
}
