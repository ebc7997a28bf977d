"""Ed25519 signatures, from RFC 8032 (sections 5.1.1 to 5.1.7).

Not for: secrets that matter. Python's integers take a time that depends on their value.
"""

import hashlib

PRIME = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
CURVE = -121665 * pow(121666, PRIME - 2, PRIME) % PRIME
ROOT_OF_MINUS_ONE = pow(2, (PRIME - 1) // 4, PRIME)


def _sha512(*parts):
    return int.from_bytes(hashlib.sha512(b"".join(parts)).digest(), "little")


# A point is (X, Y, Z, T) with x = X / Z, y = Y / Z, x y = T / Z.
def _add(p, q):
    a = (p[1] - p[0]) * (q[1] - q[0]) % PRIME
    b = (p[1] + p[0]) * (q[1] + q[0]) % PRIME
    c = 2 * p[3] * q[3] * CURVE % PRIME
    d = 2 * p[2] * q[2] % PRIME
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % PRIME, g * h % PRIME, f * g % PRIME, e * h % PRIME


def _times(scalar, point):
    total = (0, 1, 1, 0)
    while scalar:
        if scalar & 1:
            total = _add(total, point)
        point = _add(point, point)
        scalar >>= 1
    return total


def _same(p, q):
    return (p[0] * q[2] - q[0] * p[2]) % PRIME == 0 and (p[1] * q[2] - q[1] * p[2]) % PRIME == 0


def _x_of(y, sign):
    """The x of a point with this y; none if there is none."""
    square = (y * y - 1) * pow(CURVE * y * y + 1, PRIME - 2, PRIME) % PRIME
    x = pow(square, (PRIME + 3) // 8, PRIME)
    if (x * x - square) % PRIME:
        x = x * ROOT_OF_MINUS_ONE % PRIME
    if (x * x - square) % PRIME or (x == 0 and sign):
        return None
    return PRIME - x if x % 2 != sign else x


def _point(data):
    number = int.from_bytes(data, "little")
    y, sign = number & (1 << 255) - 1, number >> 255
    x = _x_of(y, sign) if y < PRIME else None
    return None if x is None else (x, y, 1, x * y % PRIME)


def _bytes(point):
    inverse = pow(point[2], PRIME - 2, PRIME)
    x, y = point[0] * inverse % PRIME, point[1] * inverse % PRIME
    return (y | (x & 1) << 255).to_bytes(32, "little")


_BASE_Y = 4 * pow(5, PRIME - 2, PRIME) % PRIME
BASE = _point(_BASE_Y.to_bytes(32, "little"))


def _secret(seed):
    digest = hashlib.sha512(seed).digest()
    scalar = int.from_bytes(digest[:32], "little") & (1 << 254) - 8 | 1 << 254
    return scalar, digest[32:]


def public_key(seed):
    """The public key of a seed of 32 bytes."""
    return _bytes(_times(_secret(seed)[0], BASE))


def sign(seed, message):
    """The signature, 64 bytes."""
    scalar, prefix = _secret(seed)
    public = public_key(seed)
    nonce = _sha512(prefix, message) % ORDER
    first = _bytes(_times(nonce, BASE))
    challenge = _sha512(first, public, message) % ORDER
    return first + ((nonce + challenge * scalar) % ORDER).to_bytes(32, "little")


def verify(public, message, signature):
    """Whether the signature is one of this key over this message."""
    if len(public) != 32 or len(signature) != 64:
        return False
    key, first = _point(public), _point(signature[:32])
    answer = int.from_bytes(signature[32:], "little")
    if key is None or first is None or answer >= ORDER:
        return False
    challenge = _sha512(signature[:32], public, message) % ORDER
    return _same(_times(answer, BASE), _add(first, _times(challenge, key)))
