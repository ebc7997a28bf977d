//! A family against a city that does not mean it well.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod city;
#[path = "../shared/paper.rs"]
mod paper;

use bytes::Bytes;
use city::City;
use suanli_base::Hash;
use suanli_bus::JobSpec;
use suanli_node::family::{Done, Output, Target, Work};
use suanli_rdpa::{Code, RegionInfo, Shape};

/// What a city may announce: chunks that are right by their hashes.
fn announced(shape: Shape) -> (RegionInfo, Vec<Bytes>) {
    let chunks: Vec<Bytes> = (0..shape.chunk_count())
        .map(|at| vec![1; shape.chunk_len(u32::try_from(at).unwrap()).unwrap() as usize].into())
        .collect();
    let hashes = chunks.iter().map(|chunk| Hash::of(chunk)).collect();
    (RegionInfo::new(1, shape, hashes).unwrap(), chunks)
}

fn kept(outputs: &[Output]) -> usize {
    outputs.iter().filter(|output| matches!(output, Output::Work(Work::Keep { .. }))).count()
}

fn note(outputs: &[Output]) -> Option<&str> {
    outputs.iter().find_map(|output| match output {
        Output::Note(note) => Some(note.as_str()),
        _ => None,
    })
}

#[test]
fn a_specification_is_put_together_by_its_chunks_places() {
    // Chunks were appended in the order they came, of any length, before anything looked at them.
    let mut city = City::new(1 << 30);
    let spec = paper::spec().to_bytes();
    let info = RegionInfo::of(1, &spec, 40).unwrap();
    city.prepare();
    city.open_with(&info);
    let chunks: Vec<Bytes> = spec.chunks(40).map(Bytes::copy_from_slice).collect();
    let last = u32::try_from(chunks.len()).unwrap() - 1;
    for (back, chunk) in (0..).zip(chunks.iter().rev()) {
        let index = last - back;
        city.chunk(index, chunk);
    }
    let outputs = city.outputs();
    let loaded = outputs.iter().find_map(|output| match output {
        Output::Work(Work::Load { spec, .. }) => Some((**spec).clone()),
        _ => None,
    });
    assert_eq!(loaded, JobSpec::from_bytes(&spec).ok(), "{outputs:?}");
}

#[test]
fn a_chunk_longer_than_its_region_says_ends_the_reading() {
    // The hash was that of the region, which the same city had made up, and nothing compared the
    // length: a specification announced as 40 bytes grew to as many frames as came.
    let mut city = City::new(1 << 30);
    let long = Bytes::from(vec![1; 1 << 20]);
    let shape = Shape { bytes: 80, chunk_bytes: 40 };
    let info = RegionInfo::new(1, shape, vec![Hash::of(&long); 2]).unwrap();
    city.prepare();
    city.open_with(&info);
    city.chunk(0, &long);
    let outputs = city.outputs();
    let note = note(&outputs).unwrap();
    assert!(note.contains("chunk 0 has 1048576 bytes"), "{note}");
}

#[test]
fn parameters_that_are_longer_than_the_job_says_are_given_no_room() {
    // The host made room for whatever length was announced, up to 400 GB: a hash that the city has
    // signed says nothing of a length.
    let expected = Shape { bytes: 400, chunk_bytes: 400 };
    for (shape, good) in [
        (Shape { bytes: 8 << 20, chunk_bytes: 4 << 20 }, false),
        (Shape { bytes: 404, chunk_bytes: 404 }, false),
        (Shape { bytes: 400, chunk_bytes: 100 }, false),
        (Shape { bytes: 400, chunk_bytes: 65_536 }, true),
        (expected, true),
    ] {
        let (info, chunks) = announced(shape);
        let mut city = City::new(1 << 30);
        city.load();
        city.heads(info.root);
        city.open_with(&info);
        for (index, chunk) in (0..).zip(&chunks) {
            city.chunk(index, chunk);
        }
        let outputs = city.outputs();
        if good {
            assert_eq!((kept(&outputs), note(&outputs)), (1, None), "{shape:?}");
            let target = |output: &Output| match output {
                Output::Work(Work::Keep { target: Target::Theta(..), total, .. }) => Some(*total),
                _ => None,
            };
            assert_eq!(outputs.iter().find_map(target), Some(400));
        } else {
            assert_eq!(kept(&outputs), 0, "{shape:?}");
            let note = note(&outputs).unwrap_or_default();
            assert!(note.contains("by the job it is 400 in chunks of 400"), "{note}");
        }
    }
}

#[test]
fn a_model_beyond_the_memory_that_is_lent_is_left_to_others_before_it_is_read() {
    // Only a frozen model was held against it.
    let mut city = City::new(399);
    city.read_spec();
    let outputs = city.outputs();
    assert!(note(&outputs).unwrap().contains("more memory than is lent"), "{outputs:?}");
    let mut city = City::new(400);
    city.read_spec();
    city.done(Done::Loaded { job: city.job(), private: Ok(Hash::ZERO) });
    assert_eq!(note(&city.outputs()), None);
}

#[test]
fn a_family_that_reads_a_version_for_too_long_opens_the_newest_by_itself() {
    // A city keeps the newest parameters and those before, whoever reads: a slow line gets
    // VERSION_GONE, and nothing said what becomes of the family then.
    let mut city = City::new(1 << 30);
    city.load();
    let (first, _) = announced(Shape { bytes: 400, chunk_bytes: 400 });
    city.heads(first.root);
    city.open_with(&first);
    city.refuse(Code::VersionGone);
    let outputs = city.outputs();
    assert!(note(&outputs).unwrap().contains("version is gone"), "{outputs:?}");

    // It asks again after a moment and reads what is the newest then.
    assert!(city.is_asked_for_work_within(2_000));
    let bytes = Bytes::from(vec![2; 400]);
    let newest = RegionInfo { version: 2, ..RegionInfo::of(1, &bytes, 400).unwrap() };
    city.prepare();
    city.next_head(newest.root);
    city.open_with(&newest);
    city.chunk(0, &bytes);
    let outputs = city.outputs();
    assert_eq!((kept(&outputs), note(&outputs)), (1, None), "{outputs:?}");
    let installs = |output: &Output| matches!(output, Output::Work(Work::Install { .. }));
    assert!(outputs.iter().any(installs), "{outputs:?}");
}

#[test]
fn a_city_whose_chunk_takes_a_minute_is_waited_for_and_a_silent_one_is_left() {
    let hangs_up = |city: &mut City| {
        city.outputs().iter().any(|output| matches!(output, Output::Hangup { .. }))
    };
    let mut city = City::new(1 << 30);
    (0..20).for_each(|_| city.slow(true));
    assert!(!hangs_up(&mut city));
    (0..6).for_each(|_| city.slow(false));
    assert!(hangs_up(&mut city));
}

#[test]
fn parameters_whose_next_chunk_takes_minutes_are_waited_for_and_those_that_never_come_are_left() {
    // Each step had 30 s, in which a city that sends to many in turn, or at a low rate, had not yet
    // sent a chunk: it was all begun anew, and nobody ever had a model.
    let (info, chunks) = announced(Shape { bytes: 400, chunk_bytes: 400 });
    let reading = || {
        let mut city = City::new(1 << 30);
        city.load();
        city.heads(info.root);
        city.open_with(&info);
        city
    };
    let mut city = reading();
    assert!(!city.is_asked_for_work_within(280_000), "its turn comes after others'");
    assert_eq!(note(&city.outputs()), None);
    city.chunk(0, &chunks[0]);
    assert_eq!(kept(&city.outputs()), 1);

    let mut city = reading();
    assert!(city.is_asked_for_work_within(305_000));
    let outputs = city.outputs();
    let note = note(&outputs).unwrap();
    assert!(note.contains("came for 300 s") && note.contains("holds back"), "{note}");
}

#[test]
fn parameters_that_a_lost_link_cut_short_are_gone_on_with() {
    // All of them were read anew, however many had come.
    let spec = JobSpec { parameters: 250_000, ..paper::spec() };
    let (info, chunks) = announced(Shape { bytes: 1_000_000, chunk_bytes: 1 << 18 });
    let reading = || {
        let mut city = City::with_job(1 << 30, spec.clone());
        city.load();
        city.heads(info.root);
        city.open_with(&info);
        city.chunk(0, &chunks[0]);
        city.chunk(2, &chunks[2]);
        city.cut();
        city.outputs();
        city.prepare();
        city
    };
    let mut city = reading();
    // A second cut, before anything was asked for again.
    city.cut();
    city.prepare();
    city.nothing_new();
    city.open_with(&info);
    assert_eq!(city.wanted(), [1, 3]);
    city.chunk(1, &chunks[1]);
    city.chunk(3, &chunks[3]);
    let outputs = city.outputs();
    assert_eq!((kept(&outputs), note(&outputs)), (2, None), "{outputs:?}");
    let installs = |output: &Output| matches!(output, Output::Work(Work::Install { .. }));
    assert!(outputs.iter().any(installs), "{outputs:?}");

    // When there are newer ones, nothing of the old is of use.
    let mut city = reading();
    city.next_head(info.root);
    city.open_with(&info);
    assert_eq!(city.wanted(), [0, 1, 2, 3]);
}
