//! The frozen vector of `docs/spec/vectors/log.txt`, made by an independent implementation.

use suanli_base::Hash;
use suanli_log::{Chain, Tail, recover, snapshot};

const VECTORS: &str = include_str!("../../../docs/spec/vectors/log.txt");

fn bytes(name: &str) -> Vec<u8> {
    let line = VECTORS.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let digits = line.expect("the file has a line of this name").as_bytes();
    let value = |digit: &u8| char::from(*digit).to_digit(16).expect("hexadecimal") as u8;
    digits.chunks(2).map(|pair| value(&pair[0]) * 16 + value(&pair[1])).collect()
}

#[test]
fn records_marks_and_snapshots_are_the_bytes_of_the_vectors() {
    let name = Hash(core::array::from_fn(|i| i as u8));
    let mut chain = Chain::genesis(name);
    assert_eq!(chain.head().as_bytes()[..], bytes("genesis"));
    let mut log = chain.append(b"founded");
    log.extend(chain.append(b""));
    chain.synced();
    log.extend(chain.mark());
    log.extend(chain.append(b"joined"));
    assert_eq!(log, bytes("log"));
    assert_eq!(snapshot(&chain, b"state"), bytes("snapshot"));
    let recovery = recover(&log, Chain::genesis(name)).unwrap();
    assert_eq!((recovery.records.len(), recovery.tail), (3, Tail::Clean));
    assert_eq!((recovery.chain.head(), recovery.chain.durable()), (chain.head(), 2));
}
