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
