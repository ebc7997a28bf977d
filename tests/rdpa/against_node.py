"""This implementation against a real node: every verb, its errors, and what hostile bytes get.

    python3 tests/rdpa/against_node.py PROGRAM

PROGRAM holds two names on loopback over plain TCP and prints `ADDRESS NODE`: region `theta`
(1 000 000 bytes, byte i is i * 31 % 251, chunks of 65 536; each line on its standard input publishes a
version whose byte 0 is its number) and cells `counters` (8). It ends with its standard input.

Prints a line a check; ends with 1 when one fails. It takes some seconds.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Iterator

import frames
from blake3 import blake3, merkle_root
from client import Client, Region, WrongChunk, chunks_of
from frames import Code, Frame, Level, Verb
from link import Key, LinkEnded, PlainLink, WrongPeer
from messages import Kind, Placement, Role, Shape, Span, StageInfo
from session import PeerFault, Refused

CHUNK = 65_536
CONTENT = bytes(i * 31 % 251 for i in range(1_000_000))
DEADLINE_S = 60


class Node:
    """The program under test; ended when done."""

    def __init__(self, program: str) -> None:
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        address, node = self.process.stdout.readline().split()
        host, port = address.rsplit(":", 1)
        self.address, self.node = (host, int(port)), bytes.fromhex(node)

    def publish(self) -> None:
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def client(self, key: Key | None = None) -> Client:
        return Client.connect(self.address, self.node, key=key)

    def end(self) -> None:
        self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()


def same(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise AssertionError(f"{what}: found {found!r}, expected {expected!r}")


@contextmanager
def refused(code: Code) -> Iterator[None]:
    try:
        yield
    except Refused as error:
        same("the code", error.code, code)
        return
    raise AssertionError(f"expected {code.name}, it was done")


def a_region_is_read_whole_and_each_chunk_has_its_hash(node: Node) -> None:
    with node.client() as client:
        region = client.open("theta")
        same("the version", region.info.version, 1)
        same("the shape", (region.info.shape.bytes, region.info.shape.chunk_bytes), (len(CONTENT), CHUNK))
        hashes = [blake3(chunk) for chunk in chunks_of(CONTENT, CHUNK)]
        same("the hashes", region.info.hashes, hashes)
        same("the root", region.info.root, merkle_root(hashes))
        client.read(region, [3, 15])
        same("what is there", sorted(region.chunks), [3, 15])
        client.read(region)
        same("the bytes", region.data() == CONTENT, True)
        same("the handle of the same version", client.open("theta").handle, region.handle)
        same("the welcome", client.welcome.version, 2)
        same("the time", abs(client.welcome.time_ms / 1000 - time.time()) < 60, True)


def ranges_and_strides_come_packed(node: Node) -> None:
    with node.client() as client:
        region = client.open("theta")
        spans = [Span(10, 3, 100, 4), Span(999_999, 1, 1, 1), Span(0, 70_000, 70_000, 10)]
        packed = b"".join(
            CONTENT[span.offset + at * span.stride :][: span.length]
            for span in spans
            for at in range(span.count)
        )
        same("the packed answer", client.read_ranges(region, spans) == packed, True)
        with refused(Code.OUT_OF_RANGE):
            client.read_ranges(region, [Span(999_999, 2, 2, 1)])


def only_a_changed_version_is_opened(node: Node) -> None:
    with node.client() as client:
        version = client.open("theta").info.version
        same("not changed", client.read_if_changed("theta", version), None)
        changed = client.read_if_changed("theta", version + 1)
        same("equality, not order", changed.info.version, version)


def what_is_not_there_is_refused(node: Node) -> None:
    with node.client() as client:
        for name in ("nothing/here", "counters"):
            with refused(Code.NO_SUCH_REGION):
                client.open(name)
        with refused(Code.NO_SUCH_REGION):
            client.open_cells("theta")
        region = client.open("theta")
        with refused(Code.BAD_HANDLE):
            client._call(Frame(Verb.READ, handle=region.handle ^ (1 << 40), payload=b"\x01\x00"))
        with refused(Code.OUT_OF_RANGE):
            client._call(Frame(Verb.READ, handle=region.handle, payload=b"\x01\x63"))
        with refused(Code.UNSUPPORTED):
            client.send(b"nobody above takes messages here")
        with refused(Code.UNSUPPORTED):
            client.revoke("job/", 1)
        same("it goes on", client.open("theta").handle, region.handle)


def a_handle_is_good_in_its_own_session_only(node: Node) -> None:
    with node.client() as first, node.client() as second:
        region = first.open("theta")
        with refused(Code.BAD_HANDLE):
            second._call(Frame(Verb.READ, handle=region.handle, payload=b"\x01\x00"))


def a_version_is_written_and_committed(node: Node) -> None:
    data = bytes(range(256)) * 700
    with node.client() as client:
        stage = client.open_stage("python/written", Kind.WRITE, data, 50_000)
        with refused(Code.NOT_COMPLETE):
            client.commit(stage, 0)
        chunks = chunks_of(data, 50_000)
        same("placed", client.place(stage, 1, chunks[1], Level.PLACED), Placement.PLACED)
        same("again", client.place(stage, 1, chunks[1]), Placement.DUPLICATE)
        same("another", client.place(stage, 1, bytes(50_000)), Placement.CONFLICT)
        same("what is in place", client.open_stage_of("python/written", stage.info).placed, frozenset([1]))
        for index, chunk in ((9, b"x"), (0, b"short")):
            with refused(Code.OUT_OF_RANGE):
                client.place(stage, index, chunk)
        client.place_all(client.open_stage_of("python/written", stage.info), data)
        same("a fence", client.fence(Level.PLACED) >= Level.PLACED, True)
        with refused(Code.UNAVAILABLE):
            client.fence(Level.DURABLE)
        with refused(Code.CONFLICT):
            client.commit(stage, 5)
        same("the version", client.commit(stage, 0), 1)
    with node.client() as client:
        region = client.open("python/written")
        client.read(region)
        same("the bytes", region.data() == data, True)


def a_transfer_goes_on_after_a_reconnect(node: Node) -> None:
    data, key = bytes(200_000), Key.fresh()
    with node.client(key) as client:
        stage = client.open_stage("python/resumed", Kind.WRITE, data, 40_000)
        client.place(stage, 2, chunks_of(data, 40_000)[2])
    with node.client() as stranger:
        another = stranger.open_stage_of("python/resumed", stage.info)
        same("what is in place of another peer's", another.placed, frozenset())
    with node.client(key) as client:
        stage = client.open_stage_of("python/resumed", stage.info)
        same("what was in place", stage.placed, frozenset([2]))
        client.place_all(stage, data)
        same("the version", client.commit(stage, 0), 1)


def a_contribution_is_accumulated_and_cannot_be_committed(node: Node) -> None:
    data = b"delta" * 10_000
    with node.client() as client:
        stage = client.open_stage("python/grad/1", Kind.ACCUMULATE, data, 20_000)
        client.place_all(stage, data)
        same("again", client.place(stage, 0, data[:20_000]), Placement.DUPLICATE)
        try:
            client.commit(stage, 0)
        except Refused:
            return
        raise AssertionError("a contribution was committed")


def a_staging_area_with_another_root_is_another(node: Node) -> None:
    shape = Shape(10, 10)
    with node.client() as client:
        info = StageInfo(Kind.WRITE, shape, merkle_root([blake3(b"a" * 10)]))
        stage = client.open_stage_of("python/wrong", info)
        client.place(stage, 0, b"b" * 10)
        with refused(Code.NOT_COMPLETE):
            client.commit(stage, 0)


def cells_count_and_swap(node: Node) -> None:
    with node.client() as client:
        handle, count = client.open_cells("counters")
        same("how many", count, 8)
        same("held", client.fetch_add(handle, 3, 5), 0)
        same("held then", client.fetch_add(handle, 3, 2**64 - 4), 5)
        same("wrapped", client.cas(handle, 3, 1, 77), 1)
        same("not swapped", client.cas(handle, 3, 1, 78), 77)
        same("still", client.fetch_add(handle, 3, 0), 77)
        with refused(Code.OUT_OF_RANGE):
            client.fetch_add(handle, 8, 1)


def a_new_version_is_told_and_the_old_one_stays_whole(node: Node) -> None:
    with node.client() as client:
        region = client.open("theta")
        before = region.info.version
        same("the version now", client.subscribe("theta"), before)
        node.publish()
        notice = client.next_notice()
        same("the notice", (notice.name, notice.version), ("theta", before + 1))
        client.read(region)
        same("the pinned version", region.data()[1:] == CONTENT[1:], True)
        newer = client.read_if_changed("theta", before)
        client.read(newer, [0])
        same("its byte 0", newer.chunks[0][0], before + 1)
        same("what did not change", newer.info.hashes[1:], region.info.hashes[1:])
        stat = client.stat("theta")
        same("the newest", stat.region.version, before + 1)
        same("what the old one costs", stat.region.pinned_bytes, CHUNK)


def the_session_counts_and_answers_pings(node: Node) -> None:
    with node.client() as client:
        client.open("theta")
        stat = client.stat()
        same("no region was asked for", stat.region, None)
        same("requests", stat.session.requests >= 2, True)
        reply = client.session._link
        reply.send(Frame(Verb.PING, offset=123))
        answer = until(lambda: reply.receive(1))
        same("the time comes back", (answer.verb, answer.reply, answer.offset), (Verb.PING, True, 123))


def until(look: Callable[[], Frame | None]) -> Frame:
    for _ in range(10):
        found = look()
        if found is not None:
            return found
    raise AssertionError("nothing came")


def before_hello_only_ping_is_served(node: Node) -> None:
    link = PlainLink.connect(node.address, Key.fresh(), node.node)
    client = Client(link)
    with refused(Code.UNAUTHORISED):
        client._call(Frame(Verb.STAT, payload=b"\x00"))
    with refused(Code.VERSION):
        client.hello(versions=(200, 201))
    same("another HELLO", client.hello(role=Role.WATCH).version, 2)
    client.close()


def an_answer_is_given_again_and_nothing_done_again(node: Node) -> None:
    with node.client() as client:
        handle, _ = client.open_cells("counters")
        link = client.session._link
        frame = Frame(Verb.FETCH_ADD, request=900, handle=handle, offset=5, payload=b"\x01")
        for _ in range(3):
            link.send(frame)
            answer = until(lambda: link.receive(1))
            same("what it held", (answer.request, answer.payload), (900, b"\x00"))
        same("added once", client.fetch_add(handle, 5, 0), 1)


def hostile_bytes_end_the_connection_and_nothing_else(node: Node) -> None:
    good = frames.encode(Frame(Verb.STAT, request=50, payload=b"\x00"))
    longest = b"\xff\xff\xff\xff"
    hostile = {
        "noise": bytes(range(64)),
        "an unknown opcode": good[:5] + b"\x63" + good[6:],
        "unknown flags": good[:6] + b"\xf2\xff" + good[8:],
        "a status in a request": good[:8] + b"\x01\x00" + good[10:],
        "four gigabytes": good[:12] + longest + good[16:],
        "another hash": frames.encode(Frame(Verb.STAT, request=51, payload=b"\x00", hashed=True))[:-1] + b"\x01",
    }
    for what, data in hostile.items():
        client = node.client()
        client.session._link.send_bytes(data)
        try:
            for _ in range(20):
                client.session._link.receive(0.5)
            raise AssertionError(f"{what}: the connection goes on")
        except (LinkEnded, ConnectionError, PeerFault):
            pass
        finally:
            client.close()
    # Cut off within a header, and within a payload.
    for length in (10, 64):
        client = node.client()
        client.session._link.send_bytes(frames.encode(Frame(Verb.SEND, request=9, payload=bytes(90)))[:length])
        client.close()
    with node.client() as client:
        same("others are served", client.open("theta").name, "theta")


def every_hostile_vector_gets_what_the_document_says(node: Node) -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "spec" / "vectors" / "rdpa-hostile.txt").read_text()
    cases = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    same("that there are some", len(cases) > 20, True)
    for name, outcome, data in cases:
        client = node.client()
        try:
            handle = client.open("theta").handle
            link = client.session._link
            link.send_bytes(bytes.fromhex(data.replace("ab" * 8, handle.to_bytes(8, "little").hex())))
            try:
                answer = until(lambda: link.receive(1))
                found = str(int(answer.status))
            except (LinkEnded, ConnectionError):
                found = "close"
            same(name, found, outcome)
        finally:
            client.close()
    with node.client() as client:
        same("others are served", client.open("theta").name, "theta")


def a_node_with_another_key_is_not_taken(node: Node) -> None:
    try:
        PlainLink.connect(node.address, Key.fresh(), bytes(31) + b"\x01")
    except (WrongPeer, LinkEnded):
        return
    raise AssertionError("a node with another key was taken")


def a_handshake_that_proves_nothing_is_ended(node: Node) -> None:
    with socket.create_connection(node.address, 5) as stream:
        stream.settimeout(5)
        stream.sendall(b"SUANLI\x00\x01" + bytes(64))
        stream.recv(4_096)
        stream.sendall(bytes(64))
        same("the end", stream.recv(1), b"")


def a_chunk_without_its_hash_is_noticed(node: Node) -> None:
    with node.client() as client:
        region = client.open("theta")
        hashes = [*region.info.hashes[:2], blake3(b"another"), *region.info.hashes[3:]]
        lied = Region(region.name, region.handle, type(region.info)(
            region.info.version, region.info.shape, region.info.root, hashes
        ))
        try:
            client.read(lied, [2])
        except (WrongChunk, PeerFault):
            return
        raise AssertionError("a wrong chunk was taken")


CHECKS = [
    a_region_is_read_whole_and_each_chunk_has_its_hash,
    ranges_and_strides_come_packed,
    only_a_changed_version_is_opened,
    what_is_not_there_is_refused,
    a_handle_is_good_in_its_own_session_only,
    a_version_is_written_and_committed,
    a_transfer_goes_on_after_a_reconnect,
    a_contribution_is_accumulated_and_cannot_be_committed,
    a_staging_area_with_another_root_is_another,
    cells_count_and_swap,
    a_new_version_is_told_and_the_old_one_stays_whole,
    the_session_counts_and_answers_pings,
    before_hello_only_ping_is_served,
    an_answer_is_given_again_and_nothing_done_again,
    hostile_bytes_end_the_connection_and_nothing_else,
    every_hostile_vector_gets_what_the_document_says,
    a_node_with_another_key_is_not_taken,
    a_handshake_that_proves_nothing_is_ended,
    a_chunk_without_its_hash_is_noticed,
]


def main() -> int:
    node, failed, begun = Node(sys.argv[1]), 0, time.monotonic()
    try:
        for check in CHECKS:
            name = check.__name__.replace("_", " ")
            try:
                check(node)
                print(f"client: {name}")
            except Exception as error:  # the next check is done too
                failed += 1
                print(f"client: {name}: {type(error).__name__}: {error}")
            if time.monotonic() - begun > DEADLINE_S:
                print(f"client: more than {DEADLINE_S} s")
                return 1
    finally:
        node.end()
    print(f"client: {len(CHECKS) - failed} of {len(CHECKS)} agree, {time.monotonic() - begun:.1f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
