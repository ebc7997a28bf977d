"""Reads a region of 256 MiB from a holder in another process, beside a plain socket's recv_into.

    python python/tests/measure.py      (in the environment of `cargo xtask python`)

Each row is the best of several rounds, taken in turns, so that both meet the same machine.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import suanli

BYTES = 256 << 20
ROUNDS = 5

HOLDER = """
import sys, suanli, numpy as np
holder = suanli.Holder(key=sys.argv[1] + "/holder.key", shared=sys.argv[1] + "/shared")
holder.publish("r", np.random.default_rng(1).integers(0, 256, int(sys.argv[2]), np.uint8))
folder = holder.listen(link="shared")
print(holder.node, holder.listen(), holder.listen(link="tcp"), folder, flush=True)
sys.stdin.read()
"""

PLAIN = """
import socket, sys, numpy as np
data = np.random.default_rng(1).integers(0, 256, int(sys.argv[1]), np.uint8)
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    stream, _ = listener.accept()
    with stream:
        while stream.recv(1):
            stream.sendall(data)
"""


def started(program: str, *arguments: str) -> tuple[subprocess.Popen, list[str]]:
    command = [sys.executable, "-c", program, *arguments]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    return child, child.stdout.readline().split()


def received(stream: socket.socket, memory: np.ndarray) -> None:
    stream.sendall(b"?")
    view, at = memoryview(memory), 0
    while at < BYTES:
        at += stream.recv_into(view[at:])


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        child, (node, tls, tcp, shared) = started(HOLDER, folder, str(BYTES))
        plain, (port,) = started(PLAIN, str(BYTES))
        key = Path(folder) / "client.key"
        regions = {
            name: suanli.connect(address, key=key, expected=node, link=name).open("r")
            for name, address in (("tls", tls), ("tcp", tcp), ("shared", shared))
        }
        stream = socket.create_connection(("127.0.0.1", int(port)))
        memory = np.zeros(BYTES, np.uint8)
        ways = {
            "recv_into, memory used before": lambda: received(stream, memory),
            "recv_into, fresh memory": lambda: received(stream, np.empty(BYTES, np.uint8)),
            "region over tcp, verified": regions["tcp"].read,
            "region over tls, verified": regions["tls"].read,
            "region over tls, out=": lambda: regions["tls"].read(out=memory),
            "region over shared, opened and mapped": lambda: regions["shared"]._mapped(),
        }
        best = dict.fromkeys(ways, float("inf"))
        for _ in range(ROUNDS):
            for name, way in ways.items():
                began = time.perf_counter()
                way()
                best[name] = min(best[name], time.perf_counter() - began)
        for name, seconds in best.items():
            print(f"{BYTES / seconds / 1e6:9.0f} MB/s  {name}")
        for process in (child, plain):
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
