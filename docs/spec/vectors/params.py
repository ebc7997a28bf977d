"""Makes params.txt from docs/spec/params.md alone: exact rationals, no code of ours, no libraries.

    python3 params.py > params.txt
"""

import struct
from fractions import Fraction

MASK = 0xFFFFFFFF


# f32 and f16 by struct; a double rounded to f32 after one division or root is the f32 result.
def f32(x):
    return struct.unpack("<f", struct.pack("<f", x))[0]


def bits(x):
    return struct.pack(">f", x).hex()


def nearest(x):
    return round(Fraction(x))  # Python rounds ties to even


def smallest_f16(largest):
    for code in range(0x7C00):
        s = struct.unpack("<e", struct.pack("<H", code))[0]
        if 7 * Fraction(s) >= Fraction(largest):
            return s
    return 65504.0


def int4(values):
    out = b""
    for at in range(0, len(values), 64):
        block = values[at : at + 64]
        s = smallest_f16(max(abs(a) for a in block))
        qs = [nearest(min(7.0, max(-7.0, f32(a / s)))) if s else 0 for a in block]
        s = s if any(qs) else 0.0
        halves = [q + 8 for q in qs] + [0] * (len(qs) % 2)
        out += struct.pack("<e", s)
        out += bytes(low | high << 4 for low, high in zip(halves[::2], halves[1::2]))
    return out


def seal_scale(largest):
    if largest == 0:
        return 0.0
    exponent = -200
    while 127 * Fraction(65535) * Fraction(2) ** exponent < Fraction(largest):
        exponent += 1
    unit = Fraction(2) ** exponent
    s = -(-Fraction(largest) // (127 * unit)) * unit
    return float(max(s, Fraction(2) ** -60))


def seal(m, v):
    out = b""
    for at in range(0, len(m), 64):
        first = m[at : at + 64]
        root = [f32(x**0.5) for x in v[at : at + 64]]
        sm, sv = seal_scale(max(abs(x) for x in first)), seal_scale(max(root))
        qm = [nearest(f32(x / sm)) if sm else 0 for x in first]
        qv = [nearest(f32(x / sv)) if sv else 0 for x in root]
        qv = [q + (Fraction(q) * Fraction(sv) < Fraction(x)) for q, x in zip(qv, root)]
        sm = sm if any(qm) else 0.0
        out += struct.pack("<ff", sm, sv) + bytes(q & 255 for q in qm) + bytes(qv)
    return out


# BLAKE3 for inputs of up to one chunk (1024 bytes), from its paper, section 2.
IV = [0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19]
PERMUTATION = [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8]
START, END, ROOT, CONTEXT, MATERIAL = 1, 2, 8, 32, 64


def compress(key, block, length, flags):
    s = key + IV[:4] + [0, 0, length, flags]
    words = list(struct.unpack("<16I", block.ljust(64, b"\0")))

    def g(a, b, c, d, x, y):
        for add, first, second in ((x, 16, 12), (y, 8, 7)):
            s[a] = (s[a] + s[b] + add) & MASK
            s[d] = rotate(s[d] ^ s[a], first)
            s[c] = (s[c] + s[d]) & MASK
            s[b] = rotate(s[b] ^ s[c], second)

    def rotate(x, by):
        return (x >> by | x << (32 - by)) & MASK

    for _ in range(7):
        for i in range(4):
            g(i, 4 + i, 8 + i, 12 + i, words[2 * i], words[2 * i + 1])
        for i in range(4):
            g(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4, words[8 + 2 * i], words[9 + 2 * i])
        words = [words[i] for i in PERMUTATION]
    return [s[i] ^ s[i + 8] for i in range(8)]


def blake3(data, key=IV, mode=0):
    assert len(data) <= 1024
    blocks = [data[at : at + 64] for at in range(0, len(data), 64)] or [b""]
    for i, block in enumerate(blocks):
        last = (END | ROOT) if i == len(blocks) - 1 else 0
        key = compress(list(key), block, len(block), mode | last | (START if i == 0 else 0))
    return struct.pack("<8I", *key)


def h(context, *parts):
    key = struct.unpack("<8I", blake3(context.encode(), mode=CONTEXT))
    data = b"".join(struct.pack("<Q", len(part)) + part for part in parts)
    return blake3(data, key, MATERIAL)


def root(chunks):
    level = [h("suanli 2026 merkle leaf", chunk) for chunk in chunks]
    while len(level) > 1:
        pairs = [level[at : at + 2] for at in range(0, len(level), 2)]
        level = [h("suanli 2026 merkle node", *pair) if len(pair) == 2 else pair[0] for pair in pairs]
    top = level[0] if level else bytes(32)
    return h("suanli 2026 merkle root", struct.pack("<Q", len(chunks)), top)


def draws(seed, count, low, high):
    """Magnitudes spread over powers of two, both signs, from a 31-bit congruential generator."""
    out = []
    for _ in range(count):
        seed = (seed * 1103515245 + 12345) % 2**31
        exponent = low + seed // 65536 % (high - low + 1)
        seed = (seed * 1103515245 + 12345) % 2**31
        out.append(f32((seed / 2**30 - 1) * 2.0**exponent))
    return out


def line(name, hexadecimal):
    print(f"{name} {hexadecimal or '-'}")


def main():
    assert blake3(b"").hex().startswith("af1349b9f5f9a1a6a0404dea36dcc949")
    print("# Frozen: old lines are never edited, new ones are added. Made by params.py.")
    print("# int4 VALUES BYTES; seal M V BYTES; root CHUNKS ROOT. f32 as big-endian bits.")
    int4_cases = [
        [],
        [0.0],
        [1.0, -1.0, 0.5],
        [0.0] * 64 + [-0.0, 3.0],
        [float(i - 7) for i in range(15)],
        [f32(0.5 * i) for i in range(-14, 15)],  # halves: ties to even
        [1e-9, 5e-8, -6e-8, 2e-7],  # scales below the normal range of f16
        [2.9e-8],  # rounds to a block of zeros
        [458528.0, 1e30, -3.4e38, 65504.0],  # saturates
        draws(1, 64, -20, -4),
        draws(2, 65, -30, 3),
        draws(3, 191, -12, -8),
    ]
    for values in int4_cases:
        values = [f32(x) for x in values]
        line("int4", f"{''.join(map(bits, values)) or '-'} {int4(values).hex() or '-'}")
    seal_cases = [
        ([], []),
        ([0.0], [0.0]),
        ([1.0, -0.5, -0.0], [1.0, 1e-12, 0.0]),
        ([1e-30, 1e-44], [1e-45, 1e-38]),
        ([1e18, -3.0], [1e36, 1e-45]),
        (draws(4, 64, -30, -6), [abs(x) for x in draws(5, 64, -60, -10)]),
        (draws(6, 129, -70, 3), [abs(x) for x in draws(7, 129, -140, 6)]),
    ]
    for m, v in seal_cases:
        m, v = [f32(x) for x in m], [f32(x) for x in v]
        first, second = "".join(map(bits, m)) or "-", "".join(map(bits, v)) or "-"
        line("seal", f"{first} {second} {seal(m, v).hex() or '-'}")
    for count in [0, 1, 2, 3, 5, 8, 13]:
        chunks = [blake3(bytes([i])) for i in range(count)]
        line("root", f"{b''.join(chunks).hex() or '-'} {root(chunks).hex()}")


if __name__ == "__main__":
    main()
