#!/usr/bin/env python3
"""Copies of one snapshot run different functions, and share nothing that they should not: `snapshot.py KERNEL INITRD ROOTFS`.

A template is booted with empty placeholder drives, frozen when its agent is ready, and restored twice at once with other drives of the
same size. ROOTFS is an erofs image with bash and Python. Needs root, to unpack it. Every QEMU runs under the seccomp filter of production (no
exec, no fork). This is what was found with QEMU 7.2 of Debian 12.

Saving. `migrate exec:` is killed by the filter. `migrate unix:PATH` works: QEMU connects to a socket where the host listens, and writes the stream
to it. `getfd` (the descriptor comes with SCM_RIGHTS on the QMP socket), then `migrate fd:NAME` works, also into a regular file; the number
of an inherited descriptor in place of NAME does not. `file:` is not known before QEMU 8.2.

Restoring. `-incoming fd:N` takes the number of an inherited descriptor, which may be a regular file. So does `migrate-incoming fd:N` by QMP after
`-incoming defer`, which is the way when a capability has to be set before (`-global migration.x-ignore-shared=on` is not known). What was stopped
before it was saved waits for `cont`. `-kernel`, `-initrd` and `-append` may be left out: what they load is in the memory already.

The stream to the agent is a virtio-serial port here: a machine with `vhost-user-vsock-device` cannot be saved.

Memory. In the stream, every page that is not zero is written, read and copied. With the capability `x-ignore-shared` and a template whose
memory is `memory-backend-file,share=on`, memory is a file and stays where it is; the stream has the devices only. A copy maps that file with
`share=off`: what it writes is its own, and what it never touches is never read. QEMU opens the file for writing all the same (with
`readonly=on` it would be ROM for the guest), so a copy that was broken out of could change what all later copies start from. A memfd that is sealed
against writing, once the template is gone, prevents that: it can be opened for writing and mapped privately, and that is all. Its path is
`/proc/self/fd/N`, so QEMU must see a /proc when it starts.
"""
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

from host import KIB, PING, PONG, STARTED, STDERR, STDIN_END, STDOUT, Host, u64
from machine import command, make_code, make_scratch

KERNEL, INITRD, ROOTFS = sys.argv[1:4]
CONFIG = json.loads((pathlib.Path(__file__).parent / "config.json").read_text())
DRIVE_BYTES = 4 << 30
MEMORY_MIB = 256
SECONDS = 60
F_ADD_SEALS, F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE = 1033, 1, 2, 4, 8
SANDBOX = ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]

WHO_AM_I = """
cat /etc/marker /function/name
head -c 16 /dev/urandom | sha256sum
python3 -c 'import os; print(os.getrandom(16).hex())'
cat /proc/sys/kernel/random/uuid /proc/sys/kernel/random/boot_id
hostname
date +%s.%N
echo written >/work/mine && cat /work/mine
"""


def milliseconds(began):
    return (time.monotonic() - began) * 1000


class Qmp:
    """QEMU's control socket."""

    def __init__(self, connection):
        self.socket = connection
        self.lines = connection.makefile("r")
        self.answer()
        self.do("qmp_capabilities")

    def answer(self):
        while True:
            message = json.loads(self.lines.readline())
            if "event" not in message:
                return message

    def do(self, verb, **arguments):
        self.socket.sendall(json.dumps({"execute": verb, "arguments": arguments}).encode())
        answer = self.answer()
        if "error" in answer:
            raise RuntimeError(f"{verb}: {answer['error']['desc']}")
        return answer["return"]

    def until_not(self, verb, *states):
        while (answer := self.do(verb))["status"] in states:
            time.sleep(0.001)
        return answer["status"]

    def ignore_shared(self, state):
        self.do("migrate-set-capabilities", capabilities=[{"capability": "x-ignore-shared", "state": state}])

    def save(self, path):
        """Writes the stream to a file. The machine must be stopped, and may be saved again."""
        with socket.socket(socket.AF_UNIX) as listener, open(path, "wb") as file:
            listener.bind(f"{path}.socket")
            listener.listen()

            def receive():
                connection, _ = listener.accept()
                with connection:
                    while data := connection.recv(1 << 20):
                        file.write(data)

            receiver = threading.Thread(target=receive, daemon=True)
            receiver.start()
            self.do("migrate", uri=f"unix:{path}.socket")
            status = self.until_not("query-migrate", "setup", "active", "device")
            receiver.join()
        assert status == "completed", status


class Machine(Host):
    """One QEMU, with the agent's stream and QMP on inherited socket pairs, as the daemon does it."""

    def __init__(self, directory, name, drives, memory, incoming=(), descriptors=()):
        self.console = f"{directory}/{name}.console"
        ours, theirs = socket.socketpair()
        qmp, qmps = socket.socketpair()
        for end in (ours, qmp):
            end.settimeout(SECONDS)
        line = command(None if incoming else KERNEL, INITRD, MEMORY_MIB, drives, self.console, ",memory-backend=ram")
        line += ["-object", f"{memory},id=ram,size={MEMORY_MIB}M"]
        line += ["-device", "virtio-serial-device", "-chardev", f"socket,id=port,fd={theirs.fileno()}"]
        line += ["-device", "virtserialport,chardev=port,name=cocore.agent"]
        line += ["-chardev", f"socket,id=qmp,fd={qmps.fileno()}", "-mon", "chardev=qmp,mode=control"]
        line += [*SANDBOX, *incoming]
        self.began = time.monotonic()
        self.process = subprocess.Popen(line, pass_fds=[theirs.fileno(), qmps.fileno(), *descriptors])
        for end in (theirs, qmps):
            end.close()
        super().__init__(ours)
        self.qmp_socket = qmp

    def qmp(self):
        """Can be asked for once."""
        return Qmp(self.qmp_socket)

    def ready(self):
        """How long after its start the agent answered."""
        self.hello()
        return milliseconds(self.began)

    def run(self, script):
        """The whole of one task, on a container without a host name. Returns the times from TASK to STARTED, and to the first byte of output."""
        config = json.loads(json.dumps(CONFIG))
        config["process"]["args"] = ["/bin/bash", "-c", script]
        del config["hostname"]
        self.seed(time.time_ns(), os.urandom(64))
        began = time.monotonic()
        self.task(json.dumps(config).encode())
        self.until(STARTED)
        started = milliseconds(began)
        self.send(STDIN_END, u64(0))
        self.until(STDOUT)
        first = milliseconds(began)
        while len(self.streams[STDOUT].split(b"\n")) < 9:
            self.until(STDOUT)
        self.said_at = time.time()
        end = self.exit()
        assert end["code"] == 0, (end, self.streams[STDERR], pathlib.Path(self.console).read_text())
        return started, first

    def close(self):
        self.socket.close()
        self.qmp_socket.close()
        self.process.kill()
        self.process.wait()


class Template:
    """A guest that was frozen when its agent was ready, saved in both ways."""

    def __init__(self, directory):
        self.directory = directory
        self.memory = os.memfd_create("template", os.MFD_ALLOW_SEALING)
        self.streams = {shared: f"{directory}/{'devices' if shared else 'everything'}" for shared in (False, True)}
        machine = Machine(directory, "template", placeholders(directory), f"{self.file()},share=on", descriptors=[self.memory])
        try:
            self.cold_ms = machine.ready()
            machine.send(PING, u64(1))
            assert machine.frame() == (PONG, u64(1))
            qmp = machine.qmp()
            print(f"cold: agent ready after {self.cold_ms:.0f} ms, {os.fstat(self.memory).st_blocks // 2} KiB of memory touched")
            for shared, path in self.streams.items():
                began = time.monotonic()
                # What was saved once can be saved again only after it went on.
                qmp.do("cont")
                qmp.do("stop")
                qmp.ignore_shared(shared)
                qmp.save(path)
                print(f"saved {'devices' if shared else 'everything'}: {milliseconds(began):.0f} ms, {os.path.getsize(path) // KIB} KiB")
        finally:
            machine.close()
        fcntl.fcntl(self.memory, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

    def file(self):
        return f"memory-backend-file,mem-path=/proc/self/fd/{self.memory}"

    def digest(self):
        return hashlib.sha256(os.pread(self.memory, MEMORY_MIB << 20, 0)).digest()

    def copy(self, name, drives, shared):
        """A restored machine that runs."""
        stream = os.open(self.streams[shared], os.O_RDONLY)
        memory = f"{self.file()},share=off" if shared else "memory-backend-ram"
        machine = Machine(self.directory, name, drives, memory, ["-incoming", "defer"], [stream, self.memory])
        qmp = machine.qmp()
        started = milliseconds(machine.began)
        qmp.ignore_shared(shared)
        qmp.do("migrate-incoming", uri=f"fd:{stream}")
        assert qmp.until_not("query-status", "inmigrate") == "paused"
        os.close(stream)
        loaded = milliseconds(machine.began)
        qmp.do("cont")
        print(f"{name}: QEMU up after {started:.0f} ms, restored after {loaded:.0f} ms", end=", ")
        return machine


def padded(path, source=None):
    """A drive's file, sparse up to the size that all have."""
    if source is not None:
        shutil.copyfile(source, path)
    with open(path, "ab") as file:
        file.truncate(DRIVE_BYTES)
    return path


def placeholders(directory):
    empty, scratch = padded(f"{directory}/empty"), padded(f"{directory}/empty-scratch")
    return [("rootfs", empty, "on"), ("code", empty, "on"), ("scratch", scratch, "off")]


class Snapshot(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        temporary = tempfile.TemporaryDirectory()
        cls.addClassCleanup(temporary.cleanup)
        cls.directory = directory = temporary.name
        cls.template = Template(directory)
        cls.addClassCleanup(os.close, cls.template.memory)
        # Two images that differ in one file.
        subprocess.run(["fsck.erofs", f"--extract={directory}/tree", ROOTFS], check=True, stdout=subprocess.DEVNULL)
        cls.images = {}
        for name in ("one", "two"):
            pathlib.Path(directory, "tree/etc/marker").write_text(f"image {name}\n")
            subprocess.run(["mkfs.erofs", "--quiet", f"{directory}/{name}.erofs", f"{directory}/tree"], check=True, stdout=subprocess.DEVNULL)
            cls.images[name] = padded(f"{directory}/{name}.erofs")

    def drives(self, name):
        with tempfile.TemporaryDirectory() as made:
            code = padded(f"{self.directory}/{self.id()}-{name}.code", make_code(f"{made}/code", {"name": f"code {name}\n"}))
            scratch = padded(f"{self.directory}/{self.id()}-{name}.scratch", make_scratch(f"{made}/scratch"))
        return [("rootfs", self.images[name], "on"), ("code", code, "on"), ("scratch", scratch, "off")]

    def copy(self, name, shared):
        machine = self.template.copy(name, self.drives(name), shared)
        self.addCleanup(machine.close)
        print(f"agent ready after {machine.ready():.0f} ms")
        return machine

    def check_two_copies(self, shared):
        said = {}
        machines = {name: self.copy(name, shared) for name in ("one", "two")}
        for name, machine in machines.items():
            started, first = machine.run(WHO_AM_I)
            print(f"{name}: started {started:.0f} ms and first byte {first:.0f} ms after TASK")
            lines = said[name] = machine.streams[STDOUT].decode().split("\n")
            self.assertEqual(lines[:2], [f"image {name}", f"code {name}"])
            self.assertEqual(lines[-2:], ["written", ""])
            self.assertEqual(len(lines), 10, lines)
            self.assertLess(abs(float(lines[7]) - machine.said_at), 1)
            self.assertRegex(lines[6], "^guest-[0-9a-f]{16}$")
        for at, what in enumerate(["urandom", "getrandom", "uuid", "boot id", "host name"], 2):
            self.assertNotEqual(said["one"][at], said["two"][at], what)

    def test_copies_of_memory_in_the_stream_differ_and_run_their_own(self):
        self.check_two_copies(shared=False)

    def test_copies_that_map_the_memory_of_the_template_differ_run_their_own_and_leave_it_alone(self):
        before = self.template.digest()
        self.check_two_copies(shared=True)
        self.assertEqual(self.template.digest(), before)

    def test_a_copy_cannot_map_the_memory_of_the_template_for_writing(self):
        memory = f"{self.template.file()},share=on"
        drives = self.drives("one")
        machine = Machine(self.directory, "thief", drives, memory, ["-incoming", "defer"], [self.template.memory])
        self.addCleanup(machine.close)
        self.assertEqual(machine.process.wait(SECONDS), 1)

    def test_a_copy_whose_host_never_speaks_powers_off(self):
        machine = self.template.copy("one", self.drives("one"), True)
        print("nobody speaks")
        self.addCleanup(machine.close)
        self.assertEqual(machine.process.wait(SECONDS), 0)


class Counted(unittest.TextTestResult):
    """Prints the count that the runner of all checks adds up."""

    def stopTestRun(self):
        broken = len(self.failures) + len(self.errors)
        print(f"{self.testsRun - broken} passed, {broken} failed", flush=True)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[4:]], testRunner=unittest.TextTestRunner(resultclass=Counted, verbosity=2))
