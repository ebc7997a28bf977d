"""The test vectors of docs/spec/vectors, held against this implementation: what is frozen there is
decoded, and encoded again to the same bytes.

    python3 tests/rdpa/vectors.py

Prints a line a file; ends with 1 when anything differs.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import frames
import messages
import postcard
from blake3 import blake3, merkle_root
from ed25519 import public_key
from frames import Verb
from grants import BadGrant, check
from messages import ChunkSet, Hello, Ranges, RegionInfo, StageInfo, Stat, Welcome
from postcard import Reader

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "spec" / "vectors"


def lines(name: str) -> list[list[str]]:
    text = (FOLDER / name).read_text()
    return [line.split() for line in text.splitlines() if line and not line.startswith("#")]


def same(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise AssertionError(f"{what}: found {found!r}, expected {expected!r}")


def again(payload: bytes, read, encode) -> object:
    """Decodes a body and encodes it again."""
    value = messages.whole(payload, read)
    same("a body", encode(value), payload)
    return value


def named(body: Reader) -> str:
    return body.text()


def body_of(frame: frames.Frame) -> object:
    """What the body of a frame says, by verb and direction (section 4); nothing where there is none."""
    verb, reply, payload = frame.verb, frame.reply, frame.payload
    if frame.status:
        return messages.error_text(payload)
    number = (Reader.u64, postcard.varint)
    name = (named, postcard.text)
    by_verb = {
        (Verb.HELLO, False): (Hello.read, Hello.encode),
        (Verb.HELLO, True): (Welcome.read, Welcome.encode),
        (Verb.OPEN, False): name,
        (Verb.OPEN, True): (RegionInfo.read, RegionInfo.encode),
        (Verb.READ_IF_CHANGED, False): name,
        (Verb.READ, False): (lambda b: b.list_of(b.u32), postcard.integers),
        (Verb.READ_RANGES, False): (Ranges.read, Ranges.encode),
        (Verb.OPEN_STAGE, False): (
            lambda b: (b.text(), StageInfo.read(b)),
            lambda v: postcard.text(v[0]) + v[1].encode(),
        ),
        (Verb.OPEN_STAGE, True): (ChunkSet.read, ChunkSet.encode),
        (Verb.SUBSCRIBE, False): name,
        (Verb.NOTIFY, False): (
            lambda b: (b.text(), b.counted()),
            lambda v: postcard.text(v[0]) + postcard.counted(v[1]),
        ),
        (Verb.OPEN_CELLS, False): name,
        (Verb.OPEN_CELLS, True): (Reader.u32, postcard.varint),
        (Verb.CAS, False): (
            lambda b: (b.u64(), b.u64()),
            lambda v: postcard.varint(v[0]) + postcard.varint(v[1]),
        ),
        (Verb.CAS, True): number,
        (Verb.FETCH_ADD, False): number,
        (Verb.FETCH_ADD, True): number,
        (Verb.STAT, False): (
            lambda b: b.option(b.text),
            lambda v: postcard.option(None if v is None else postcard.text(v)),
        ),
        (Verb.STAT, True): (Stat.read, Stat.encode),
        (Verb.REVOKE, False): (
            lambda b: (b.text(), b.u64()),
            lambda v: postcard.text(v[0]) + postcard.varint(v[1]),
        ),
    }
    known = by_verb.get((verb, reply))
    return None if known is None or not payload else again(payload, *known)


def conversation() -> int:
    """rdpa-2.txt: each frame comes back to the same bytes; what they say of one region agrees."""
    said = {}
    for name, text in lines("rdpa-2.txt"):
        data = bytes.fromhex(text)
        frame = frames.decode(data)
        same(name, frames.encode(frame), data)
        said[name] = (frame, body_of(frame))
    info = said["opened"][1]
    same("the version", said["opened"][0].version, info.version)
    same("the root", merkle_root(info.hashes), info.root)
    for name in ("chunk-1", "chunk-3"):
        frame = said[name][0]
        same(name, blake3(frame.payload), info.hashes[frame.offset])
        same(name, len(frame.payload), info.shape.chunk_length(frame.offset))
    same("the piece", len(said["piece"][0].payload), said["ranges"][1].packed_bytes())
    same("the request", said["chunk-1"][0].request, said["read"][0].request)
    same("the level", said["fence"][0].level <= said["fenced"][0].level, True)
    same("the error", said["not-complete"], (said["not-complete"][0], "3 missing"))
    for ask, answer in (("cas", "cas-held"), ("stat", "stat-told"), ("revoke", "revoked")):
        same(answer, said[answer][0].request, said[ask][0].request)
        same(answer, said[answer][0].reply, True)
    return len(said)


def hashed_frames() -> int:
    """rdpa-*.hex: frames whose header gives the payload's hash, and what damage does to them."""
    files = sorted(FOLDER.glob("rdpa-*.hex"))
    for path in files:
        data = bytes.fromhex("".join(path.read_text().split()))
        frame = frames.decode(data)
        same(path.name, frames.encode(frame), data)
        for at in (0, 4, 10, len(data) - 1):
            damaged = bytearray(data)
            damaged[at] ^= 0x80
            try:
                frames.decode(bytes(damaged))
            except frames.BadFrame:
                continue
            if at != len(data) - 1 or frame.hashed:
                raise AssertionError(f"{path.name}: byte {at} may change and nobody notices")
    return len(files)


def grants() -> int:
    """access.txt: the good chains are good, the bad ones are refused."""
    key = {public_key(bytes([seed]) * 32): seed for seed in range(1, 8)}
    owner = public_key(bytes([1]) * 32)
    count = 0
    for kind, name, text in lines("access.txt"):
        data = bytes.fromhex(text)
        count += 1
        if kind == "good":
            shown_by = public_key(bytes([data[5] + 1]) * 32)
            links = check(data, owner, shown_by)
            same(name, [key[link.holder] for link in links], list(range(2, len(links) + 2)))
            thief = public_key(bytes([7]) * 32)
            for wrong in ((owner, thief), (thief, shown_by)):
                _refused(f"{name}, of another", data, *wrong)
        else:
            shown_by = public_key(bytes([min(data[5], 6) + 1]) * 32)
            _refused(name, data, owner, shown_by)
    return count


def _refused(name: str, data: bytes, owner: bytes, shown_by: bytes) -> None:
    try:
        check(data, owner, shown_by)
    except (BadGrant, postcard.BadBody):
        return
    raise AssertionError(f"{name} was taken for good")


def roots() -> int:
    """params.txt: Merkle roots, which RDPA takes from there."""
    count = 0
    for words in lines("params.txt"):
        if words[0] == "root":
            data = b"" if words[1] == "-" else bytes.fromhex(words[1])
            hashes = [data[at : at + 32] for at in range(0, len(data), 32)]
            same("a root", merkle_root(hashes).hex(), words[2])
            count += 1
    return count


def header_bounds() -> int:
    """Section 2: each check of a header can be seen to refuse."""
    good = frames.encode(frames.Frame(Verb.PING, offset=7))
    wrong = {
        "magic": (0, b"X"),
        "format": (4, b"\x02"),
        "opcode": (5, b"\xff"),
        "flags": (6, struct.pack("<H", 1 << 4)),
        "status in a request": (8, b"\x01"),
        "reserved": (10, b"\x01"),
        "length": (12, struct.pack("<I", 65)),
        "a hash that is not given": (48, b"\x01"),
    }
    for what, (at, value) in wrong.items():
        data = good[:at] + value + good[at + len(value) :]
        try:
            frames.header(data)
        except frames.BadFrame:
            continue
        raise AssertionError(f"a header with a wrong {what} was taken")
    return len(wrong)


def main() -> int:
    failed = 0
    for name, work in (
        ("rdpa-2.txt", conversation),
        ("rdpa-*.hex", hashed_frames),
        ("headers", header_bounds),
        ("access.txt", grants),
        ("params.txt, roots", roots),
    ):
        try:
            print(f"vectors: {name}: {work()} agree")
        except Exception as error:  # whatever it is, the next file is looked at too
            failed += 1
            print(f"vectors: {name}: {type(error).__name__}: {error}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
