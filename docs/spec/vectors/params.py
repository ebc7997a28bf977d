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


def nearest_code(x, mantissa, exponent_low, largest):
    """The code of the 16-bit float nearest to |x|: the last of all codes not above, or its neighbour."""
    x = Fraction(abs(x))

    def worth(code):
        exponent, rest = code >> mantissa, code % (1 << mantissa)
        whole = Fraction(rest + ((1 << mantissa) if exponent else 0))
        return whole * Fraction(2) ** (max(exponent, 1) - 1 + exponent_low)

    low, high = 0, largest
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if worth(middle) <= x else (low, middle - 1)
    if low == largest:
        return low
    below, above = x - worth(low), worth(low + 1) - x
    return low + (above < below or (above == below and low % 2 == 1))


def is_negative(x):
    return struct.pack(">f", x)[0] >= 128


def bf16(values):
    codes = [nearest_code(x, 7, -133, 0x7F7F) | is_negative(x) << 15 for x in values]
    return b"".join(struct.pack("<H", code) for code in codes)


def f16(values):
    codes = [nearest_code(x, 10, -24, 0x7BFF) | is_negative(x) << 15 for x in values]
    return b"".join(struct.pack("<H", code) for code in codes)


def int8(values):
    out = b""
    for at in range(0, len(values), 64):
        block = values[at : at + 64]
        largest = Fraction(max(abs(a) for a in block))
        codes = (struct.unpack("<e", struct.pack("<H", code))[0] for code in range(0x7C00))
        s = next((s for s in codes if 127 * Fraction(s) >= largest), 65504.0)
        qs = [nearest(min(127.0, max(-127.0, f32_quotient(a, s)))) if s else 0 for a in block]
        s = s if any(qs) else 0.0
        out += struct.pack("<e", s) + bytes(q & 255 for q in qs)
    return out


def f32_quotient(a, s):
    quotient = a / s
    return f32(quotient) if abs(quotient) < 3e38 else quotient


def chain(numbers):
    total = 0.0
    for x in numbers:
        total = f32(total + x)
    return total


def pack_bits(fields, width):
    whole = sum(field << (i * width) for i, field in enumerate(fields))
    return whole.to_bytes((len(fields) * width + 7) // 8, "little")


def topk(values):
    out = b""
    for at in range(0, len(values), 4096):
        block = values[at : at + 4096]
        k = (len(block) + 63) // 64
        kept = sorted(sorted(range(len(block)), key=lambda i: (-abs(block[i]), i))[:k])
        sizes = [min(abs(block[i]), 65504.0) for i in kept]
        everything = f32(chain(sizes) / k)
        t, two = everything, True
        for turn in range(3):
            if turn:
                t = f32(f32(low + high) / 2)
            small, large = [x for x in sizes if not x > t], [x for x in sizes if x > t]
            if not small or not large:
                two = False
                break
            low, high = f32(chain(small) / len(small)), f32(chain(large) / len(large))
        if two:
            levels = [nearest_code(low, 10, -24, 0x7BFF), nearest_code(high, 10, -24, 0x7BFF)]
            two = levels[0] < levels[1]
        if not two:
            levels, t = [nearest_code(everything, 10, -24, 0x7BFF)] * 2, float("inf")
        codes = []
        for i, size in zip(kept, sizes):
            upper = size > t
            sign = is_negative(block[i]) and levels[upper] != 0
            codes.append(upper | sign << 1)
        buckets = []
        for bucket in range(k):
            buckets += [1] * sum(i // 64 == bucket for i in kept) + [0]
        out += struct.pack("<HH", *levels)
        out += pack_bits(buckets, 1) + pack_bits([i % 64 for i in kept], 6) + pack_bits(codes, 2)
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
    print("# bf16, f16, int8, topk VALUES BYTES.")
    for values in codec_cases():
        values = [f32(x) for x in values]
        text = "".join(map(bits, values)) or "-"
        for name, codec in (("bf16", bf16), ("f16", f16), ("int8", int8), ("topk", topk)):
            line(name, f"{text} {codec(values).hex() or '-'}")
    values = long_case()
    line("topk", f"{''.join(map(bits, values))} {topk(values).hex()}")
    print("# packed-f32, packed-bf16 VALUES BYTES: what the bytes unpack to; other bytes may as well.")
    for values in codec_cases() + [[0.75] * 50, [-0.0] * 11]:
        values = [f32(x) for x in values]
        whole = [struct.unpack("<I", struct.pack("<f", x))[0] for x in values]
        upper = struct.unpack(f"<{len(values)}H", bf16(values))
        text = "".join(f"{w:08x}" for w in whole) or "-"
        line("packed-f32", f"{text} {packed(whole, 4).hex() or '-'}")
        text = "".join(f"{w:04x}0000" for w in upper) or "-"
        line("packed-bf16", f"{text} {packed(upper, 2).hex() or '-'}")


    print("# hostile NAME CODEC ELEMENTS BYTES: refused, with nothing changed.")
    for name, codec, elements, data in hostile():
        line("hostile", f"{name} {codec} {elements} {data.hex() or '-'}")


def hostile():
    """What no encoder makes: not canonical, not finite, of another length, or larger than it says."""
    yield "nan", "f32", 1, bytes.fromhex("0000c07f")
    yield "infinite", "f32", 2, bytes.fromhex("0000803f000080ff")
    yield "infinite", "bf16", 1, bytes.fromhex("807f")
    yield "nan", "f16", 1, bytes.fromhex("017c")
    yield "cut", "f32", 2, bytes(7)
    yield "longer", "bf16", 2, bytes(5)
    one = struct.pack("<e", 1.0)
    for name, scale in (("infinite", "007c"), ("nan", "017e"), ("negative", "00bc"), ("nothing", "0000")):
        yield f"{name}-scale", "int4", 2, bytes.fromhex(scale) + b"\x99"
        yield f"{name}-scale", "int8", 1, bytes.fromhex(scale) + b"\x05"
    yield "scale-without-a-number", "int4", 2, one + b"\x88"
    yield "scale-without-a-number", "int8", 1, one + b"\x00"
    yield "four-bits-of-0", "int4", 2, one + b"\x09"
    yield "high-half-of-nothing", "int4", 1, one + b"\x99"
    yield "byte-of-128", "int8", 1, one + b"\x80"
    # Two of 128 elements, both in the first of two ranges, of one level.
    level, buckets, codes = one + one, b"\x03", b"\x00"
    lows = lambda first, second: struct.pack("<H", first | second << 6)
    yield "position-twice", "topk", 128, level + buckets + lows(5, 5) + codes
    yield "positions-that-fall", "topk", 128, level + buckets + lows(9, 5) + codes
    yield "three-of-two", "topk", 128, level + b"\x07" + lows(5, 9) + codes
    yield "one-of-two", "topk", 128, level + b"\x01" + lows(5, 9) + codes
    yield "position-past-the-end", "topk", 100, level + b"\x06" + lows(5, 40) + codes
    yield "levels-that-fall", "topk", 128, one + struct.pack("<e", 0.5) + buckets + lows(5, 9) + b"\x01"
    yield "nan-level", "topk", 128, one + bytes.fromhex("017e") + buckets + lows(5, 9) + b"\x01"
    yield "two-levels-used-as-one", "topk", 128, one + struct.pack("<e", 2.0) + buckets + lows(5, 9) + codes
    yield "minus-nothing", "topk", 128, bytes(4) + buckets + lows(5, 9) + b"\x02"
    yield "fill", "topk", 128, level + b"\x13" + lows(5, 9) + codes
    frame = lambda block, rest: b"\x28\xb5\x2f\xfd\x00\x38" + struct.pack("<I", block)[:3] + rest
    plane = lambda data: struct.pack("<I", len(data)) + data
    for name, data in (
        ("swells-to-2-mib", frame((2**21 - 1) << 3 | 1 << 1 | 1, b"\x00")),
        ("ends-too-early", frame(63 << 3 | 1 << 1 | 1, b"\x00")),
        ("another-block-behind", frame(64 << 3 | 1 << 1, b"\x00") + b"\x01\x00\x00"),
        ("window-of-8-mib", b"\x28\xb5\x2f\xfd\x00\x68" + struct.pack("<I", 64 << 3 | 3)[:3] + b"\x00"),
        ("not-zstd", b"PK\x03\x04" + bytes(10)),
    ):
        yield f"plane-that-{name}" if name[0] in "se" else f"plane-{name}", "packed-bf16", 64, plane(data) + plane(bytes(64))
    yield "plane-longer-than-its-numbers", "packed-bf16", 64, plane(bytes(65)) + plane(bytes(64))
    yield "plane-of-four-gigabytes", "packed-f32", 64, b"\xff\xff\xff\xff" + bytes(64)
    yield "nan", "packed-bf16", 1, plane(b"\x81") + plane(b"\xff")


def codec_cases():
    few = [0.0] * 300
    few[17], few[170], few[299] = 1.0, -1.0, 1e-3
    return [
        [],
        [0.0],
        [-0.0, 1.0, -1.0, 0.5],
        [5e-8, -6e-8, 2.9e-8, 2e-7, 1e-40],
        [65504.0, -65519.0, 65520.0, 1e30, -3.4e38, 8319008.0],
        [1 + i / 2048 for i in range(20)] + [1 + i / 256 for i in range(20)],  # halves: ties to even
        [0.5 * i for i in range(-127, 128)],
        [1.0, -1.0] * 100,  # equal magnitudes: the first go
        few,
        draws(8, 130, -12, -6),
        draws(9, 1000, -20, 3),
    ]


def packed(words, width):
    """Words turned left by a bit, cut into planes; a plane of one byte repeated as a zstd block of it."""
    turned = [(w << 1 | w >> (8 * width - 1)) & (256**width - 1) for w in words]
    out = b""
    for place in range(width if words else 0):
        plane = bytes(w >> 8 * place & 255 for w in turned)
        if len(plane) > 10 and len(set(plane)) == 1:
            block = len(plane) << 3 | 1 << 1 | 1
            plane = b"\x28\xb5\x2f\xfd\x00\x38" + struct.pack("<I", block)[:3] + plane[:1]
        out += struct.pack("<I", len(plane)) + plane
    return out


def long_case():
    """One whole block and some more, near enough alike that selection is fine."""
    return draws(10, 4096 + 257, -9, -8)


if __name__ == "__main__":
    main()
