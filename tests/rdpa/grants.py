"""Grants to regions, as docs/spec/access.md has them: reading a chain, and holding it against its rules.

Written from the page. Not for: deciding about an operation (time, epochs, bytes, rate), which is a
holder's.
"""

from __future__ import annotations

from dataclasses import dataclass

from blake3 import derived
from ed25519 import verify
from postcard import BadBody, Reader

CHAIN_BYTES_MAX, LINKS_MAX, LINK_BYTES_MAX, PREFIX_MAX = 4_096, 4, 512, 160
RIGHTS_KNOWN = 0x7F
DEPTH_MAX = LINKS_MAX - 1


class BadGrant(Exception):
    """The chain is refused as a whole."""


@dataclass(frozen=True)
class Link:
    """One signed statement (section 2)."""

    root: bytes
    holder: bytes
    prefix: str
    rights: int
    bytes_max: int
    bytes_per_s: int
    not_before: int
    not_after: int
    epoch: int
    depth: int
    nonce: int
    parent: bytes
    signature: bytes
    signed: bytes

    @staticmethod
    def read(signature: bytes, data: bytes) -> Link:
        body = Reader(data)
        if body.u8() != 1:
            raise BadGrant("a link of another format")
        root, holder, prefix = body.raw(32), body.raw(32), body.text()
        rights = body.u16()
        numbers = [body.u64() for _ in range(5)]
        link = Link(
            root, holder, prefix, rights, *numbers, body.u8(), body.u64(), body.raw(32), signature, data
        )
        body.end()
        return link

    def name(self, issuer: bytes) -> bytes:
        return derived("suanli 2026 signed", issuer, self.signature, self.signed)

    def check_alone(self) -> None:
        _refuse(self.rights & ~RIGHTS_KNOWN != 0, "rights that nobody knows")
        _refuse(self.not_before >= self.not_after, "it is never good")
        _refuse(self.depth > DEPTH_MAX, "it may be handed on too often")
        _refuse(not prefix_is_good(self.prefix), f"{self.prefix!r} is no prefix")

    def check_within(self, parent: Link) -> None:
        """Section 4."""
        _refuse(not covers(parent.prefix, self.prefix), "more regions")
        _refuse(self.rights & ~parent.rights != 0, "more rights")
        for what in ("bytes_max", "bytes_per_s", "not_after", "epoch"):
            _refuse(getattr(self, what) > getattr(parent, what), f"more {what}")
        _refuse(self.not_before < parent.not_before, "an earlier beginning")
        _refuse(self.depth >= parent.depth, "handed on too often")
        _refuse(self.root != parent.root, "another owner")


def _refuse(wrong: bool, why: str) -> None:
    if wrong:
        raise BadGrant(why)


def prefix_is_good(prefix: str) -> bool:
    """Section 3."""
    if prefix == "":
        return True
    parts = (prefix[:-1] if prefix.endswith("/") else prefix).split("/")
    allowed = set("abcdefghijklmnopqrstuvwxyz0123456789-_.")
    good = all(part not in ("", ".", "..") and set(part) <= allowed for part in parts)
    return good and len(prefix) <= PREFIX_MAX


def covers(prefix: str, name: str) -> bool:
    """Whether the prefix means in full what the name or prefix means."""
    return prefix == "" or prefix == name or prefix.endswith("/") and name.startswith(prefix)


def read_chain(data: bytes) -> list[Link]:
    """The links of a chain whose form is good; nothing is verified yet."""
    _refuse(len(data) > CHAIN_BYTES_MAX, "too long")
    _refuse(data[:5] != b"SLAC\x01", "not a grant of this format")
    body = Reader(data[5:])
    try:
        count = body.u8()
        _refuse(not 1 <= count <= LINKS_MAX, f"{count} links")
        links = []
        for _ in range(count):
            signature = body.raw(64)
            length = int.from_bytes(body.raw(2), "little")
            _refuse(length > LINK_BYTES_MAX, "a link too long")
            links.append(Link.read(signature, body.raw(length)))
        body.end()
    except BadBody as error:
        raise BadGrant(str(error)) from error
    return links


def check(data: bytes, owner: bytes, shown_by: bytes) -> list[Link]:
    """What a holder checks at HELLO (section 5)."""
    links = read_chain(data)
    issuer, parent_name = links[0].root, bytes(32)
    for at, link in enumerate(links):
        message = b"suanli/1\0\x06\x01\x00" + link.root + b"\xff" * 8 + link.signed
        _refuse(not verify(issuer, message, link.signature), f"link {at + 1} is forged")
        link.check_alone()
        _refuse(link.parent != parent_name, f"link {at + 1} follows another")
        if at > 0:
            link.check_within(links[at - 1])
        issuer, parent_name = link.holder, link.name(issuer)
    _refuse(links[0].root != owner, "for regions of another owner")
    _refuse(links[-1].holder != shown_by, "shown by somebody it is not for")
    return links
