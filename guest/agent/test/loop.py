#!/usr/bin/env python3
"""The agent's event loop from outside, with real processes: `loop.py HOST_AGENT`."""
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
import unittest

HELLO, TASK, STDIN, STDIN_END, SIGNAL, SEED, PING, ACK, POWEROFF = range(1, 10)
G_HELLO, STARTED, STDOUT, STDERR, EXIT, PONG, STDIN_ACK, FAULT = range(0x81, 0x89)
NONCE = bytes(range(16))
BINARY = sys.argv.pop()
KIB = 1024


def u64(value):
    return struct.pack("<Q", value)


class Agent:
    """One agent, and the host's end of its stream."""

    def __init__(self, silence_ms=20000):
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(20)

        def at_three():
            os.dup2(theirs.fileno(), 3)

        self.process = subprocess.Popen([BINARY, str(silence_ms)], preexec_fn=at_three, pass_fds=[3, theirs.fileno()])
        theirs.close()
        self.bytes = b""
        self.streams = {STDOUT: b"", STDERR: b""}

    def send(self, kind, payload=b""):
        self.socket.sendall(struct.pack("<IB", 1 + len(payload), kind) + payload)

    def frame(self):
        while len(self.bytes) < 4 or len(self.bytes) < 4 + struct.unpack("<I", self.bytes[:4])[0]:
            more = self.socket.recv(1 << 20)
            if not more:
                raise EOFError("the agent closed the stream")
            self.bytes += more
        (length,) = struct.unpack("<I", self.bytes[:4])
        body, self.bytes = self.bytes[4 : 4 + length], self.bytes[4 + length :]
        return body[0], body[1:]

    def hello(self):
        self.send(HELLO, b"\x01\x00" + NONCE)
        kind, payload = self.frame()
        assert kind == G_HELLO and payload[2:18] == NONCE, (kind, payload)

    def run(self, command, stdin=b""):
        self.hello()
        self.send(TASK, command.encode())
        if stdin is not None:
            if stdin:
                self.send(STDIN, u64(0) + stdin)
            self.send(STDIN_END, u64(len(stdin)))

    def until(self, *kinds, acknowledge=True):
        """The next frame of these kinds; output on the way is collected, checked for gaps, and acknowledged."""
        while True:
            kind, payload = self.frame()
            if kind in (STDOUT, STDERR):
                (offset,) = struct.unpack("<Q", payload[:8])
                assert offset == len(self.streams[kind]), "a gap in the output"
                self.streams[kind] += payload[8:]
                if acknowledge:
                    self.send(ACK, bytes([kind - STDOUT + 1]) + u64(len(self.streams[kind])))
            if kind in kinds:
                return kind, payload

    def exit(self):
        _, payload = self.until(EXIT)
        return dict(zip(("kind", "oom", "code", "out", "err", "cpu", "memory"), struct.unpack("<BBIQQQQ", payload)))

    def quiet(self, seconds=0.3):
        """Whether the agent sends nothing for so long."""
        return not self.bytes and not select.select([self.socket], [], [], seconds)[0]

    def close(self):
        self.socket.close()
        self.process.kill()
        self.process.wait()


class Loop(unittest.TestCase):
    def agent(self, **options):
        agent = Agent(**options)
        self.addCleanup(agent.close)
        return agent

    def test_streams_are_kept_apart_and_the_exit_code_comes_last(self):
        agent = self.agent()
        agent.run("echo out; echo err >&2; exit 3")
        end = agent.exit()
        self.assertEqual(agent.streams, {STDOUT: b"out\n", STDERR: b"err\n"})
        self.assertEqual((end["kind"], end["code"], end["out"], end["err"]), (0, 3, 4, 4))
        self.assertEqual((end["cpu"], end["memory"]), (11, 22))

    def test_a_signal_ends_the_process_by_that_signal(self):
        agent = self.agent()
        agent.run("echo up; exec sleep 60")
        agent.until(STDOUT)
        agent.send(SIGNAL, struct.pack("<I", signal.SIGTERM))
        end = agent.exit()
        self.assertEqual((end["kind"], end["code"]), (1, signal.SIGTERM))

    def test_what_the_first_process_leaves_behind_does_not_delay_the_end(self):
        agent = self.agent()
        agent.run("sleep 60 & echo done")
        began = time.monotonic()
        self.assertEqual(agent.exit()["code"], 0)
        self.assertLess(time.monotonic() - began, 10)

    def test_all_bytes_of_standard_input_arrive_within_the_window(self):
        agent = self.agent()
        data = bytes(range(256)) * 4 * KIB
        agent.run("cat", stdin=None)
        sent = held = 0
        while len(agent.streams[STDOUT]) < len(data) or held < len(data):
            while sent < len(data) and sent - held < 256 * KIB:
                piece = data[sent : sent + min(64 * KIB, 256 * KIB - (sent - held))]
                agent.send(STDIN, u64(sent) + piece)
                sent += len(piece)
                if sent == len(data):
                    agent.send(STDIN_END, u64(sent))
            kind, payload = agent.until(STDIN_ACK, STDOUT)
            if kind == STDIN_ACK:
                (held,) = struct.unpack("<Q", payload)
        self.assertEqual(agent.exit()["code"], 0)
        self.assertEqual(agent.streams[STDOUT], data)

    def test_input_that_nobody_reads_is_not_acknowledged_and_one_over_the_window_is_a_fault(self):
        agent = self.agent()
        agent.run("sleep 60", stdin=None)
        agent.until(STARTED)
        for at in range(5):
            agent.send(STDIN, u64(at * 64 * KIB) + b"x" * 64 * KIB)
        # The pipe takes one piece; four stay in the window.
        _, payload = agent.until(STDIN_ACK)
        self.assertEqual(struct.unpack("<Q", payload)[0], 64 * KIB)
        self.assertTrue(agent.quiet())
        agent.send(STDIN, u64(5 * 64 * KIB) + b"x")
        self.assertEqual(agent.until(FAULT)[1][0], 4)

    def test_input_after_the_reader_closed_counts_as_read(self):
        agent = self.agent()
        agent.run("exec <&-; echo closed; sleep 60", stdin=None)
        agent.until(STDOUT)
        agent.send(STDIN, u64(0) + b"x" * 64 * KIB)
        self.assertEqual(agent.until(STDIN_ACK)[1], u64(64 * KIB))

    def test_without_acknowledgements_output_stops_at_the_window_and_a_ping_is_still_answered(self):
        agent = self.agent()
        agent.run("cat /dev/zero")
        while len(agent.streams[STDOUT]) < 512 * KIB:
            agent.until(STDOUT, acknowledge=False)
        self.assertTrue(agent.quiet())
        agent.send(PING, u64(7))
        self.assertEqual(agent.until(PONG), (PONG, u64(7)))
        agent.send(ACK, b"\x01" + u64(64 * KIB))
        agent.until(STDOUT, acknowledge=False)
        self.assertLessEqual(len(agent.streams[STDOUT]), 576 * KIB)

    def test_one_stream_that_is_full_does_not_stop_the_other(self):
        agent = self.agent()
        agent.run("cat /dev/zero & sleep 0.5; echo here >&2; wait")
        agent.until(STDERR, acknowledge=False)
        self.assertEqual(agent.streams[STDERR], b"here\n")

    def test_a_flood_is_whole(self):
        agent = self.agent()
        agent.run("head -c 20000000 /dev/zero | tr '\\0' 'a'")
        self.assertEqual(agent.exit()["out"], 20000000)
        self.assertEqual(agent.streams[STDOUT], b"a" * 20000000)

    def test_a_task_that_cannot_start_is_a_fault_with_its_stage_and_plain_text(self):
        agent = self.agent()
        agent.run("refuse", stdin=None)
        stage, error = struct.unpack("<BI", agent.until(FAULT)[1][:5])
        self.assertEqual((stage, error), (3, 2))

    def test_what_breaks_the_protocol_is_a_fault_and_the_end(self):
        hello = struct.pack("<IB", 19, HELLO) + b"\x01\x00" + NONCE
        for what, stream in {
            "no HELLO first": struct.pack("<IBQ", 9, PING, 1),
            "a second HELLO": hello + hello,
            "another version": struct.pack("<IB", 19, HELLO) + b"\x02\x00" + NONCE,
            "an unknown type": hello + struct.pack("<IB", 1, 0x40),
            "a frame too long": hello + struct.pack("<IB", 70000, STDIN),
            "no type": hello + struct.pack("<IB", 0, 0),
            "a gap in the input": hello + struct.pack("<IBQ", 10, STDIN, 5) + b"x",
            "an ACK of what was not sent": hello + struct.pack("<IBBQ", 10, ACK, 1, 5),
            "two tasks": hello + struct.pack("<IB", 9, TASK) + b"sleep 60" + struct.pack("<IB", 2, TASK) + b"x",
        }.items():
            with self.subTest(what):
                agent = self.agent()
                agent.socket.sendall(stream)
                self.assertEqual(agent.until(FAULT)[1][0], 4)
                self.assertEqual(agent.process.wait(10), 0)

    def test_poweroff_ends_it_at_once(self):
        agent = self.agent()
        agent.run("sleep 60")
        agent.until(STARTED)
        agent.send(POWEROFF)
        self.assertEqual(agent.process.wait(10), 0)

    def test_a_host_that_is_silent_for_the_limit_ends_it_and_pings_keep_it(self):
        agent = self.agent(silence_ms=600)
        agent.hello()
        for token in range(6):
            time.sleep(0.2)
            agent.send(PING, u64(token))
            agent.until(PONG)
        self.assertIsNone(agent.process.poll())
        self.assertEqual(agent.process.wait(10), 0)

    def test_a_lost_host_is_waited_for_no_longer_than_the_limit(self):
        agent = self.agent(silence_ms=600)
        agent.hello()
        agent.socket.shutdown(socket.SHUT_WR)
        self.assertEqual(agent.process.wait(10), 0)


class Counted(unittest.TextTestResult):
    """Prints the count that the runner of all checks adds up."""

    def stopTestRun(self):
        broken = len(self.failures) + len(self.errors)
        print(f"{self.testsRun - broken} passed, {broken} failed", flush=True)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0]], testRunner=unittest.TextTestRunner(resultclass=Counted, verbosity=1))
