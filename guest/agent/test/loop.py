#!/usr/bin/env python3
"""The agent's event loop from outside, with real processes: `loop.py HOST_AGENT`."""
import io
import os
import pathlib
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import unittest

from host import ACK, ARTIFACTS, EXIT, FAULT, FILE, FILE_DATA, G_HELLO, HELLO, KIB, NONCE, PING, PONG, POWEROFF, RESULT, SEED, SIGNAL, STARTED
from host import STDERR, STDIN, STDIN_ACK, STDIN_END, STDOUT, TASK, ENTROPY, Host, u64

BINARY = sys.argv.pop()


class Agent(Host):
    """One agent, and the host's end of its stream."""

    def __init__(self, silence_ms=20000, listen=False):
        if listen:
            theirs = socket.socket(socket.AF_UNIX)
            theirs.bind("\0cocore-agent-" + os.urandom(8).hex())
            theirs.listen()
            self.address = theirs.getsockname()
            super().__init__(self.connection())
        else:
            ours, theirs = socket.socketpair()
            ours.settimeout(20)
            super().__init__(ours)

        def at_three():
            os.dup2(theirs.fileno(), 3)

        self.exchange = tempfile.TemporaryDirectory()
        path = pathlib.Path(self.exchange.name)
        (path / "out").mkdir()
        env = os.environ | {"EXCHANGE": str(path), "COCORE_RESULT": str(path / "result"), "COCORE_OUT": str(path / "out")}
        command = [BINARY, str(silence_ms)] + ["listen"] * listen
        self.process = subprocess.Popen(command, env=env, preexec_fn=at_three, pass_fds=[3, theirs.fileno()])
        theirs.close()

    def connection(self, name=None):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(20)
        if name is not None:
            connection.bind(name)
        connection.connect(self.address)
        return connection

    def reconnect(self):
        self.socket, self.bytes = self.connection(), b""
        self.hello()

    def run(self, command, stdin=b"", **limits):
        self.hello()
        self.seed()
        self.task(command.encode(), **limits)
        if stdin is not None:
            if stdin:
                self.send(STDIN, u64(0) + stdin)
            self.send(STDIN_END, u64(len(stdin)))

    def close(self):
        self.socket.close()
        self.process.kill()
        self.process.wait()
        self.exchange.cleanup()


class Loop(unittest.TestCase):
    def agent(self, **options):
        agent = Agent(**options)
        self.addCleanup(agent.close)
        return agent

    def test_streams_are_kept_apart_and_the_exit_code_comes_last(self):
        agent = self.agent()
        agent.run("echo out; echo err >&2; exit 3")
        end = agent.exit()
        self.assertEqual((agent.streams[STDOUT], agent.streams[STDERR]), (b"out\n", b"err\n"))
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
        agent.give_input(data)
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
        self.assertEqual(agent.fault(), (3, 2, "no such program ?: No such file or directory"))

    def test_after_a_fault_pings_are_answered_and_poweroff_ends_it(self):
        agent = self.agent()
        agent.run("refuse", stdin=b"nobody will read this")
        agent.fault()
        agent.send(PING, u64(1))
        self.assertEqual(agent.frame(), (PONG, u64(1)))
        agent.send(POWEROFF)
        self.assertEqual(agent.process.wait(10), 0)

    def test_after_the_exit_late_frames_are_taken_and_nothing_but_a_pong_comes(self):
        agent = self.agent()
        agent.run("exit 0", stdin=None)
        agent.exit()
        agent.send(STDIN, u64(0) + b"late")
        agent.send(STDIN_END, u64(4))
        agent.send(SIGNAL, struct.pack("<I", signal.SIGTERM))
        agent.send(PING, u64(1))
        self.assertEqual(agent.frame(), (PONG, u64(1)))
        self.assertTrue(agent.quiet())

    def test_the_exit_waits_for_output_that_was_not_acknowledged(self):
        agent = self.agent()
        agent.run("head -c 1000000 /dev/zero")
        while len(agent.streams[STDOUT]) < 512 * KIB:
            agent.until(STDOUT, acknowledge=False)
        self.assertTrue(agent.quiet())
        agent.send(ACK, b"\x01" + u64(512 * KIB))
        self.assertEqual(agent.exit()["out"], 1000000)

    def test_what_breaks_the_protocol_is_a_fault_and_the_end(self):
        hello = struct.pack("<IB", 19, HELLO) + b"\x02\x00" + NONCE
        seed = struct.pack("<IB", 73, SEED) + u64(1) + ENTROPY
        task = seed + struct.pack("<IB", 17, TASK) + u64(0) + b"sleep 60"
        for what, stream in {
            "no HELLO first": struct.pack("<IBQ", 9, PING, 1),
            "another version": struct.pack("<IB", 19, HELLO) + b"\x01\x00" + NONCE,
            "an unknown type": hello + struct.pack("<IB", 1, 0x40),
            "a frame too long": hello + struct.pack("<IB", 70000, STDIN),
            "no type": hello + struct.pack("<IB", 0, 0),
            "input before the task": hello + struct.pack("<IBQ", 10, STDIN, 0) + b"x",
            "a signal before the task": hello + struct.pack("<IBI", 5, SIGNAL, 15),
            "a task before the seed": hello + struct.pack("<IB", 10, TASK) + u64(0) + b"x",
            "a seed after the task": hello + task + seed,
            "a gap in the input": hello + task + struct.pack("<IBQ", 10, STDIN, 5) + b"x",
            "an end of the input elsewhere": hello + task + struct.pack("<IBQ", 9, STDIN_END, 5),
            "input after its end": hello + task + struct.pack("<IBQ", 9, STDIN_END, 0) + struct.pack("<IBQ", 10, STDIN, 0) + b"x",
            "an ACK of what was not sent": hello + task + struct.pack("<IBBQ", 10, ACK, 1, 5),
            "two tasks": hello + task + struct.pack("<IB", 10, TASK) + u64(0) + b"x",
        }.items():
            with self.subTest(what):
                agent = self.agent(silence_ms=500)
                agent.socket.sendall(stream)
                self.assertEqual(agent.until(FAULT)[1][0], 4)
                self.assertEqual(agent.process.wait(10), 0)

    def test_a_second_hello_is_a_new_connection_that_is_told_everything_again(self):
        agent = self.agent()
        agent.run("echo out; sleep 60", stdin=None)
        agent.until(STDOUT, acknowledge=False)
        agent.send(STDIN, u64(0) + b"x" * 64 * KIB)
        agent.until(STDIN_ACK)
        agent.send(STDIN, u64(64 * KIB) + b"forgotten")
        agent.streams[STDOUT].clear()
        agent.hello()
        self.assertEqual(agent.frame()[0], STARTED)
        self.assertEqual(agent.frame(), (STDIN_ACK, u64(64 * KIB)))
        self.assertEqual(agent.frame(), (STDOUT, u64(0) + b"out\n"))
        agent.send(STDIN, u64(64 * KIB) + b"again")
        agent.send(PING, u64(1))
        self.assertEqual(agent.frame(), (PONG, u64(1)))

    def test_a_new_connection_may_acknowledge_what_the_old_one_brought(self):
        agent = self.agent()
        agent.run("head -c 1000 /dev/zero; read line; echo $line", stdin=None)
        while len(agent.streams[STDOUT]) < 1000:
            agent.until(STDOUT, acknowledge=False)
        # Together, so that the agent has no time to send the bytes again.
        hello = struct.pack("<IB", 19, HELLO) + b"\x02\x00" + NONCE
        agent.socket.sendall(hello + struct.pack("<IBBQ", 10, ACK, 1, 1000) + struct.pack("<IBQ", 12, STDIN, 0) + b"on\n")
        agent.exit()
        self.assertEqual(agent.streams[STDOUT][1000:], b"on\n")

    def test_each_connection_needs_its_own_seed_before_the_task(self):
        agent = self.agent()
        agent.hello()
        agent.seed()
        agent.hello()
        agent.task(b"true")
        self.assertEqual(agent.fault(), (4, 0, "TASK before SEED"))

    def test_who_holds_the_pipes_without_being_of_the_function_does_not_delay_the_end(self):
        agent = self.agent()
        agent.run("setsid sleep 6 & sleep 0.2; head -c 100000 /dev/zero")
        began = time.monotonic()
        self.assertEqual(agent.exit()["out"], 100000)
        self.assertLess(time.monotonic() - began, 4)

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

    def test_a_host_that_never_speaks_ends_it_after_three_times_the_limit(self):
        agent = self.agent(silence_ms=400)
        time.sleep(0.7)
        self.assertIsNone(agent.process.poll())
        self.assertEqual(agent.process.wait(10), 0)

    def frozen(self, agent, seconds):
        """To the agent this is a clock that jumps."""
        agent.process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        agent.process.send_signal(signal.SIGCONT)

    def test_a_jump_of_the_clock_does_not_end_one_that_waits_for_its_task(self):
        agent = self.agent(silence_ms=2000)
        agent.hello()
        self.frozen(agent, 3)
        time.sleep(0.2)
        agent.send(PING, u64(1))
        self.assertEqual(agent.frame(), (PONG, u64(1)))
        self.assertEqual(agent.process.wait(10), 0)

    def test_a_jump_of_the_clock_ends_one_that_runs_its_task(self):
        agent = self.agent(silence_ms=2000)
        agent.run("sleep 60")
        agent.until(STARTED)
        self.frozen(agent, 3)
        self.assertEqual(agent.process.wait(0.4), 0)

    def test_a_start_that_hangs_does_not_outlive_the_limit(self):
        agent = self.agent(silence_ms=600)
        agent.run("hang", stdin=None)
        self.assertEqual(agent.process.wait(10), 0)

    def test_a_lost_host_is_waited_for_no_longer_than_the_limit(self):
        agent = self.agent(silence_ms=600)
        agent.run("sleep 60")
        agent.until(STARTED)
        agent.socket.shutdown(socket.SHUT_WR)
        self.assertEqual(agent.process.wait(10), 0)


class Leavings(unittest.TestCase):
    """The result and the artifacts of a task."""

    def agent(self, **options):
        agent = Agent(**options)
        self.addCleanup(agent.close)
        return agent

    def ended(self, command, **limits):
        agent = self.agent()
        agent.run(command, **limits)
        return agent, agent.exit()

    def archive(self, agent):
        return tarfile.open(fileobj=io.BytesIO(agent.streams[ARTIFACTS]), mode="r:", encoding="utf-8")

    def test_a_task_that_leaves_nothing_sends_nothing(self):
        agent, end = self.ended("true")
        self.assertEqual((end["result"], end["artifacts"], end["files"], end["refused"], end["message"]), (0, 0, 0, 0, ""))
        self.assertEqual((agent.streams[RESULT], agent.streams[ARTIFACTS]), (b"", b""))

    def test_a_result_comes_after_all_output_and_before_the_end(self):
        agent = self.agent()
        agent.run("""echo '{"a": 1}' > $COCORE_RESULT; head -c 300000 /dev/zero; exit 4""")
        agent.until(RESULT)
        self.assertEqual(len(agent.streams[STDOUT]), 300_000)
        end = agent.exit()
        self.assertEqual(agent.streams[RESULT], b'{"a": 1}\n')
        self.assertEqual((end["code"], end["result"]), (4, 9))

    def test_a_result_of_the_most_that_is_taken_arrives_whole_and_one_byte_more_is_refused(self):
        agent, end = self.ended("head -c 262144 /dev/urandom | tee $COCORE_RESULT >/dev/null")
        self.assertEqual(len(agent.streams[RESULT]), 262_144)
        agent, end = self.ended("head -c 262145 /dev/zero > $COCORE_RESULT; echo > $COCORE_OUT/file")
        self.assertEqual((end["result"], end["artifacts"], end["refused"]), (0, 0, 1))
        self.assertEqual(end["message"], "the result is 262145 bytes long, of which it may be 262144")

    def test_a_result_that_is_no_regular_file_is_refused_and_never_followed(self):
        for command in ("ln -s /etc/passwd $COCORE_RESULT", "mkfifo $COCORE_RESULT", "mkdir $COCORE_RESULT"):
            with self.subTest(command):
                agent, end = self.ended(command)
                self.assertEqual((end["refused"], end["message"]), (1, "the result is not a regular file"))
                self.assertEqual(agent.streams[RESULT], b"")

    def test_artifacts_are_a_sorted_archive_of_files_and_directories_without_owner_or_time(self):
        agent, end = self.ended(
            "cd $COCORE_OUT; mkdir -p b/c empty; echo one > b/c/one; echo two > b-two; echo run > a; chmod 4711 a; chmod 600 b-two"
        )
        with self.archive(agent) as archive:
            members = archive.getmembers()
            self.assertEqual([member.name for member in members], ["a", "b-two", "b", "b/c", "b/c/one", "empty"])
            self.assertEqual([oct(member.mode) for member in members], ["0o755", "0o644", "0o755", "0o755", "0o644", "0o755"])
            self.assertEqual({(member.uid, member.gid, member.mtime) for member in members}, {(0, 0, 0)})
            self.assertEqual(archive.extractfile("b/c/one").read(), b"one\n")
        self.assertEqual((end["artifacts"], end["files"]), (len(agent.streams[ARTIFACTS]), 3))
        self.assertEqual(len(agent.streams[ARTIFACTS]) % 512, 0)

    def test_links_pipes_and_sockets_are_left_out(self):
        agent, end = self.ended(
            "cd $COCORE_OUT; ln -s /etc/passwd link; ln -s / root; mkfifo pipe; echo 1 > file; ln file hard; ln -s . self"
        )
        with self.archive(agent) as archive:
            self.assertEqual(archive.getnames(), ["file", "hard"])
            self.assertTrue(all(member.isreg() for member in archive))
        self.assertEqual(end["files"], 2)

    def test_a_directory_of_artifacts_that_became_a_link_leaves_none(self):
        agent, end = self.ended("rmdir $COCORE_OUT; ln -s /etc $COCORE_OUT")
        self.assertEqual((end["artifacts"], end["refused"]), (0, 0))

    def test_odd_and_long_names_arrive_as_they_are(self):
        names = ["n" * 100, "n" * 101, "o" * 255, "new\nline", "é", "a b", "-rf", "..."]
        deep = "/".join(["d" * 100] * 9)
        agent = self.agent()
        out = os.path.join(agent.exchange.name, "out")
        os.makedirs(f"{out}/{deep}")
        for name in [*names, f"{deep}/x"]:
            pathlib.Path(out, name).write_text(name)
        agent.run("true")
        agent.exit()
        with self.archive(agent) as archive:
            found = {member.name: archive.extractfile(member).read().decode() for member in archive if member.isreg()}
        self.assertEqual(found, {name: name for name in [*names, f"{deep}/x"]})

    def test_a_path_that_is_too_long_is_refused(self):
        agent, end = self.ended("cd $COCORE_OUT; d=$(printf d%.0s $(seq 200)); for i in 1 2 3 4 5 6; do mkdir $d; cd $d; done")
        self.assertEqual((end["refused"], end["message"]), (2, "the artifacts: a path is longer than 1024 bytes"))

    def test_as_many_entries_as_are_taken_arrive_and_one_more_is_refused(self):
        agent, end = self.ended("cd $COCORE_OUT; touch $(seq 1000)")
        self.assertEqual((end["files"], end["refused"]), (1000, 0))
        agent, end = self.ended("cd $COCORE_OUT; mkdir d; touch $(seq 1000)")
        self.assertEqual((end["artifacts"], end["refused"]), (0, 2))
        self.assertEqual(end["message"], "the artifacts: there are more than 1000 files and directories")

    def test_artifacts_up_to_the_limit_arrive_and_one_block_more_is_refused(self):
        # One header, the file, and the two blocks of the end.
        agent, end = self.ended("head -c 2000000 /dev/urandom > $COCORE_OUT/file", artifacts_limit=512 + 2_000_384 + 1024)
        self.assertEqual((end["artifacts"], end["refused"]), (2_001_920, 0))
        with self.archive(agent) as archive:
            self.assertEqual(archive.getmember("file").size, 2_000_000)
        agent, end = self.ended("head -c 2000000 /dev/zero > $COCORE_OUT/file", artifacts_limit=2_001_919)
        self.assertEqual((end["artifacts"], end["refused"]), (0, 2))
        self.assertEqual(end["message"], "the artifacts: they are 2001920 bytes as an archive, of which they may be 2001919")

    def test_a_file_that_claims_the_largest_size_is_refused(self):
        agent, end = self.ended("truncate -s 8E $COCORE_OUT/a || truncate -s 15T $COCORE_OUT/a; truncate -s 15T $COCORE_OUT/b")
        self.assertEqual(end["refused"], 2)

    def test_artifacts_beyond_the_window_wait_for_the_host(self):
        agent = self.agent()
        agent.run("head -c 1000000 /dev/zero > $COCORE_OUT/file")
        while len(agent.streams[ARTIFACTS]) < 512 * KIB:
            agent.until(ARTIFACTS, acknowledge=False)
        self.assertEqual(len(agent.streams[ARTIFACTS]), 512 * KIB)
        self.assertTrue(agent.quiet())
        agent.send(ACK, b"\x04" + u64(512 * KIB))
        self.assertEqual(agent.exit()["artifacts"], len(agent.streams[ARTIFACTS]))

    def test_an_acknowledgement_of_a_result_that_was_not_sent_is_a_fault(self):
        agent = self.agent()
        agent.run("sleep 60")
        agent.until(STARTED)
        agent.send(ACK, b"\x03" + u64(1))
        self.assertEqual(agent.fault(), (4, 0, "an ACK of what was not sent"))

    def test_a_new_connection_gets_what_was_not_acknowledged_once_more(self):
        agent = self.agent(listen=True)
        agent.run("echo 42 > $COCORE_RESULT; head -c 700000 /dev/urandom > $COCORE_OUT/file")
        agent.until(ARTIFACTS, acknowledge=False)
        first = bytes(agent.streams[ARTIFACTS])
        agent.send(ACK, b"\x04" + u64(1000))
        agent.send(PING, u64(1))
        agent.until(PONG, acknowledge=False)
        agent.socket.close()
        agent.reconnect()
        agent.streams[RESULT].clear()
        del agent.streams[ARTIFACTS][1000:]
        end = agent.exit()
        self.assertEqual(agent.streams[RESULT], b"42\n")
        self.assertEqual(agent.streams[ARTIFACTS][: len(first)], first)
        self.assertEqual(len(agent.streams[ARTIFACTS]), end["artifacts"])


class Inputs(unittest.TestCase):
    """Files that a task is given."""

    def agent(self, **options):
        agent = Agent(**options)
        self.addCleanup(agent.close)
        agent.hello()
        agent.seed()
        return agent

    def test_files_are_there_whole_before_the_task_starts(self):
        agent = self.agent()
        data = os.urandom(200_000)
        agent.file("/work/new/data", data)
        agent.file("/empty", b"")
        agent.task(b"cat $EXCHANGE/work/new/data; stat -c %a-%s $EXCHANGE/empty >&2")
        agent.send(STDIN_END, u64(0))
        agent.exit()
        self.assertEqual(agent.streams[STDOUT], data)
        self.assertEqual(agent.streams[STDERR], b"644-0\n")

    def test_a_link_of_the_image_leads_nowhere_outside_and_one_in_the_way_is_replaced(self):
        agent = self.agent()
        with tempfile.TemporaryDirectory() as outside:
            root = pathlib.Path(agent.exchange.name)
            (root / "work").symlink_to(outside)
            (root / "in").symlink_to(f"{outside}/victim")
            agent.file("/in", b"new")
            agent.file("/../../x", b"x")
            agent.file("/work/y", b"y")
            agent.task(b"true")
            agent.until(STARTED, FAULT)
            self.assertEqual(os.listdir(outside), [])
        self.assertEqual((root / "in").read_bytes(), b"new")
        self.assertFalse((root / "in").is_symlink())
        self.assertEqual((root / "x").read_bytes(), b"x")

    def test_a_file_that_cannot_be_made_is_a_fault_of_the_start_and_what_follows_is_dropped(self):
        agent = self.agent()
        pathlib.Path(agent.exchange.name, "plain").write_text("")
        agent.file("/plain/in", b"x" * 100)
        agent.file("/other", b"y")
        agent.task(b"true")
        stage, _, message = agent.fault()
        self.assertEqual((stage, message), (3, "the input file /plain/in cannot be made: Not a directory"))

    def test_files_out_of_order_are_faults(self):
        for name, act in {
            "data without a file": lambda agent: agent.send(FILE_DATA, b"x"),
            "more than its size": lambda agent: agent.file("/a", b"") or agent.send(FILE_DATA, b"x"),
            "two at once": lambda agent: [agent.send(FILE, struct.pack("<IIQ", 0, 0, 5) + b"/a") for _ in range(2)],
            "a task within one": lambda agent: agent.send(FILE, struct.pack("<IIQ", 0, 0, 5) + b"/a") or agent.task(b"true"),
            "after the task": lambda agent: agent.task(b"sleep 60") or agent.file("/a", b"x"),
        }.items():
            with self.subTest(name):
                agent = self.agent()
                act(agent)
                self.assertEqual(agent.fault()[0], 4)


class Listening(unittest.TestCase):
    """Where the host connects to the agent, again and again."""

    def agent(self, **options):
        agent = Agent(listen=True, **options)
        self.addCleanup(agent.close)
        return agent

    def test_a_task_outlives_its_connection_and_the_next_one_gets_the_rest(self):
        agent = self.agent()
        agent.run("echo before; read line; echo $line; exit 3", stdin=None)
        agent.until(STDOUT, acknowledge=False)
        agent.streams[STDOUT].clear()
        agent.socket.close()
        agent.reconnect()
        self.assertEqual(agent.frame()[0], STARTED)
        agent.send(STDIN, u64(0) + b"after\n")
        self.assertEqual(agent.exit()["code"], 3)
        self.assertEqual(agent.streams[STDOUT], b"before\nafter\n")

    def test_half_a_frame_of_one_connection_is_no_part_of_the_next(self):
        agent = self.agent()
        agent.socket.sendall(struct.pack("<IB", 19, HELLO))
        agent.socket.close()
        agent.reconnect()
        agent.send(PING, u64(1))
        self.assertEqual(agent.frame(), (PONG, u64(1)))

    def test_a_newer_connection_replaces_an_older_one(self):
        agent = self.agent()
        agent.run("sleep 60")
        agent.until(STARTED)
        old = agent.socket
        self.addCleanup(old.close)
        agent.reconnect()
        self.assertEqual(agent.frame()[0], STARTED)
        while old.recv(1000):
            pass

    def test_who_is_not_the_host_is_turned_away_and_the_host_stays(self):
        agent = self.agent()
        agent.hello()
        stranger = agent.connection("\0stranger")
        self.addCleanup(stranger.close)
        self.assertEqual(stranger.recv(1), b"")
        agent.send(PING, u64(1))
        self.assertEqual(agent.frame(), (PONG, u64(1)))

    def test_without_a_task_a_lost_connection_gives_the_next_one_the_whole_limit(self):
        agent = self.agent(silence_ms=2000)
        agent.hello()
        time.sleep(1.4)
        agent.socket.close()
        time.sleep(1.4)
        agent.reconnect()
        agent.socket.close()
        self.assertEqual(agent.process.wait(10), 0)

    def test_with_a_task_a_lost_connection_takes_nothing_from_the_limit(self):
        agent = self.agent(silence_ms=2000)
        agent.run("sleep 60")
        agent.until(STARTED)
        time.sleep(1.2)
        agent.socket.close()
        self.assertEqual(agent.process.wait(1.2), 0)


class Counted(unittest.TextTestResult):
    """Prints the count that the runner of all checks adds up."""

    def stopTestRun(self):
        broken = len(self.failures) + len(self.errors)
        print(f"{self.testsRun - broken} passed, {broken} failed", flush=True)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0]], testRunner=unittest.TextTestRunner(resultclass=Counted, verbosity=1))
