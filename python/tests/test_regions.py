"""Regions read, written and followed over a real connection."""

from __future__ import annotations

import contextlib
import gc
import logging
import queue
import signal
import socket
import threading
import time

import numpy as np
import suanli

from pair import Pair


def bytes_of(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, count, np.uint8)


class Several(Pair):
    """One region in several holders."""

    def test_a_region_is_read_from_several_holders_and_a_bad_one_is_dropped(self) -> None:
        whole = np.random.default_rng(3).integers(0, 256, 8 << 20, dtype=np.uint8)
        other = suanli.Holder(key=self.keys / "other.key")
        stale = suanli.Holder(key=self.keys / "stale.key")
        for holder in (other, stale):
            self.addCleanup(holder.close)
        self.holder.publish("big", whole.tobytes())
        other.publish("big", whole.tobytes())
        stale.publish("big", whole[::-1].tobytes())
        nodes = []
        for holder in (other, stale):
            node = suanli.connect(
                holder.listen(), key=self.keys / "client.key", expected=holder.node
            )
            self.addCleanup(node.close)
            nodes.append(node)
        found = self.node.open("big").gather(nodes)
        np.testing.assert_array_equal(found.flat, whole)
        self.assertEqual([node for node, _ in found.dropped], [stale.node])
        self.assertEqual(sum(found.by.values()), whole.size)
        other.close()
        alone = self.node.open("big").gather(nodes[:1])
        np.testing.assert_array_equal(alone.flat, whole)
        self.assertEqual([node for node, _ in alone.dropped], [other.node])


class Upload(Pair):
    """What the owner lets go up."""

    def test_a_holder_keeps_to_its_rate_and_to_its_day(self) -> None:
        data = bytes_of(5, 1 << 20)
        slow = suanli.Holder(
            key=self.keys / "slow.key", upload_bytes_per_second=1 << 19, upload_bytes_per_day=3 << 19
        )
        self.addCleanup(slow.close)
        slow.publish("theta", data)
        node = suanli.connect(slow.listen(), key=self.keys / "client.key", expected=slow.node)
        self.addCleanup(node.close)
        begun = time.monotonic()
        np.testing.assert_array_equal(node.open("theta").read(), data)
        self.assertGreater(time.monotonic() - begun, 1.8, "two seconds' worth")
        with self.assertRaises(suanli.RefusedError) as refused:
            node.open("theta").read()
        self.assertEqual(refused.exception.fault, "weather")


class Strangers(Pair):
    """Those who speak something else."""

    def test_noise_is_told_once_an_address(self) -> None:
        told: queue.SimpleQueue[str] = queue.SimpleQueue()
        handler = logging.Handler()
        handler.emit = lambda record: told.put(record.getMessage())
        logger = logging.getLogger("suanli")
        logger.addHandler(handler)
        self.addCleanup(logger.removeHandler, handler)
        host, port = self.address.rsplit(":", 1)
        for _ in range(3):
            with socket.create_connection((host, int(port)), timeout=30) as stranger:
                stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
                # A reset is as good as an end.
                with contextlib.suppress(ConnectionError):
                    while stranger.recv(1000):
                        pass
        self.assertIn("does not speak our protocol", told.get(timeout=30))
        self.assertTrue(told.empty())


class Reading(Pair):
    def test_what_is_published_is_read_back_and_described(self):
        data = bytes_of(1, 3_000_001)
        self.assertEqual(self.holder.publish("a/b", data), 1)
        region = self.node.open("a/b")
        self.assertEqual((region.name, region.version, region.nbytes), ("a/b", 1, data.nbytes))
        self.assertEqual((region.chunk_bytes, len(region.root)), (256 << 10, 64))
        np.testing.assert_array_equal(region.read(), data)
        np.testing.assert_array_equal(region.read_bytes(2_900_000, 50), data[2_900_000:2_900_050])
        self.assertEqual(self.node.peer, self.holder.node)
        self.assertEqual(self.node.address, self.address)

    def test_an_array_given_is_filled_and_one_of_another_size_refused(self):
        data = np.arange(12, dtype=np.float32).reshape(3, 4)
        self.holder.publish("r", data)
        region = self.node.open("r")
        out = np.zeros((4, 3), np.float32)
        self.assertIs(region.read(out), out)
        np.testing.assert_array_equal(out.reshape(3, 4), data)
        turned = np.zeros((3, 4), np.float32).T
        region.read(turned)
        np.testing.assert_array_equal(turned.reshape(-1), data.reshape(-1))
        with self.assertRaises(suanli.Error):
            region.read(np.zeros(5))

    def test_an_array_outlives_region_node_and_holder(self):
        self.holder.publish("m", {"w": np.arange(1000, dtype=np.float64)})
        array = self.node.open("m").tensor("w")
        self.node.close()
        self.holder.close()
        gc.collect()
        bytes_of(0, 100_000)
        np.testing.assert_array_equal(array, np.arange(1000))
        array += 1
        self.assertEqual(array[0], 1)

    def test_what_is_given_may_change_after_it_is_published(self):
        data = np.zeros(1000, np.uint8)
        self.holder.publish("r", data)
        data[:] = 1
        self.assertEqual(self.node.open("r").read().sum(), 0)

    def test_versions_come_as_they_are_published(self):
        self.holder.publish("r", b"one")
        region = self.node.open("r")
        self.assertFalse(region.refresh())
        self.assertEqual(list(region.subscribe(timeout=0.05)), [])
        versions = region.subscribe(timeout=20)
        self.holder.publish("r", b"three")
        self.assertEqual(next(versions), 2)
        self.assertTrue(region.refresh())
        self.assertEqual((region.version, region.read().tobytes()), (2, b"three"))
        self.assertEqual(self.connect().write("r", b"four", 2), 3)
        self.assertEqual(next(versions), 3)
        self.assertEqual(region.read().tobytes(), b"three", "an open version never changes")

    def test_a_write_on_another_version_is_a_conflict(self):
        self.holder.publish("r", b"one")
        with self.assertRaises(suanli.RefusedError) as caught:
            self.node.write("r", b"two", 7)
        self.assertEqual((caught.exception.code, caught.exception.fault), ("conflict", "ours"))
        self.assertEqual(self.node.write("new", np.arange(3, dtype=np.int16), 0), 1)
        self.assertEqual(self.holder.read("new").view(np.int16).tolist(), [0, 1, 2])

    def test_cells_fence_and_stat(self):
        self.holder.add_cells("counters", 2)
        self.assertEqual(self.node.fetch_add("counters", 1, 5), 0)
        self.assertEqual(self.node.fetch_add("counters", 1, -2), 5)
        self.assertEqual(self.node.cas("counters", 1, 3, 9), 3)
        self.assertEqual(self.holder.cell("counters", 1), 9)
        self.node.fence()
        self.holder.publish("r", b"12345")
        self.node.open("r").read()
        stat = self.node.stat("r")
        self.assertEqual((stat.region.version, stat.region.nbytes), (1, 5))
        self.assertGreaterEqual(stat.bytes_sent, 5)
        self.assertIsNone(self.node.stat("none").region)

    def test_threads_share_a_connection_and_python_runs_meanwhile(self):
        data = bytes_of(2, 16 << 20)
        self.holder.publish("r", data)
        wrong: list[int] = []

        def read(number: int) -> None:
            if not np.array_equal(self.node.open("r").read(), data):
                wrong.append(number)

        waiting = self.node.open("r").subscribe(timeout=1.0)
        threads = [threading.Thread(target=read, args=(n,)) for n in range(4)]
        threads.append(threading.Thread(target=lambda: list(waiting)))
        began = time.monotonic()
        for thread in threads:
            thread.start()
        self.assertLess(time.monotonic() - began, 0.9, "waiting leaves the interpreter to others")
        for thread in threads:
            thread.join()
        self.assertEqual(wrong, [])

    def test_a_lost_connection_is_made_anew_and_the_same_content_goes_on(self):
        data = bytes_of(3, 1_000_000)
        self.holder.publish("r", data)
        region = self.node.open("r")
        self.holder.close()
        self.holder.listen(self.address)
        deadline = time.monotonic() + 20
        while True:
            # The end of a connection takes a moment to be heard of.
            try:
                np.testing.assert_array_equal(region.read(), data)
                break
            except suanli.ConnectionLost as lost:
                self.assertEqual(lost.fault, "weather")
                self.assertLess(time.monotonic(), deadline)


class Interrupting(Pair):
    def test_a_signal_ends_a_wait_and_the_connection_goes_on(self):
        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        self.holder.publish("r", b"one")
        region = self.node.open("r")
        versions = region.subscribe()
        before = signal.signal(signal.SIGALRM, interrupt)
        self.addCleanup(signal.signal, signal.SIGALRM, before)
        began = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with self.assertRaises(KeyboardInterrupt):
            next(versions)
        self.assertGreater(time.monotonic() - began, 0.29, "it was waiting")
        self.assertLess(time.monotonic() - began, 10)
        self.assertEqual(region.read().tobytes(), b"one")


class Refusing(Pair):
    def test_errors_carry_code_fault_and_words(self):
        with self.assertRaises(suanli.RefusedError) as caught:
            self.node.open("nothing")
        error = caught.exception
        self.assertEqual((error.code, error.fault), ("no such region", "ours"))
        self.assertIn("no such region", error.text)
        self.assertEqual(str(error), error.text)
        with self.assertRaises(suanli.Error) as caught:
            self.node.open("Not A Name")
        self.assertIsNone(caught.exception.code)

    def test_another_key_than_expected_is_the_peers_fault(self):
        other = suanli.node_of(self.keys / "somebody.key")
        with self.assertRaises(suanli.ConnectionLost) as caught:
            self.connect(expected=other)
        self.assertEqual(caught.exception.fault, "peer")
        self.assertIn(self.holder.node[:8], caught.exception.text)

    def test_senseless_settings_are_refused_before_anything_is_sent(self):
        for settings in (
            {"expected": None},
            {"expected": "abc"},
            {"link": "pigeon"},
            {"role": "king"},
            {"ticket": "suanli1abc"},
            {"timeout": -1.0},
        ):
            with self.subTest(settings), self.assertRaises((suanli.Error, ValueError)):
                self.connect(**settings)

    def test_nobody_listening_is_weather(self):
        self.holder.close()
        with self.assertRaises(suanli.ConnectionLost) as caught:
            self.connect(timeout=2.0)
        self.assertEqual(caught.exception.fault, "weather")

    def test_a_key_is_for_its_owners_eyes_only(self):
        self.assertEqual((self.keys / "client.key").stat().st_mode & 0o777, 0o600)
        self.assertEqual(suanli.node_of(self.keys / "holder.key"), self.holder.node)
        (self.keys / "client.key").chmod(0o644)
        with self.assertRaises(suanli.Error) as caught:
            self.connect()
        self.assertIn("chmod 600", caught.exception.text)

    def test_others_than_those_admitted_are_refused(self):
        friend = suanli.node_of(self.keys / "friend.key")
        self.address = self.holder.listen(admit=[friend])
        self.holder.publish("r", b"secret")
        self.assertEqual(self.connect(key=self.keys / "friend.key").open("r").nbytes, 6)
        with self.assertRaises(suanli.RefusedError) as caught:
            self.connect()
        self.assertEqual(caught.exception.code, "not authorised")

    def test_an_open_address_needs_to_be_told_who_may_come(self):
        with self.assertRaises(suanli.Error) as caught:
            self.holder.listen("0.0.0.0:0")
        self.assertIn("admit", caught.exception.text)

    def test_plain_tcp_is_had_by_name_only(self):
        self.holder.publish("r", b"plain")
        tls, self.address = self.address, self.holder.listen(link="tcp")
        self.assertEqual(self.connect(link="tcp").open("r").read().tobytes(), b"plain")
        self.address = tls
        with self.assertRaises(suanli.ConnectionLost):
            self.connect(link="tcp", timeout=2.0)
