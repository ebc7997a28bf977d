"""BLAKE3 and the Merkle root of docs/spec/params.md, from the BLAKE3 paper (sections 2.1 to 2.5).

All chunks of an input are compressed side by side: one Python integer holds the same 32-bit word of
every chunk, each in 64 bits of its own, so that one addition or rotation serves all of them. A megabyte
takes a fraction of a second, where one chunk after the other takes many.

Not for: keyed hashing, outputs of other lengths than 32 bytes.
"""

import struct

IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
COLUMNS_THEN_DIAGONALS = (
    (0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
    (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14),
)
CHUNK_START, CHUNK_END, PARENT, ROOT, DERIVE_CONTEXT, DERIVE_MATERIAL = 1, 2, 4, 8, 32, 64
CHUNK_BYTES, BLOCK_BYTES, LANE_BITS = 1024, 64, 64


def _spread(words):
    """One integer with each of the words in a lane of 64 bits."""
    return int.from_bytes(struct.pack(f"<{len(words)}Q", *words), "little")


def _gather(spread, lanes):
    return struct.unpack(f"<{lanes}Q", spread.to_bytes(8 * lanes, "little"))


def _compress(value, message, counters, block_bytes, flags, ones):
    """One compression of every lane; `ones` has the number 1 in each. Gives the eight words of each."""
    mask = ones * 0xFFFFFFFF
    low, high = counters & mask, counters >> 32 & mask
    v = list(value) + [ones * word for word in IV[:4]] + [low, high, ones * block_bytes, ones * flags]
    for turn in range(7):
        for at, (a, b, c, d) in enumerate(COLUMNS_THEN_DIAGONALS):
            va, vb, vc, vd = v[a], v[b], v[c], v[d]
            va = va + vb + message[2 * at] & mask
            vd ^= va
            vd = (vd | vd << 32) >> 16 & mask
            vc = vc + vd & mask
            vb ^= vc
            vb = (vb | vb << 32) >> 12 & mask
            va = va + vb + message[2 * at + 1] & mask
            vd ^= va
            vd = (vd | vd << 32) >> 8 & mask
            vc = vc + vd & mask
            vb ^= vc
            vb = (vb | vb << 32) >> 7 & mask
            v[a], v[b], v[c], v[d] = va, vb, vc, vd
        message = [message[at] for at in PERMUTATION]
    return [v[at] ^ v[at + 8] for at in range(8)]


def _ones(lanes):
    return _spread([1] * lanes)


def _whole_chunks(data, lanes, key, mode):
    """The chaining values of so many whole chunks, none of which is the root."""
    words = struct.unpack_from(f"<{lanes * CHUNK_BYTES // 4}I", data)
    ones, counters = _ones(lanes), _spread(range(lanes))
    value = [ones * word for word in key]
    for block in range(16):
        message = [_spread(words[16 * block + at :: 256]) for at in range(16)]
        flags = mode | CHUNK_START * (block == 0) | CHUNK_END * (block == 15)
        value = _compress(value, message, counters, BLOCK_BYTES, flags, ones)
    return list(zip(*(_gather(word, lanes) for word in value)))


def _last_chunk(data, counter, key, mode, root):
    value, blocks = key, max(1, -(-len(data) // BLOCK_BYTES))
    for at in range(blocks):
        block = data[at * BLOCK_BYTES : (at + 1) * BLOCK_BYTES]
        message = struct.unpack("<16I", bytes(block).ljust(BLOCK_BYTES, b"\0"))
        ends = at == blocks - 1
        flags = mode | CHUNK_START * (at == 0) | (CHUNK_END | root) * ends
        value = _compress(value, message, counter, len(block), flags, 1)
    return tuple(value)


def _parents(values, key, mode, root):
    """The parents of pairs; the values number an even count."""
    lanes = len(values) // 2
    ones = _ones(lanes)
    message = [_spread([pair[at] for pair in values[::2]]) for at in range(8)]
    message += [_spread([pair[at] for pair in values[1::2]]) for at in range(8)]
    start = [ones * word for word in key]
    value = _compress(start, message, 0, BLOCK_BYTES, mode | PARENT | root, ones)
    return list(zip(*(_gather(word, lanes) for word in value)))


def blake3(data, key=IV, mode=0):
    """The hash of the data, 32 bytes."""
    data = memoryview(data)
    chunks = max(1, -(-len(data) // CHUNK_BYTES))
    single = ROOT if chunks == 1 else 0
    values = _whole_chunks(data, chunks - 1, key, mode) if chunks > 1 else []
    rest = data[(chunks - 1) * CHUNK_BYTES :]
    values.append(_last_chunk(rest, chunks - 1, key, mode, single))
    while len(values) > 1:
        odd = values[-1:] if len(values) % 2 else []
        paired = values[: len(values) - len(odd)]
        values = _parents(paired, key, mode, ROOT if len(values) == 2 else 0) + odd
    return struct.pack("<8I", *values[0])


def derived(context, *parts):
    """H(context, parts) of docs/spec/params.md: key derivation over parts that say their lengths."""
    key = struct.unpack("<8I", blake3(context.encode(), mode=DERIVE_CONTEXT))
    material = b"".join(struct.pack("<Q", len(part)) + part for part in parts)
    return blake3(material, key, DERIVE_MATERIAL)


def merkle_root(hashes):
    """The root over chunk hashes."""
    level = [derived("suanli 2026 merkle leaf", leaf) for leaf in hashes]
    while len(level) > 1:
        pairs = zip(level[::2], level[1::2])
        odd = level[-1:] if len(level) % 2 else []
        level = [derived("suanli 2026 merkle node", left, right) for left, right in pairs] + odd
    top = level[0] if level else bytes(32)
    return derived("suanli 2026 merkle root", struct.pack("<Q", len(hashes)), top)
