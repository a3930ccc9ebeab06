"""What the tests with real microVMs have in common: QEMU's command line, drives, and the host's TSC rate."""
import os
import pathlib
import re
import socket
import subprocess
import sys
import time


def tsc_khz():
    """The rate of the host's time stamp counter, which the guest must be told: of the environment, the kernel's log, or the CPU's data."""
    if "TSC_KHZ" in os.environ:
        return os.environ["TSC_KHZ"]
    log = subprocess.run(["dmesg"], capture_output=True, text=True).stdout
    found = re.search(r"tsc: Detected ([\d.]+) MHz", log)
    if found is None:
        found = re.search(r"^cpu MHz\s*: ([\d.]+)", pathlib.Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return str(round(float(found[1]) * 1000))


def command(kernel, initrd, memory_mib, drives, console, machine="", append=""):
    """
    QEMU with these drives (name, path, "on" when read-only); the caller adds the way to the agent. Without a kernel, it is for what
    comes from a snapshot.
    """
    line = ["qemu-system-x86_64", "-M", f"microvm,accel=tcg{machine}", "-cpu", "max", "-m", str(memory_mib)]
    line += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    if kernel is not None:
        line += ["-kernel", kernel, "-initrd", initrd]
        line += ["-append", f"console=ttyS0 quiet reboot=t panic=-1 tsc=reliable tsc_early_khz={tsc_khz()} {append}".strip()]
    line += ["-serial", f"file:{console}"]
    for name, path, readonly in drives:
        line += ["-drive", f"id={name},file={path},format=raw,if=none,readonly={readonly},file.locking=off"]
        line += ["-device", f"virtio-blk-device,drive={name},serial={name}"]
    return line


class Vsock:
    """A vsock device for one machine, whose memory must be shared, and the host's way to it."""

    def __init__(self, directory):
        self.vhost, self.hosts = f"{directory}/vhost", f"{directory}/hosts"
        self.process = subprocess.Popen([sys.executable, pathlib.Path(__file__).parent / "vsock.py", self.vhost, self.hosts])
        while not os.path.exists(self.hosts):
            time.sleep(0.01)

    def arguments(self):
        line = ["-global", "virtio-mmio.force-legacy=false", "-chardev", f"socket,id=vsock,path={self.vhost}"]
        return [*line, "-device", "vhost-user-vsock-device,chardev=vsock"]

    def connect(self, port, seconds, cid=""):
        """A stream to a port of the guest; asks until somebody listens there."""
        end = time.monotonic() + seconds
        while True:
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(seconds)
            connection.connect(self.hosts)
            connection.sendall(f"CONNECT {port} {cid}\n".encode())
            answer = connection.makefile("rb", buffering=0).readline()
            if answer.startswith(b"OK "):
                return connection
            connection.close()
            assert time.monotonic() < end, "nobody listens in the guest"
            time.sleep(0.05)

    def close(self):
        self.process.kill()
        self.process.wait()


def make_scratch(path, size="128M"):
    """An empty file system for the function to write to."""
    subprocess.run(["mkfs.ext4", "-q", "-F", "-O", "^has_journal", path, size], check=True, stdout=subprocess.DEVNULL)
    return path


def make_code(directory, files):
    """A code drive with these files, readable by their owner alone."""
    tree = pathlib.Path(directory)
    tree.mkdir()
    for name, text in files.items():
        (tree / name).write_text(text)
        (tree / name).chmod(0o600)
    subprocess.run(["mkfs.erofs", "--quiet", f"{tree}.erofs", tree], check=True, stdout=subprocess.DEVNULL)
    return f"{tree}.erofs"
