"""Regions behind grants: each node may do what its line says, and no more."""

from __future__ import annotations

import time

import numpy as np
import suanli

from pair import Pair


class Grants(Pair):
    def setUp(self):
        super().setUp()
        self.guarded = self.holder.listen(admit="grants")
        self.me = suanli.node_of(self.keys / "client.key")
        self.holder.publish("demo/model", np.arange(100_000, dtype=np.float32))
        self.holder.publish("other", b"secret")

    def with_grant(self, line, key="client.key"):
        node = suanli.connect(ticket=line, key=self.keys / key)
        self.addCleanup(node.close)
        return node

    def refused(self, code, work, *arguments):
        with self.assertRaises(suanli.RefusedError) as caught:
            work(*arguments)
        self.assertEqual(caught.exception.code, code, caught.exception.text)

    def test_a_line_is_all_that_its_node_needs_and_opens_what_it_says(self):
        line = self.holder.grant(self.me, "demo/", addresses=[self.guarded])
        node = self.with_grant(line)
        self.assertEqual(node.open("demo/model").read().nbytes, 400_000)
        self.refused("not authorised", node.open, "other")
        self.refused("not authorised", node.write, "demo/model", b"mine", 1)
        delta = np.ones(100, np.float32)
        give = lambda: node.accumulate("demo/grad", delta, contribution="me")  # noqa: E731
        self.refused("not authorised", give)
        with self.assertRaises(suanli.Error):
            self.with_grant(line, "another.key")
        with self.assertRaises(suanli.Error):
            self.with_grant(line[:-1])
        with self.assertRaises(suanli.Error):
            suanli.connect(self.guarded, expected=self.holder.node, key=self.keys / "client.key")

    def test_bytes_run_out_and_a_revocation_ends_what_is_open(self):
        line = self.holder.grant(self.me, "demo/model", nbytes=500_000, addresses=[self.guarded])
        node = self.with_grant(line)
        region = node.open("demo/model")
        region.read()
        self.refused("more than the grant allows", region.read)
        self.assertEqual(self.holder.revoke("demo/"), 1)
        self.refused("not authorised", node.open, "demo/model")
        again = self.holder.grant(self.me, "/", rights="read", addresses=[self.guarded])
        self.assertEqual(self.with_grant(again).open("other").read().tobytes(), b"secret")

    def test_a_rate_makes_a_read_wait(self):
        line = self.holder.grant(
            self.me, "demo/", bytes_per_second=200_000, addresses=[self.guarded]
        )
        region = self.with_grant(line).open("demo/model")
        begun = time.monotonic()
        for _ in range(4):
            region.read_bytes(0, 100_000)
        self.assertGreater(time.monotonic() - begun, 0.9)

    def test_what_is_asked_for_wrongly_is_told(self):
        for wrong in (
            {"to": "12"},
            {"regions": "a//b"},
            {"rights": "reed"},
            {"depth": 4},
        ):
            wish = {"to": self.me, "regions": "demo/", "addresses": [], **wrong}
            with self.assertRaises(suanli.Error, msg=str(wrong)):
                self.holder.grant(**wish)

    def test_revocations_outlive_the_holder(self):
        line = self.holder.grant(self.me, "demo/", addresses=[self.guarded])
        self.holder.revoke("demo/")
        self.holder.close()
        again = suanli.Holder(self.keys / "holder.key")
        self.addCleanup(again.close)
        again.publish("demo/model", b"new")
        address = again.listen(admit="grants")
        with self.assertRaises(suanli.RefusedError):
            suanli.connect(address, ticket=line, key=self.keys / "client.key")
        line = again.grant(self.me, "demo/")
        self.assertEqual(self.with_grant(line).open("demo/model").read().tobytes(), b"new")
