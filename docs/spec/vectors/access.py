"""Makes access.txt from docs/spec/access.md alone: ed25519 by RFC 8032, section 5.1, in plain
integers (slow, not for secrets), and the BLAKE3 of params.py. No code of ours, no libraries.

    python3 access.py > access.txt
"""

import hashlib
import struct

from params import h

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
NONE = 2**64 - 1


# Points as (X, Y, Z, T) with x = X / Z, y = Y / Z, x y = T / Z.
def add(a, b):
    e = (a[1] - a[0]) * (b[1] - b[0]) % P
    f = (a[1] + a[0]) * (b[1] + b[0]) % P
    g, k = 2 * a[3] * b[3] * D % P, 2 * a[2] * b[2] % P
    x, y, z, t = f - e, k - g, k + g, f + e
    return (x * y % P, z * t % P, y * z % P, x * t % P)


def times(scalar, point):
    out = (0, 1, 1, 0)
    while scalar:
        if scalar & 1:
            out = add(out, point)
        point = add(point, point)
        scalar >>= 1
    return out


def base():
    y = 4 * pow(5, P - 2, P) % P
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    assert (x * x - square) % P == 0
    x = P - x if x & 1 else x
    return (x, y, 1, x * y % P)


BASE = base()


def packed(point):
    inverse = pow(point[2], P - 2, P)
    x, y = point[0] * inverse % P, point[1] * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def number(*parts):
    return int.from_bytes(hashlib.sha512(b"".join(parts)).digest(), "little")


def expand(seed):
    both = hashlib.sha512(seed).digest()
    scalar = int.from_bytes(both[:32], "little")
    return scalar & (1 << 254) - 8 | 1 << 254, both[32:]


def public(seed):
    return packed(times(expand(seed)[0], BASE))


def sign(seed, message):
    scalar, salt = expand(seed)
    r = number(salt, message) % L
    point = packed(times(r, BASE))
    s = (r + number(point, public(seed), message) * scalar) % L
    return point + s.to_bytes(32, "little")


def varint(value):
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def seed(index):
    return bytes([index]) * 32


WIDE = dict(prefix="", rights=0x7F, bytes_max=NONE, bytes_per_s=NONE, not_before=0, not_after=NONE, epoch=0)


def link(root, holder, parent, depth, nonce=7, form=1, **changes):
    f = {**WIDE, **changes}
    text = f["prefix"].encode()
    out = bytes([form]) + root + holder + varint(len(text)) + text
    for field in ("rights", "bytes_max", "bytes_per_s", "not_before", "not_after", "epoch"):
        out += varint(f[field])
    return out + bytes([depth]) + varint(nonce) + parent


def chain(*links, owner=1, kind=6, signers=None, parents=None):
    """Owner 1, holders 2, 3 ...; each link a dict of its fields."""
    out, parent, root = b"SLAC\x01" + bytes([len(links)]), bytes(32), public(seed(owner))
    for i, fields in enumerate(links):
        signer = (signers or {}).get(i, i + 1)
        fields = dict(fields)
        claimed = fields.pop("root", root)
        parent = (parents or {}).get(i, parent)
        body = link(claimed, public(seed(i + 2)), parent, fields.pop("depth"), **fields)
        message = b"suanli/1\0" + struct.pack("<BH", kind, 1) + claimed + struct.pack("<Q", NONE) + body
        signature = sign(seed(signer), message)
        out += signature + struct.pack("<H", len(body)) + body
        parent = h("suanli 2026 signed", public(seed(signer)), signature, body)
    return out


MIDDLE = dict(
    prefix="job/1/", rights=0x23, bytes_max=10**12, bytes_per_s=10**6,
    not_before=1_700_000_000_000, not_after=1_800_000_000_000, epoch=5,
)  # fmt: skip


def with_(depth, **changes):
    return dict(MIDDLE, depth=depth) | changes


def main():
    # RFC 8032, section 7.1, tests 1 and 2.
    one = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    assert public(one).hex().startswith("d75a980182b10ab7d54bfed3c964073a")
    assert sign(one, b"").hex().startswith("e5564300c360ac729086e2cc806e828a")
    two = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    assert sign(two, b"\x72").hex().endswith("8c387b2eaeb4302aeeb00d291612bb0c00")

    print("# Frozen: old lines are never edited, new ones are added. Made by access.py.")
    print("# good NAME BYTES; bad WHY BYTES. The owner here has seed 1, holder i seed i + 1, and the last holder")
    print("# shows it. Seed i is 32 bytes of i.")
    good = {
        "all-rights-for-ever": [dict(depth=0)],
        "one-region": [with_(0, prefix="job/1/theta")],
        "two": [with_(1), with_(0)],
        "narrower-in-all": [
            with_(3),
            with_(1, prefix="job/1/a/", rights=3, bytes_max=9, bytes_per_s=8,
                  not_before=1_700_000_000_001, not_after=1_700_000_000_002, epoch=4),
        ],  # fmt: skip
        "four": [
            dict(depth=3),
            dict(depth=2, prefix="p/"),
            dict(depth=1, prefix="p/" + "q" * 157 + "/"),
            dict(depth=0, prefix="p/" + "q" * 157 + "/", rights=0, nonce=NONE),
        ],
    }
    for name, links in good.items():
        print("good", name, chain(*links).hex())

    first = with_(1)
    other = public(seed(9))
    bad = {
        "wider-prefix": chain(first, with_(0, prefix="job/")),
        "prefix-of-another-segment": chain(first, with_(0, prefix="job/17/")),
        "name-of-the-folder": chain(first, with_(0, prefix="job/1")),
        "more-rights": chain(first, with_(0, rights=0x27)),
        "more-bytes": chain(first, with_(0, bytes_max=NONE)),
        "faster": chain(first, with_(0, bytes_per_s=10**6 + 1)),
        "earlier": chain(first, with_(0, not_before=1_699_999_999_999)),
        "later": chain(first, with_(0, not_after=1_800_000_000_001)),
        "later-epoch": chain(first, with_(0, epoch=6)),
        "too-deep": chain(first, with_(1)),
        "handed-on-without-leave": chain(with_(0), with_(0)),
        "depth-of-four": chain(with_(4)),
        "never-good": chain(with_(0, not_after=1_700_000_000_000)),
        "unknown-right": chain(with_(0, rights=0x80)),
        "bad-prefix": chain(with_(0, prefix="job/../x")),
        "other-format-of-a-link": chain(with_(0, form=2)),
        "other-parent": chain(first, with_(0), parents={1: bytes(32)}),
        "parent-in-the-first": chain(with_(0), parents={0: b"x" * 32}),
        "signed-by-the-owner-again": chain(first, with_(0), signers={1: 1}),
        "signed-by-a-stranger": chain(with_(0), signers={0: 9}),
        "for-another-owner": chain(with_(0), owner=9, signers={0: 9}),
        "another-owner-in-the-second": chain(first, with_(0, root=other)),
        "of-a-ticket's-kind": chain(with_(0), kind=1),
        "five-links": chain(*[dict(depth=max(0, 3 - i)) for i in range(5)]),
        "no-link": chain(),
        "left-over": chain(with_(0)) + b"\0",
        "cut-off": chain(with_(0))[:-1],
        "other-magic": b"SLAB" + chain(with_(0))[4:],
        "other-format": b"SLAC\x02" + chain(with_(0))[5:],
    }
    for why, value in bad.items():
        print("bad", why, value.hex())


if __name__ == "__main__":
    main()
