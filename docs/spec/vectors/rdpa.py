"""Makes rdpa-*.hex and rdpa-2.txt from docs/spec/rdpa.md alone, without code of ours but the BLAKE3
and Merkle root of params.py.

    python3 rdpa.py
"""

import os
import struct

from params import blake3, root


def frame(
    opcode, payload=b"", reply=False, status=0, request=0, handle=0, version=0, offset=0,
    level=0, hashed=True,
):
    flags = int(reply) | (not hashed) << 1 | level << 2
    head = struct.pack("<4sBBHHHI", b"RDPA", 1, opcode, flags, status, 0, len(payload))
    head += struct.pack("<QQQQ", request, handle, version, offset)
    head += blake3(payload)[:16] if hashed else bytes(16)
    assert len(head) == 64
    return head + payload


# postcard 1
def number(n):
    out = b""
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def numbers(*ns):
    return b"".join(map(number, ns))


def string(s):
    return number(len(s)) + s.encode()


def listed(items):
    return number(len(items)) + b"".join(items)


WIDE = dict(request=0x1122334455667788, handle=0x0102030405060708, version=7, offset=3)
VECTORS = {
    "accumulate": frame(8, b"int4", **WIDE),
    "data": frame(4, b"theta", reply=True, **WIDE),
    "send": frame(9, b"hello", request=5),
    "error": frame(4, b"gone", reply=True, status=3, request=9, offset=3),
    "ping": frame(13, offset=1_700_000_000_000),
}

for name, value in VECTORS.items():
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), f"rdpa-{name}.hex")
    with open(path, "w") as file:
        text = value.hex()
        file.writelines(text[at : at + 32] + "\n" for at in range(0, len(text), 32))


# Version 2: one conversation, most verbs, each frame as it travels on a link that authenticates.
CONTENT = bytes(i * 7 % 251 for i in range(1000))
CHUNKS = [CONTENT[at : at + 300] for at in range(0, 1000, 300)]
HASHES = [blake3(chunk) for chunk in CHUNKS]
SHAPE = numbers(1000, 300)
ROOT = root(HASHES)
H1, H2, H3 = 0x1111222233330001, 0x4444555566660002, 0x777788889999_0003


def ask(opcode, request, payload=b"", **fields):
    return frame(opcode, payload, request=request, hashed=False, **fields)


def answer(opcode, request, payload=b"", **fields):
    return frame(opcode, payload, reply=True, request=request, hashed=False, **fields)


CONVERSATION = {
    "hello": ask(1, 1, bytes([2, 2]) + number(1) + string("ticket")),
    "welcome": answer(1, 1, bytes([2]) + numbers(64, 4 << 20, 1_800_000_000_000)),
    "open": ask(2, 2, string("job/ab/theta")),
    "opened": answer(2, 2, number(9) + SHAPE + ROOT + listed(HASHES), handle=H1, version=9),
    "read": ask(4, 3, listed([number(1), number(3)]), handle=H1),
    "chunk-1": answer(4, 3, CHUNKS[1], version=9, offset=1),
    "chunk-3": answer(4, 3, CHUNKS[3], version=9, offset=3),
    "ranges": ask(
        14, 4, listed([numbers(10, 3, 100, 4), numbers(999, 1, 0, 1)]) + listed([]), handle=H1
    ),
    "piece": answer(
        14, 4,
        b"".join(CONTENT[at : at + 3] for at in (10, 110, 210, 310)) + CONTENT[999:],
        version=9,
    ),
    "if-changed": ask(5, 5, string("job/ab/theta"), version=9),
    "not-changed": answer(5, 5),
    "open-stage": ask(3, 6, string("up/1") + number(0) + SHAPE + ROOT),
    "stage-opened": answer(3, 6, number(4) + listed([number(0b0101)]), handle=H2),
    "write": ask(6, 7, CHUNKS[3], handle=H2, offset=3, level=2),
    "placed": answer(6, 7, number(0), level=2),
    "fence": ask(18, 8, level=2),
    "fenced": answer(18, 8, level=3),
    "commit": ask(7, 9, handle=H2, version=9),
    "not-complete": answer(7, 9, b"3 missing", status=10),
    "open-cells": ask(15, 10, string("counters")),
    "cells-opened": answer(15, 10, number(8), handle=H3),
    "cas": ask(16, 11, numbers(5, 1 << 63), handle=H3, offset=7),
    "cas-held": answer(16, 11, number(5)),
    "fetch-add": ask(17, 12, number(300), handle=H3, offset=7),
    "add-held": answer(17, 12, number(1 << 63)),
    "subscribe": ask(10, 13, string("job/ab/theta")),
    "subscribed": answer(10, 13, version=9),
    "notify": ask(11, 1, string("job/ab/theta") + listed([b"n", b"o", b"w"]), version=10),
    "notified": answer(11, 1),
    "stat": ask(19, 14, bytes([1]) + string("job/ab/theta")),
    "stat-told": answer(
        19, 14,
        numbers(13, 2, 70_000, 600) + bytes([1]) + number(31)
        + bytes([1]) + numbers(10, 9) + SHAPE + ROOT + number(300),
    ),
    "revoke": ask(20, 15, string("job/") + number(4)),
    "revoked": answer(20, 15, version=4),
    "cancel": ask(12, 3),
}
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "rdpa-2.txt"), "w") as file:
    file.write("# Frozen: old lines are never edited, new ones are added. Made by rdpa.py.\n")
    file.write("# NAME FRAME of one conversation of protocol version 2; docs/spec/rdpa.md says what it means.\n")
    file.writelines(f"{name} {value.hex()}\n" for name, value in CONVERSATION.items())


# What a hostile peer sends, on a session that said HELLO as its request 1 and got the handle of an
# OPEN as its request 2; HANDLE stands where that handle goes.
HANDLE = 0xABAB_ABAB_ABAB_ABAB
GOOD = ask(19, 3, bytes([0]))
MOST = 2**64 - 1


def changed(at, value, base=GOOD):
    return base[:at] + value + base[at + len(value) :]


def announced(opcode, length):
    """A header whose payload never comes."""
    return changed(12, struct.pack("<I", length), ask(opcode, 3, handle=HANDLE))


def ranges(*spans):
    return ask(14, 3, listed([numbers(*span) for span in spans]) + listed([]), handle=HANDLE)


HOSTILE = {
    "magic": ("close", changed(0, b"G")),
    "format": ("close", changed(4, b"\x09")),
    "opcode-0": ("close", changed(5, b"\x00")),
    "opcode-99": ("close", changed(5, b"\x63")),
    "flags": ("close", changed(6, b"\xf2\xff")),
    "status-in-a-request": ("close", changed(8, b"\x01\x00")),
    "reserved": ("close", changed(10, b"\x01\x00")),
    "four-gigabytes": ("close", changed(12, b"\xff\xff\xff\xff")),
    "hash-that-is-not-given": ("close", changed(48, b"\x01")),
    "hash-of-something-else": (
        "close", changed(48, b"\x01" * 16, frame(19, bytes([0]), request=3)),
    ),
    "stat-above-its-bound": ("close", announced(19, (4 << 10) + 1)),
    "send-above-its-bound": ("close", announced(9, (64 << 10) + 1)),
    "write-above-its-bound": ("close", announced(6, (4 << 20) + 1)),
    "cancel-with-a-payload": ("close", announced(12, 1)),
    "body-of-noise": ("close", ask(2, 3, bytes([255]) * 12)),
    "body-with-something-left-over": ("close", ask(19, 3, bytes([0, 0]))),
    "name-that-is-not-utf-8": ("close", ask(2, 3, bytes([2, 0xC3, 0x28]))),
    "name-longer-than-its-bytes": ("close", ask(2, 3, number(MOST) + b"theta")),
    "list-longer-than-its-bytes": ("close", ask(4, 3, b"\xff\xff\xff\x7f", handle=HANDLE)),
    "chunks-that-do-not-rise": (
        "close", ask(4, 3, listed([number(5), number(5)]), handle=HANDLE),
    ),
    "one-id-for-two-verbs": ("close", ask(9, 3, b"a") + GOOD),
    "handle-of-nothing": ("4", ask(4, 3, listed([number(0)]))),
    "handle-of-another-session": ("4", ask(4, 3, listed([number(0)]), handle=H1)),
    "handle-of-another-generation": (
        "4", ask(4, 3, listed([number(0)]), handle=MOST),
    ),
    "chunk-past-the-end": ("5", ask(4, 3, listed([number(2**32 - 1)]), handle=HANDLE)),
    "offset-that-overflows": ("5", ranges((MOST, 1, 0, 1))),
    "length-that-overflows": ("5", ranges((0, MOST, 0, 2))),
    "stride-that-overflows": ("5", ranges((0, 1, MOST, 3))),
    "four-thousand-million-runs": ("5", ranges((0, 100, 0, 2**32 - 1))),
    "runs-of-nothing": ("5", ranges((0, 0, 0, 1))),
    "more-together-than-64-mib": ("5", ranges(*[(0, 600_000, 0, 100)] * 2)),
    "region-that-is-not-there": ("2", ask(2, 3, string("nothing/here"))),
}
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "rdpa-hostile.txt"), "w") as file:
    file.write("# Frozen: old lines are never edited, new ones are added. Made by rdpa.py.\n")
    file.write("# NAME OUTCOME BYTES: after HELLO as request 1 and OPEN as request 2, whose handle goes\n")
    file.write("# where abababababababab stands, these bytes end the connection (close) or are answered with\n")
    file.write("# that code (docs/spec/rdpa.md, section 8); no other connection notices.\n")
    for name, (outcome, data) in HOSTILE.items():
        file.write(f"{name} {outcome} {data.hex()}\n")


# What a hostile holder sends to a reader that asks, one after the other: 1 HELLO, 2 OPEN theta,
# 3 OPEN eta, 4 READ of all chunks of theta.
OTHER = CONTENT[::-1]
OTHER_HASHES = [blake3(OTHER[at : at + 300]) for at in range(0, 1000, 300)]


def region(shape=SHAPE, hashes=HASHES, of=None, version=9):
    return number(version) + shape + (of or root(hashes)) + listed(hashes)


def opened(body, request=2, handle=H1, version=9):
    return answer(2, request, body, handle=handle, version=version)


def welcome(version=2, requests_max=64, window=4 << 20):
    return answer(1, 1, bytes([version]) + numbers(requests_max, window, 1_800_000_000_000))


def chunk(index, data, **fields):
    return answer(4, 4, data, version=9, offset=index, **fields)


ETA = region(hashes=OTHER_HASHES, version=5)
GOOD_HOLDER = {
    "welcome": (1, welcome()),
    "opened": (2, opened(region())),
    "opened-eta": (3, opened(ETA, request=3, handle=H2, version=5)),
    "chunks": (4, b"".join(chunk(index, data) for index, data in enumerate(CHUNKS))),
}
HOSTILE_HOLDER = {
    "welcome-of-version-9": (1, "close", welcome(version=9)),
    "welcome-of-version-0": (1, "close", welcome(version=0)),
    "welcome-that-allows-nothing": (1, "close", welcome(requests_max=0)),
    "welcome-without-an-end": (1, "close", answer(1, 1, bytes([2, 64]))),
    "welcome-with-something-left-over": (1, "close", answer(1, 1, welcome()[64:] + b"\0")),
    "welcome-of-another-verb": (1, "close", opened(region(), request=1)),
    "hello-from-the-holder": (1, "close", ask(1, 1, bytes([2, 2, 1, 0]))),
    "request-before-the-welcome": (1, "ignored", ask(9, 1, b"a")),
    "chunk-before-the-welcome": (1, "ignored", chunk(0, CHUNKS[0])),
    "root-of-something-else": (2, "close", opened(region(of=blake3(b"else")))),
    "a-hash-too-few": (2, "close", opened(region(hashes=HASHES[:3]))),
    "a-hash-too-many": (2, "close", opened(region(hashes=HASHES + HASHES[:1]))),
    "no-bytes": (2, "close", opened(region(shape=numbers(0, 300), hashes=[]))),
    "chunks-of-nothing": (2, "close", opened(region(shape=numbers(1000, 0)))),
    "chunks-above-4-mib": (2, "close", opened(region(shape=numbers(4 * ((4 << 20) + 1), (4 << 20) + 1)))),
    "bytes-that-overflow": (2, "close", opened(region(shape=numbers(MOST, 1)))),
    "hashes-longer-than-their-bytes": (
        2, "close", opened(number(9) + SHAPE + ROOT + number(MOST) + HASHES[0]),
    ),
    "opened-without-a-handle": (2, "close", opened(region(), handle=0)),
    "opened-and-nothing-said": (2, "close", opened(b"")),
    # The hashes and the root are right, the shape is not: the last chunk has 100 bytes.
    "right-hash-and-too-long": (2, "lie", opened(region(shape=numbers(910, 300)))),
    "right-hash-and-too-short": (2, "lie", opened(region(shape=numbers(1200, 300)))),
    "right-hash-and-other-chunks": (2, "lie", opened(region(shape=numbers(1000, 333)))),
    "refused-in-a-long-text": (2, "refused", answer(2, 2, b"no" * 2000, status=2)),
    "refused-in-escape-codes": (2, "refused", answer(2, 2, b"\x1b[2J\x07\xff\xfe", status=2)),
    "code-of-nothing": (2, "close", answer(2, 2, status=999)),
    "handle-of-theta-for-eta": (3, "close", opened(ETA, request=3, handle=H1, version=5)),
    "handle-of-theta-for-its-next-version": (
        3, "close", opened(region(version=10), request=3, handle=H1, version=10),
    ),
    "handle-of-theta-for-another-shape": (
        3, "close", opened(region(shape=numbers(999, 300)), request=3, handle=H1),
    ),
    "chunk-past-the-end": (4, "close", chunk(4, CHUNKS[0])),
    "chunk-of-an-index-that-overflows": (4, "close", chunk(2**32, CHUNKS[0])),
    "chunk-of-the-highest-index": (4, "close", chunk(MOST, CHUNKS[0])),
    "chunk-of-something-else": (4, "lie", chunk(0, bytes(300))),
    "chunk-of-another-index": (4, "lie", chunk(0, CHUNKS[1])),
    "chunk-a-byte-too-long": (4, "lie", chunk(3, CHUNKS[3] + b"\0")),
    "chunk-a-byte-too-short": (4, "lie", chunk(3, CHUNKS[3][:-1])),
    "chunk-of-nothing": (4, "lie", chunk(0, b"")),
    "chunk-above-4-mib": (4, "close", changed(12, struct.pack("<I", (4 << 20) + 1), chunk(0, b""))),
    "chunk-of-four-gigabytes": (4, "close", changed(12, b"\xff\xff\xff\xff", chunk(0, b""))),
    "chunk-that-is-not-its-frames-hash": (
        4, "close", changed(48, b"\x01" * 16, frame(4, CHUNKS[0], reply=True, request=4, version=9)),
    ),
    "piece-instead-of-a-chunk": (4, "close", answer(14, 4, CHUNKS[0], version=9)),
    "chunk-twice": (4, "ignored", chunk(0, CHUNKS[0]) * 2),
    "chunk-twice-and-then-otherwise": (4, "ignored", chunk(0, CHUNKS[0]) + chunk(0, bytes(300))),
    "reply-to-nothing": (4, "ignored", answer(9, 99)),
    "opened-twice": (4, "ignored", opened(ETA)),
    "notify-that-nobody-asked-for": (4, "ignored", ask(11, 1, string("theta") + listed([]), version=3)),
    "cancel-of-nothing": (4, "ignored", ask(12, 77)),
    "hello-again": (4, "close", ask(1, 2, bytes([2, 2, 1, 0]))),
    "read-refused": (4, "refused", chunk(0, b"gone", status=3)),
    "another-service": (4, "close", b"HTTP/1.1 400 Bad Request\r\n" * 3),
}
with open(
    os.path.join(os.path.dirname(os.path.abspath(__file__)), "rdpa-hostile-holder.txt"), "w"
) as file:
    file.write("# Frozen: old lines are never edited, new ones are added. Made by rdpa.py.\n")
    file.write("# NAME STEP OUTCOME BYTES: a reader asks 1 HELLO, 2 OPEN theta, 3 OPEN eta, 4 READ of all four chunks\n")
    file.write("# of theta, each when it has the answer before. The lines \"good\" are the answers of a good holder.\n")
    file.write("# Of any other line the bytes come in place of the answer of their step, the other answers being\n")
    file.write("# good, and end the connection (close), have the READ fail as the holder's fault (lie), are the\n")
    file.write("# holder's refusal (refused), or change nothing, the good answer coming behind them (ignored).\n")
    for name, (step, data) in GOOD_HOLDER.items():
        file.write(f"{name} {step} good {data.hex()}\n")
    for name, (step, outcome, data) in HOSTILE_HOLDER.items():
        file.write(f"{name} {step} {outcome} {data.hex()}\n")
