"""What a reader does with the verbs (docs/spec/rdpa.md, section 4), and the checks it owes itself.

Not for: holding regions, or several sources at once.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import messages
import postcard
from blake3 import blake3, merkle_root
from frames import Code, Frame, Level, Verb
from link import Key, PlainLink
from messages import (
    ChunkSet, Hello, Kind, Placement, Ranges, RegionInfo, Role, Shape, Span, StageInfo, Stat, Welcome,
)
from postcard import BadBody, Reader
from session import PeerFault, Request, Session

VERSION_SPOKEN = 2
CHUNKS_OF_A_READ = 64


class WrongChunk(Exception):
    """A chunk without its hash: the holder's fault, the READ failed (section 6)."""


@dataclass
class Region:
    """An opened version: what it is, and the handle that stands for it."""

    name: str
    handle: int
    info: RegionInfo
    chunks: dict[int, bytes] = field(default_factory=dict)

    def missing(self) -> list[int]:
        """What a READ still has to ask for (section 6, Resume)."""
        return [at for at in range(len(self.info.hashes)) if at not in self.chunks]

    def data(self) -> bytes:
        return b"".join(self.chunks[at] for at in range(len(self.info.hashes)))


@dataclass(frozen=True)
class Stage:
    """A staging area that was opened, and which chunks are in place."""

    handle: int
    info: StageInfo
    placed: frozenset[int]


@dataclass(frozen=True)
class Notice:
    """A new version of a region that was subscribed to."""

    name: str
    version: int
    immediate: bytes


class Client:
    """One session with a holder."""

    def __init__(self, link: PlainLink, timeout_s: float = 5) -> None:
        self.session = Session(link, self._noticed)
        self.timeout_s = timeout_s
        self.notices: list[Notice] = []
        self._subscribed: dict[str, int] = {}
        self.welcome: Welcome | None = None

    @staticmethod
    def connect(address: tuple[str, int], node: bytes, ticket: bytes = b"", key: Key | None = None) -> Client:
        """Connects over plain TCP and says HELLO."""
        client = Client(PlainLink.connect(address, key or Key.fresh(), node))
        client.hello(ticket)
        return client

    def close(self) -> None:
        self.session.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # The session

    def hello(self, ticket: bytes = b"", role: Role = Role.TRAIN, versions: tuple[int, int] = (2, 2)) -> Welcome:
        body = Hello(*versions, role, ticket).encode()
        welcome = self._body(Frame(Verb.HELLO, payload=body), Welcome.read)
        if not versions[0] <= welcome.version <= versions[1]:
            raise PeerFault(f"version {welcome.version} was not offered")
        if not welcome.requests_max:
            raise PeerFault("a WELCOME that allows no requests")
        self.session.limit(welcome.requests_max, welcome.bulk_window_bytes)
        self.welcome = welcome
        return welcome

    def stat(self, name: str | None = None) -> Stat:
        body = postcard.option(None if name is None else postcard.text(name))
        return self._body(Frame(Verb.STAT, payload=body), Stat.read)

    def send(self, message: bytes) -> None:
        self._call(Frame(Verb.SEND, payload=message))

    def fence(self, level: Level) -> Level:
        """Waits until everything before it is at least so safe."""
        reached = Level(self._call(Frame(Verb.FENCE, level=level)).level)
        if reached is Level.UNSAID:
            raise PeerFault("a reply to FENCE always carries a level")
        return reached

    def revoke(self, prefix: str, epoch: int) -> int:
        body = postcard.text(prefix) + postcard.varint(epoch)
        return self._call(Frame(Verb.REVOKE, payload=body)).version

    # Reading

    def open(self, name: str) -> Region:
        return self._region(name, self._call(Frame(Verb.OPEN, payload=postcard.text(name))))

    def read_if_changed(self, name: str, version: int) -> Region | None:
        """As `open`, or nothing when this version is the newest."""
        frame = Frame(Verb.READ_IF_CHANGED, version=version, payload=postcard.text(name))
        reply = self._call(frame)
        return None if reply.handle == 0 else self._region(name, reply)

    def _region(self, name: str, reply: Frame) -> Region:
        try:
            info = messages.whole(reply.payload, RegionInfo.read)
            info.check()
        except BadBody as error:
            raise self._fault(f"a region that contradicts itself: {error}") from error
        if info.version != reply.version:
            raise self._fault(f"version {info.version} under {reply.version}")
        return Region(name, reply.handle, info)

    def read(self, region: Region, chunks: list[int] | None = None) -> None:
        """Reads chunks, or what is missing, into the region; each is checked by its whole hash."""
        wanted = region.missing() if chunks is None else chunks
        parts = [wanted[at : at + CHUNKS_OF_A_READ] for at in range(0, len(wanted), CHUNKS_OF_A_READ)]
        for request in [self._ask_chunks(region, part) for part in parts]:
            self.session.wait(request, self.timeout_s)

    def _ask_chunks(self, region: Region, chunks: list[int]) -> Request:
        owed = set(chunks)

        def collect(frame: Frame) -> bool:
            if frame.offset >= len(region.info.hashes):
                raise self._fault(f"chunk {frame.offset} of {len(region.info.hashes)}")
            if frame.offset in owed:
                self._check_chunk(region, frame)
                owed.discard(frame.offset)
                region.chunks[frame.offset] = frame.payload
            return not owed

        body = postcard.integers(chunks)
        return self.session.ask(Frame(Verb.READ, handle=region.handle, payload=body), collect)

    @staticmethod
    def _check_chunk(region: Region, frame: Frame) -> None:
        if frame.version != region.info.version:
            raise PeerFault(f"a chunk of version {frame.version}, not {region.info.version}")
        if blake3(frame.payload) != region.info.hashes[frame.offset]:
            raise WrongChunk(f"chunk {frame.offset} of {region.name} does not have its hash")

    def read_ranges(self, region: Region, spans: list[Span]) -> bytes:
        """The packed answer: the runs of all spans, one behind the other."""
        whole = Ranges(spans, [])
        count = -(-whole.packed_bytes() // messages.PIECE_BYTES)
        pieces: dict[int, bytes] = {}

        def collect(frame: Frame) -> bool:
            if frame.offset >= count or len(frame.payload) != whole.piece_length(frame.offset):
                raise self._fault(f"piece {frame.offset} with {len(frame.payload)} bytes")
            pieces.setdefault(frame.offset, frame.payload)
            return len(pieces) == count

        frame = Frame(Verb.READ_RANGES, handle=region.handle, payload=whole.encode())
        self.session.call(frame, collect, self.timeout_s)
        return b"".join(pieces[at] for at in range(count))

    # New versions

    def subscribe(self, name: str) -> int:
        """Asks to be told of new versions; the version now, 0 for none."""
        self._subscribed[name] = 0
        version = self._call(Frame(Verb.SUBSCRIBE, payload=postcard.text(name))).version
        self._subscribed[name] = max(version, self._subscribed[name])
        return version

    def unsubscribe(self, name: str) -> None:
        """The next NOTIFY is answered NO_SUCH_REGION, which ends the subscription."""
        self._subscribed.pop(name, None)

    def next_notice(self, timeout_s: float = 5) -> Notice:
        """The next new version, waited for."""
        until = time.monotonic() + timeout_s
        while not self.notices:
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"no notice in {timeout_s} s")
            self.session.pump(left)
        return self.notices.pop(0)

    def _noticed(self, frame: Frame) -> Code | None:
        try:
            name, immediate = messages.whole(frame.payload, lambda body: (body.text(), body.counted()))
        except BadBody as error:
            raise self._fault(f"a notice that is not one: {error}") from error
        if name not in self._subscribed:
            return Code.NO_SUCH_REGION
        if frame.version > self._subscribed[name]:
            self._subscribed[name] = frame.version
            self.notices.append(Notice(name, frame.version, immediate))
        return None

    # Writing

    def open_stage(self, name: str, kind: Kind, data: bytes, chunk_bytes: int) -> Stage:
        """Announces what will come."""
        shape = Shape(len(data), chunk_bytes)
        root = merkle_root([blake3(chunk) for chunk in chunks_of(data, chunk_bytes)])
        return self.open_stage_of(name, StageInfo(kind, shape, root))

    def open_stage_of(self, name: str, info: StageInfo) -> Stage:
        frame = Frame(Verb.OPEN_STAGE, payload=postcard.text(name) + info.encode())
        reply = self._call(frame)
        placed = self._decoded(reply, ChunkSet.read)
        if placed.length != info.shape.chunks():
            raise self._fault(f"a set of {placed.length} chunks for {info.shape.chunks()}")
        return Stage(reply.handle, info, placed.chunks)

    def place(self, stage: Stage, index: int, chunk: bytes, level: Level = Level.UNSAID) -> Placement:
        """WRITE or ACCUMULATE of one chunk."""
        return self.placed(self.ask_place(stage, index, chunk, level))

    def ask_place(self, stage: Stage, index: int, chunk: bytes, level: Level = Level.UNSAID) -> Request:
        """As `place`, without waiting for the answer."""
        verb = Verb.WRITE if stage.info.kind is Kind.WRITE else Verb.ACCUMULATE
        return self.session.ask(
            Frame(verb, level=level, handle=stage.handle, offset=index, payload=chunk)
        )

    def placed(self, request: Request) -> Placement:
        """Waits for the answer to a placement. The level that was asked is reached, or it is an error."""
        reply = self.session.wait(request, self.timeout_s)
        if reply.level and reply.level < request.frame.level:
            raise PeerFault(f"level {reply.level} where {request.frame.level} was asked")
        return self._decoded(reply, lambda body: Placement(body.variant(len(Placement))))

    def place_all(self, stage: Stage, data: bytes) -> None:
        """Places every chunk that is not there yet, all under way together."""
        chunks = enumerate(chunks_of(data, stage.info.shape.chunk_bytes))
        asked = [self.ask_place(stage, at, chunk) for at, chunk in chunks if at not in stage.placed]
        for request in asked:
            self.placed(request)

    def commit(self, stage: Stage, expected: int) -> int:
        """Publishes a staged area; the new version."""
        return self._call(Frame(Verb.COMMIT, handle=stage.handle, version=expected)).version

    # Cells

    def open_cells(self, name: str) -> tuple[int, int]:
        """Handle and how many."""
        reply = self._call(Frame(Verb.OPEN_CELLS, payload=postcard.text(name)))
        return reply.handle, self._decoded(reply, Reader.u32)

    def cas(self, handle: int, cell: int, expected: int, new: int) -> int:
        """Puts `new` where `expected` is; what the cell held."""
        body = postcard.varint(expected) + postcard.varint(new)
        return self._body(Frame(Verb.CAS, handle=handle, offset=cell, payload=body), Reader.u64)

    def fetch_add(self, handle: int, cell: int, addend: int) -> int:
        """Adds modulo 2^64; what the cell held."""
        frame = Frame(Verb.FETCH_ADD, handle=handle, offset=cell, payload=postcard.varint(addend))
        return self._body(frame, Reader.u64)

    # What all share

    def _call(self, frame: Frame) -> Frame:
        return self.session.call(frame, timeout_s=self.timeout_s)

    def _body(self, frame: Frame, read):
        return self._decoded(self._call(frame), read)

    def _decoded(self, reply: Frame, read):
        try:
            return messages.whole(reply.payload, read)
        except BadBody as error:
            raise self._fault(f"a body that does not decode: {error}") from error

    def _fault(self, why: str) -> PeerFault:
        """The peer's fault ends the connection (section 6)."""
        self.close()
        return PeerFault(why)


def chunks_of(data: bytes, chunk_bytes: int) -> list[bytes]:
    return [data[at : at + chunk_bytes] for at in range(0, len(data), chunk_bytes)]
