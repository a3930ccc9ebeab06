#!/usr/bin/env python3
"""The agent as PID 1 of a real microVM under software emulation: `vm.py KERNEL INITRD ROOTFS`.

ROOTFS is an erofs image with bash and Python.
"""
import hashlib
import json
import pathlib
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest

from host import KIB, PING, PONG, POWEROFF, SIGNAL, STARTED
from host import STDERR, STDIN, STDIN_ACK, STDIN_END, STDOUT, STREAMS, Host, u64
from machine import Vsock, command, make_code, make_scratch

KERNEL, INITRD, ROOTFS = sys.argv[1:4]
CONFIG = json.loads((pathlib.Path(__file__).parent / "config.json").read_text())
BOOT_SECONDS = 60
PORT = 1024


class Guest(Host):
    """One microVM, and the host's end of its port."""

    def __init__(self, memory_mib=256, code=None, scratch=True, vsock=False):
        self.directory = tempfile.TemporaryDirectory()
        self.port = f"{self.directory.name}/port"
        self.console = f"{self.directory.name}/console"
        drives = [("rootfs", ROOTFS, "on")]
        if code is not None:
            drives.append(("code", make_code(f"{self.directory.name}/code", code), "on"))
        if scratch:
            drives.append(("scratch", make_scratch(f"{self.directory.name}/scratch"), "off"))
        self.vsock = Vsock(self.directory.name) if vsock else None
        if vsock:
            line = command(KERNEL, INITRD, memory_mib, drives, self.console, ",memory-backend=ram", f"cocore.vsock={PORT}")
            line += ["-object", f"memory-backend-memfd,id=ram,size={memory_mib}M,share=on", *self.vsock.arguments()]
        else:
            line = command(KERNEL, INITRD, memory_mib, drives, self.console)
            line += ["-device", "virtio-serial-device"]
            line += ["-chardev", f"socket,id=port,path={self.port},server=on,wait=off"]
            line += ["-device", "virtserialport,chardev=port,name=cocore.agent"]
        self.process = subprocess.Popen(line)
        super().__init__(self.connect())

    def connect(self):
        if self.vsock is not None:
            return self.vsock.connect(PORT, BOOT_SECONDS)
        end = time.monotonic() + BOOT_SECONDS
        while True:
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(BOOT_SECONDS)
            try:
                connection.connect(self.port)
                return connection
            except (FileNotFoundError, ConnectionRefusedError):
                connection.close()
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)

    def reconnect(self):
        self.socket, self.bytes, self.streams = self.connect(), b"", {kind: bytearray() for kind in STREAMS}
        self.hello()

    def run(self, script, stdin=b"", seed_ns=None, **changes):
        """Starts a task: `script` under bash; `changes` are merged into its configuration's `process`."""
        config = json.loads(json.dumps(CONFIG))
        config["process"]["args"] = ["/bin/bash", "-c", script]
        config["process"] |= changes
        if not pathlib.Path(self.directory.name, "code").exists():
            config["mounts"] = [mount for mount in config["mounts"] if mount["destination"] != "/function"]
        self.hello()
        self.seed(seed_ns or time.time_ns())
        self.task(json.dumps(config).encode())
        if stdin is not None:
            self.until(STARTED)
            self.give_input(stdin) if stdin else self.send(STDIN_END, u64(0))

    def output(self):
        return self.streams[STDOUT].decode()

    def power_off(self):
        self.send(POWEROFF)
        return self.process.wait(20)

    def close(self):
        self.socket.close()
        self.process.kill()
        self.process.wait()
        if self.vsock is not None:
            self.vsock.close()
        self.directory.cleanup()


class Vm(unittest.TestCase):
    def guest(self, **options):
        guest = Guest(**options)
        self.addCleanup(guest.close)
        return guest

    def test_a_function_reports_its_output_and_exit_code_and_the_guest_powers_off(self):
        guest = self.guest()
        guest.run("echo out; echo err >&2; exit 7")
        end = guest.exit()
        self.assertEqual((guest.output(), guest.streams[STDERR], end["kind"], end["code"]), ("out\n", b"err\n", 0, 7))
        self.assertGreater(end["cpu"], 0)
        self.assertGreater(end["memory"], 64 * KIB)
        self.assertEqual(guest.power_off(), 0)

    def test_a_signal_to_itself_ends_it_as_outside_of_a_container(self):
        guest = self.guest()
        guest.run("kill -9 $$")
        end = guest.exit()
        self.assertEqual((end["kind"], end["code"], end["oom"]), (1, signal.SIGKILL, 0))

    def test_a_signal_of_the_host_reaches_the_first_process(self):
        guest = self.guest()
        guest.run("trap 'echo asked; exit 5' TERM; echo up; while :; do sleep 0.1; done")
        guest.until(STDOUT)
        guest.send(SIGNAL, struct.pack("<I", signal.SIGTERM))
        self.assertEqual(guest.exit()["code"], 5)
        self.assertEqual(guest.output(), "up\nasked\n")

    def test_memory_beyond_the_limit_kills_the_whole_function_and_is_reported(self):
        guest = self.guest()
        guest.run("python3 -c 'x = [bytearray(1 << 20) for _ in range(1000)]'; echo survived")
        end = guest.exit()
        self.assertEqual((end["kind"], end["code"], end["oom"]), (1, signal.SIGKILL, 1))
        self.assertEqual(guest.output(), "")
        limit = CONFIG["linux"]["resources"]["memory"]["limit"]
        self.assertGreater(end["memory"], limit * 9 // 10)

    def test_the_image_belongs_to_the_containers_root_and_can_be_written_over(self):
        guest = self.guest()
        guest.run(
            "set -e; id -u; stat -c %u:%g /etc/passwd /root /work; stat -c %a /tmp /work; cat /proc/self/uid_map;"
            "for at in /root /work /tmp /etc; do echo $at >$at/x; cat $at/x; done; echo changed >>/etc/passwd; tail -n 1 /etc/passwd"
        )
        self.assertEqual(guest.exit()["code"], 0, guest.streams[STDERR])
        lines = guest.output().split("\n")
        self.assertEqual(lines[:6], ["0", "0:0", "0:0", "0:0", "1777", "755"])
        self.assertEqual(lines[6].split(), ["0", "100000", "65536"])
        self.assertEqual(lines[7:12], ["/root", "/work", "/tmp", "/etc", "changed"])

    def test_the_code_drive_belongs_to_the_containers_root_and_cannot_be_written(self):
        guest = self.guest(code={"main.sh": "echo from the code drive"})
        guest.run("bash /function/main.sh; echo x >/function/main.sh")
        self.assertEqual(guest.exit()["code"], 1)
        self.assertEqual(guest.output(), "from the code drive\n")
        self.assertIn(b"Read-only file system", guest.streams[STDERR])

    def test_the_function_sees_its_own_processes_and_pid_1_and_nothing_of_the_agent(self):
        guest = self.guest()
        guest.run(
            "cd /proc; for pid in [0-9]*; do tr '\\0' ' ' <$pid/cmdline; echo; done | sort -u | grep -v bash; wc -l <1/mountinfo;"
            "cat 1/environ 1/maps; ls 1/fd 1/root; kill -ALRM 1; kill -9 1; grep CapEff 1/status; ls /proc/self/fd | wc -l;"
            "python3 -c 'import socket; socket.socket(40, socket.SOCK_STREAM)'; ls /dev; cat /proc/net/dev | wc -l"
        )
        end = guest.exit()
        self.assertEqual(end["code"], 0, guest.streams[STDERR])
        lines = guest.output().split("\n")
        self.assertEqual(lines[0].strip(), "init")
        self.assertIn("0", lines)
        self.assertIn("CapEff:\t0000000000000000", lines)
        self.assertEqual(guest.streams[STDERR].count(b"Permission denied"), 4, guest.streams[STDERR])
        self.assertIn(b"Operation not permitted", guest.streams[STDERR])
        self.assertNotIn("vport", guest.output())
        self.assertNotIn("vda", guest.output())

    def test_what_the_function_leaves_behind_dies_with_it(self):
        guest = self.guest()
        guest.run("setsid nohup bash -c 'while :; do echo still; sleep 0.1; done' & sleep 0.3; exit 0")
        self.assertEqual(guest.exit()["code"], 0)
        self.assertTrue(guest.quiet(1))

    def test_a_bomb_of_processes_that_floods_leaves_the_agent_alive_and_dies_with_the_first_process(self):
        guest = self.guest()
        guest.run("bomb() { while :; do bomb & echo flood; done; }; (bomb) 2>/dev/null & wait")
        for token in range(1, 7):
            guest.until(STDOUT)
            time.sleep(1)
            guest.send(PING, u64(token))
            self.assertEqual(guest.until(PONG), (PONG, u64(token)))
        guest.send(SIGNAL, struct.pack("<I", signal.SIGKILL))
        end = guest.exit()
        self.assertEqual((end["kind"], end["code"], end["oom"]), (1, signal.SIGKILL, 0))
        self.assertTrue(guest.quiet(1))

    def test_a_function_that_closes_its_streams_ends_as_itself_and_not_before(self):
        guest = self.guest()
        guest.run("echo out; exec <&- >&- 2>&-; sleep 1; exit 6")
        began = time.monotonic()
        end = guest.exit()
        self.assertEqual((end["code"], end["out"], end["err"]), (6, 4, 0))
        self.assertGreater(time.monotonic() - began, 0.8)

    def test_a_full_scratch_drive_is_an_error_of_the_writer(self):
        guest = self.guest()
        guest.run("head -c 300000000 /dev/zero >/work/big || echo $?; rm /work/big; echo small >/work/small && cat /work/small")
        self.assertEqual(guest.exit()["code"], 0)
        self.assertEqual(guest.output(), "1\nsmall\n")
        self.assertIn(b"No space left on device", guest.streams[STDERR])

    def test_standard_input_reaches_the_function_whole(self):
        guest = self.guest()
        data = bytes(range(256)) * 4 * KIB
        guest.run("sha256sum", stdin=data)
        self.assertEqual(guest.exit()["code"], 0)
        self.assertEqual(guest.output().split()[0], hashlib.sha256(data).hexdigest())

    def test_five_megabytes_of_output_arrive_whole_and_a_ping_is_answered_meanwhile(self):
        guest = self.guest()
        guest.run("seq 1 1000000 | head -c 5000000")
        guest.until(STDOUT)
        guest.send(PING, u64(7))
        self.assertEqual(guest.until(PONG), (PONG, u64(7)))
        self.assertEqual(guest.exit()["out"], 5000000)
        expected = "".join(f"{number}\n" for number in range(1, 1000001))[:5000000]
        self.assertEqual(guest.output(), expected)

    def test_clock_is_set_and_the_generator_reseeded(self):
        guest = self.guest()
        guest.run("date +%s", seed_ns=2000000000 * 10**9)
        self.assertEqual(guest.exit()["code"], 0)
        self.assertLess(int(guest.output()) - 2000000000, 20)

    def test_a_program_that_is_not_there_is_a_fault_of_the_start_with_the_runtimes_words(self):
        guest = self.guest()
        guest.run("", stdin=None, args=["/no/such/program"])
        stage, _, message = guest.fault()
        self.assertEqual(stage, 3)
        self.assertIn("/no/such/program", message)
        self.assertEqual(guest.power_off(), 0)

    def test_a_drive_that_is_not_there_is_a_fault_of_the_set_up(self):
        guest = self.guest(scratch=False)
        guest.run("", stdin=None)
        stage, _, message = guest.fault()
        self.assertEqual((stage, message), (1, "there is no drive with the serial scratch"))

    def test_a_broken_configuration_is_a_fault_of_the_start(self):
        guest = self.guest()
        guest.hello()
        guest.seed(time.time_ns())
        guest.task(b"{not json")
        self.assertEqual(guest.fault()[0], 3)

    def test_a_new_connection_gets_what_the_old_one_did_not_acknowledge(self):
        guest = self.guest()
        guest.run("echo before; read line; echo $line; head -c 300000 /dev/zero | tr '\\0' a; read line; echo after $line", stdin=None)
        guest.until(STDOUT, acknowledge=False)
        guest.socket.close()
        guest.reconnect()
        self.assertEqual(guest.frame()[0], STARTED)
        self.assertEqual(guest.until(STDIN_ACK, acknowledge=False), (STDIN_ACK, u64(0)))
        guest.send(STDIN, u64(0) + b"one\ntwo\n")
        guest.send(STDIN_END, u64(8))
        self.assertEqual(guest.exit()["code"], 0)
        self.assertEqual(guest.output(), "before\none\n" + "a" * 300000 + "after two\n")

    def test_a_host_that_is_gone_for_twenty_seconds_ends_the_guest(self):
        guest = self.guest()
        guest.run("sleep 60")
        began = time.monotonic()
        guest.socket.close()
        self.assertEqual(guest.process.wait(30), 0)
        self.assertGreater(time.monotonic() - began, 15)

    def test_what_breaks_the_protocol_is_a_fault_and_powers_off(self):
        guest = self.guest()
        guest.run("sleep 60")
        guest.send(STDIN, u64(99) + b"x")
        self.assertEqual(guest.fault()[0], 4)
        self.assertEqual(guest.process.wait(20), 0)


class OverVsock(unittest.TestCase):
    def guest(self):
        guest = Guest(vsock=True)
        self.addCleanup(guest.close)
        return guest

    def test_streams_are_whole_both_ways_and_the_guest_powers_off(self):
        guest = self.guest()
        # As in a restored copy: the connection that found the agent ready is not the one that brings the task.
        guest.hello()
        guest.socket.close()
        guest.socket = guest.connect()
        data = bytes(range(256)) * 4 * KIB
        guest.run("sha256sum; seq 1 300000; exit 7", stdin=data)
        end = guest.exit()
        digest, _, numbers = guest.output().partition("  -\n")
        self.assertEqual((end["kind"], end["code"], digest), (0, 7, hashlib.sha256(data).hexdigest()))
        self.assertEqual(numbers, "".join(f"{number}\n" for number in range(1, 300001)))
        self.assertEqual(guest.power_off(), 0)

    def test_each_new_connection_gets_what_was_not_acknowledged_whether_the_old_one_ended_or_not(self):
        guest = self.guest()
        guest.run("echo before; read line; echo $line; head -c 300000 /dev/zero | tr '\\0' a; exit 5", stdin=None)
        guest.until(STDOUT, acknowledge=False)
        guest.socket.close()
        guest.reconnect()
        self.assertEqual(guest.frame()[0], STARTED)
        old = guest.socket
        self.addCleanup(old.close)
        guest.reconnect()
        self.assertEqual(guest.frame()[0], STARTED)
        while old.recv(KIB):
            pass
        guest.send(STDIN, u64(0) + b"one\n")
        guest.send(STDIN_END, u64(4))
        self.assertEqual(guest.exit()["code"], 5)
        self.assertEqual(guest.output(), "before\none\n" + "a" * 300000)

    def test_only_the_host_is_taken(self):
        guest = self.guest()
        guest.run("sleep 60")
        stranger = guest.vsock.connect(PORT, BOOT_SECONDS, cid=7)
        self.addCleanup(stranger.close)
        self.assertEqual(stranger.recv(1), b"")
        guest.send(PING, u64(1))
        self.assertEqual(guest.until(PONG), (PONG, u64(1)))

    def test_a_host_that_is_gone_for_twenty_seconds_ends_the_guest(self):
        guest = self.guest()
        guest.run("sleep 60")
        began = time.monotonic()
        guest.socket.close()
        self.assertEqual(guest.process.wait(30), 0)
        self.assertGreater(time.monotonic() - began, 15)


class Counted(unittest.TextTestResult):
    """Prints the count that the runner of all checks adds up."""

    def stopTestRun(self):
        broken = len(self.failures) + len(self.errors)
        print(f"{self.testsRun - broken} passed, {broken} failed", flush=True)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[4:]], testRunner=unittest.TextTestRunner(resultclass=Counted, verbosity=2))
