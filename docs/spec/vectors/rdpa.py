"""Makes rdpa-*.hex from docs/spec/rdpa.md alone, without code of ours but the BLAKE3 of params.py.

    python3 rdpa.py
"""

import os
import struct

from params import blake3


def frame(opcode, payload=b"", reply=False, status=0, request=0, handle=0, version=0, offset=0):
    head = struct.pack("<4sBBHHHI", b"RDPA", 1, opcode, int(reply), status, 0, len(payload))
    head += struct.pack("<QQQQ", request, handle, version, offset)
    head += blake3(payload)[:16]
    assert len(head) == 64
    return head + payload


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
