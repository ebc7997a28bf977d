"""Makes log.txt from docs/spec/log.md alone.

    python3 log.py > log.txt
"""

import contextlib
import io
import struct

with contextlib.redirect_stdout(io.StringIO()):
    from params import h


def record(kind, seq, synced, prev, body=b""):
    front = b"SLog" + struct.pack("<HHQQII", 1, kind, seq, synced, len(body), 0) + prev
    hashed = h("suanli 2026 log record", front, body)
    return front + hashed + body, hashed


name = bytes(range(32))
genesis = h("suanli 2026 log genesis", name)
first, head = record(0, 0, 0, genesis, b"founded")
second, head = record(0, 1, 0, head)
mark, _ = record(1, 2, 2, head)
third, head = record(0, 2, 2, head, b"joined")
front = b"SSnp" + struct.pack("<HHQQ", 1, 0, 5, 3) + head
snapshot = front + h("suanli 2026 log snapshot", front, b"state") + b"state"

print("# Frozen: old lines are never edited, new ones are added. Made by log.py.")
print("genesis", genesis.hex())
print("log", (first + second + mark + third).hex())
print("snapshot", snapshot.hex())
