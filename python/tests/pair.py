"""A holder and a connection to it, in one process, with keys in a folder of their own."""

from __future__ import annotations

import tempfile
import unittest
from pathlib import Path

import suanli


class Pair(unittest.TestCase):
    """Tests that need a holder on loopback and somebody who is connected to it."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.keys = Path(folder.name) / "keys"
        self.holder = suanli.Holder(key=self.keys / "holder.key")
        self.addCleanup(self.holder.close)
        self.address = self.holder.listen()
        self.node = self.connect()

    def connect(self, **more) -> suanli.Node:
        settings = {"key": self.keys / "client.key", "expected": self.holder.node, **more}
        node = suanli.connect(self.address, **settings)
        self.addCleanup(node.close)
        return node
