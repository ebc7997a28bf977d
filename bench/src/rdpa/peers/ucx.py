"""READ of one buffer of another process's memory with NIXL, its UCX backend over TCP on loopback.

    python ucx.py BYTES

Prints "ready VERSION", then for each line of standard input takes one turn and prints its MB/s; ends
with the input. The bytes that arrive are compared. Needs the packages nixl and numpy.
"""

import importlib.metadata
import multiprocessing
import os
import sys
import time

os.environ["UCX_TLS"] = "tcp"
os.environ["UCX_NET_DEVICES"] = "lo"


def agent(name, memory):
    """An agent with the memory registered, and the descriptors of it."""
    # NIXL tells what it does on standard output: that one is ours.
    from nixl import nixl_agent, nixl_agent_config

    made = nixl_agent(name, nixl_agent_config(backends=["UCX"]))
    made.register_memory([(memory.ctypes.data, memory.nbytes, 0, "")], "DRAM")
    descriptors = made.get_xfer_descs([(memory.ctypes.data, memory.nbytes, 0)], "DRAM")
    return made, descriptors


def content(size):
    import numpy

    return numpy.arange(size // 8, dtype=numpy.uint64).view(numpy.uint8)


def hold(pipe, size):
    """Holds the memory until the pipe closes. Its agent answers from a thread of its own."""
    os.dup2(2, 1)
    memory = content(size)
    made, descriptors = agent("holder", memory)
    pipe.send((made.get_agent_metadata(), made.get_serialized_descs(descriptors)))
    try:
        pipe.recv()
    except EOFError:
        pass


def main(size):
    import numpy

    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=hold, args=(there, size), daemon=True)
    process.start()
    there.close()
    expected = content(size)
    memory = numpy.zeros(size, numpy.uint8)
    made, mine = agent("reader", memory)
    metadata, descriptors = here.recv()
    name = made.add_remote_agent(metadata)
    theirs = made.deserialize_descs(descriptors)
    print("ready", importlib.metadata.version("nixl"), file=answers)
    for _ in sys.stdin:
        memory[:] = 0
        transfer = made.initialize_xfer("READ", mine, theirs, name, b"")
        begun = time.perf_counter()
        state = made.transfer(transfer)
        while state == "PROC":
            state = made.check_xfer_state(transfer)
        took = time.perf_counter() - begun
        made.release_xfer_handle(transfer)
        if state != "DONE":
            sys.exit(f"the transfer ended in state {state}")
        if not numpy.array_equal(memory, expected):
            sys.exit("other bytes arrived")
        print(size / took / 1e6, file=answers)
    here.close()
    process.join(5)


if __name__ == "__main__":
    main(int(sys.argv[1]))
