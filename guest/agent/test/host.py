"""The host's end of the conversation with an agent, over any stream socket; shared by the tests from outside."""
import select
import struct

HELLO, TASK, STDIN, STDIN_END, SIGNAL, SEED, PING, ACK, POWEROFF, FILE, FILE_DATA = range(1, 12)
G_HELLO, STARTED, STDOUT, STDERR, EXIT, PONG, STDIN_ACK, FAULT, RESULT, ARTIFACTS = range(0x81, 0x8B)
# The streams, with their numbers in ACK.
STREAMS = {STDOUT: 1, STDERR: 2, RESULT: 3, ARTIFACTS: 4}
REPORT = "<BBIQQQQIQQB"
NONCE = bytes(range(16))
ENTROPY = bytes(range(64))
KIB = 1024


def u64(value):
    return struct.pack("<Q", value)


class Host:
    """Sends frames, and collects the output that comes back."""

    def __init__(self, socket):
        self.socket = socket
        self.bytes = b""
        self.streams = {kind: bytearray() for kind in STREAMS}

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
        self.send(HELLO, b"\x02\x00" + NONCE)
        kind, payload = self.frame()
        assert kind == G_HELLO and payload[2:18] == NONCE, (kind, payload)

    def task(self, config, artifacts_limit=64 * KIB * KIB):
        self.send(TASK, u64(artifacts_limit) + config)

    def file(self, path, data, user=0, group=0):
        self.send(FILE, struct.pack("<IIQ", user, group, len(data)) + path.encode())
        for at in range(0, len(data), 64 * KIB):
            self.send(FILE_DATA, data[at : at + 64 * KIB])

    def seed(self, epoch_ns=1, entropy=ENTROPY):
        self.send(SEED, u64(epoch_ns) + entropy)

    def until(self, *kinds, acknowledge=True):
        """The next frame of these kinds; output on the way is collected, checked for gaps, and acknowledged."""
        while True:
            kind, payload = self.frame()
            if kind in STREAMS:
                (offset,) = struct.unpack("<Q", payload[:8])
                assert offset == len(self.streams[kind]), "a gap in the output"
                self.streams[kind] += payload[8:]
                if acknowledge:
                    self.send(ACK, bytes([STREAMS[kind]]) + u64(len(self.streams[kind])))
            if kind in kinds:
                return kind, payload

    def give_input(self, data):
        """All of standard input, within the window, while output is collected."""
        sent = held = 0
        while held < len(data):
            while sent < len(data) and sent - held < 256 * KIB:
                piece = data[sent : sent + min(64 * KIB, 256 * KIB - (sent - held))]
                self.send(STDIN, u64(sent) + piece)
                sent += len(piece)
                if sent == len(data):
                    self.send(STDIN_END, u64(sent))
            (held,) = struct.unpack("<Q", self.until(STDIN_ACK)[1])

    def exit(self):
        _, payload = self.until(EXIT)
        size = struct.calcsize(REPORT)
        names = ("kind", "oom", "code", "out", "err", "result", "artifacts", "files", "cpu", "memory", "refused")
        return dict(zip(names, struct.unpack(REPORT, payload[:size]))) | {"message": payload[size:].decode()}

    def fault(self):
        """Stage, error number and message of the FAULT that must come."""
        _, payload = self.until(FAULT)
        return (*struct.unpack("<BI", payload[:5]), payload[5:].decode())

    def quiet(self, seconds=0.3):
        """Whether the agent sends nothing for so long."""
        return not self.bytes and not select.select([self.socket], [], [], seconds)[0]
