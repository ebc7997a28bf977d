//! What is staged at a holder: whose it is, what it may cost, and what a COMMIT makes of it.

use super::{code, name, peer, place};
use bytes::Bytes;
use suanli_link::holder::HolderLimits;
use suanli_link::reader::{ReadError, Reader};
use suanli_rdpa::{
    Answer, ChunkSet, Code, Handle, Level, Op, RegionInfo, Span, StageInfo, StageKind,
};

const CHUNK: u32 = 1000;

async fn open_stage(
    reader: &mut Reader,
    region: &str,
    kind: StageKind,
    bytes: &[u8],
    chunk_bytes: u32,
) -> Result<(Handle, ChunkSet), ReadError> {
    let info = RegionInfo::of(0, bytes, chunk_bytes).unwrap();
    let stage = StageInfo { kind, shape: info.shape, root: info.root };
    match reader.ask(Op::OpenStage { region: name(region), stage }).await? {
        Answer::StageOpened { handle, placed } => Ok((handle, placed)),
        other => panic!("{other:?}"),
    }
}

async fn write(
    reader: &mut Reader,
    handle: Handle,
    chunk: u32,
    bytes: &[u8],
) -> Result<Answer, ReadError> {
    let bytes = Bytes::copy_from_slice(bytes);
    reader.ask(Op::Write { handle, chunk, bytes, level: Level::Placed }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_announcements_under_one_name_do_not_mix() {
    // The areas of a name were one: opened as many long chunks, then as many chunks of one byte,
    // and written through the first handle, it held what was never accounted; committed with the
    // root of the long chunks, it was a version that a READ_RANGES fell over.
    let (holder, address) = place(HolderLimits::default()).await;
    let mut reader = peer(&address, 2).await;
    let (long, short) = (vec![1; 10 * CHUNK as usize], vec![2; 10]);
    let (first, _) = open_stage(&mut reader, "x", StageKind::Write, &long, CHUNK).await.unwrap();
    let (second, _) = open_stage(&mut reader, "x", StageKind::Write, &short, 1).await.unwrap();
    for chunk in 0..10 {
        write(&mut reader, first, chunk, &long[..CHUNK as usize]).await.unwrap();
    }
    assert_eq!(holder.staged(), (2, 10_000), "nothing came under the second handle");
    assert_eq!(code(reader.commit(second, 0).await), Code::NotComplete);
    assert_eq!(reader.commit(first, 0).await.unwrap(), 1);
    let opened = reader.open(name("x")).await.unwrap();
    let mut read = vec![0; 10];
    let spans = [Span { offset: 0, len: 1, stride: 1000, count: 10 }];
    reader.read_ranges(&opened, &spans, &mut read).await.unwrap();
    assert_eq!(read, [1; 10]);
    // The first area has become a version: its handle is good for nothing more.
    assert_eq!(code(write(&mut reader, first, 0, &[1; CHUNK as usize]).await), Code::BadHandle);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_wipes_what_another_has_half_written_and_it_goes_on_after_a_cut() {
    // Whoever opened a name last was meant, across peers and across WRITE and ACCUMULATE.
    let (holder, address) = place(HolderLimits::default()).await;
    let mut mine = peer(&address, 2).await;
    let content = vec![7; 3 * CHUNK as usize];
    let chunk = &content[..CHUNK as usize];
    let (handle, _) = open_stage(&mut mine, "x", StageKind::Write, &content, CHUNK).await.unwrap();
    write(&mut mine, handle, 0, chunk).await.unwrap();
    let mut other = peer(&address, 3).await;
    for kind in [StageKind::Accumulate, StageKind::Write] {
        open_stage(&mut other, "x", kind, b"something else", 4).await.unwrap();
        open_stage(&mut other, "x", kind, &content, CHUNK).await.unwrap();
    }
    write(&mut mine, handle, 1, chunk).await.unwrap();
    mine.close().await;
    let mut mine = peer(&address, 2).await;
    let (handle, placed) =
        open_stage(&mut mine, "x", StageKind::Write, &content, CHUNK).await.unwrap();
    assert_eq!(placed.missing().collect::<Vec<_>>(), [2], "only the rest is sent");
    write(&mut mine, handle, 2, chunk).await.unwrap();
    assert_eq!(mine.commit(handle, 0).await.unwrap(), 1);
    assert_eq!(holder.newest(&name("x")).unwrap().run(0, 3000), content);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_who_opens_every_area_it_may_leaves_room_for_others_and_for_itself_after_a_cut() {
    // 64 areas, of whomever, were all there were, and no disconnect freed one.
    let limits = HolderLimits { stages_max: 20, ..HolderLimits::default() };
    let (holder, address) = place(limits).await;
    for peers in 2..6 {
        let mut greedy = peer(&address, peers).await;
        for number in 0..limits.stages_per_peer_max {
            let region = format!("greedy/{number}");
            open_stage(&mut greedy, &region, StageKind::Write, b"bytes", 1).await.unwrap();
        }
        // Gone without a word. The next one is let in when the holder has noticed; until then it is
        // told BUSY, and asks again by itself.
        drop(greedy);
    }
    let mut honest = peer(&address, 9).await;
    honest
        .stage(name("x"), StageKind::Write, Bytes::from_static(b"abc"), 2, Level::Placed)
        .await
        .unwrap();
    assert!(holder.staged().0 <= limits.stages_max);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_after_the_last_version_there_can_be_is_a_conflict() {
    // The version after u64::MAX was computed, which is a panic in one build and 0 in another.
    let (_holder, address) = place(HolderLimits::default()).await;
    let mut reader = peer(&address, 2).await;
    let bytes = Bytes::from_static(b"abc");
    let staged = reader.stage(name("x"), StageKind::Write, bytes, 2, Level::Placed);
    let handle = staged.await.unwrap();
    assert_eq!(code(reader.commit(handle, u64::MAX).await), Code::Conflict);
    assert_eq!(reader.commit(handle, 0).await.unwrap(), 1);
}
