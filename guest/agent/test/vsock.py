#!/usr/bin/env python3
"""A vsock device for QEMU without any help of the host's kernel: `vsock.py VHOST_SOCKET HOST_SOCKET`.

QEMU connects to VHOST_SOCKET (`-chardev socket,id=vsock,path=VHOST_SOCKET -device vhost-user-vsock-device,chardev=vsock`, the guest's
memory shared, `-global virtio-mmio.force-legacy=false`); the guest has CID 3. Hosts connect to HOST_SOCKET, which speaks as Firecracker's does:
`CONNECT PORT\n` is answered by `OK PORT\n` and the stream, or by the end of the connection when nobody listens there. `CONNECT PORT CID\n`, which
is ours, comes from another CID than the host's. Connections from the guest are refused.

It is a tool of the tests: it believes its QEMU, and ends with it.
"""
import collections
import dataclasses
import mmap
import os
import selectors
import socket
import struct
import sys

GUEST_CID, HOST_CID = 3, 2
REQUEST, RESPONSE, RST, SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST = range(1, 8)
HEADER = struct.Struct("<QQIIIHHIII")
PACKET_BYTES = 4096
BUFFER_BYTES = 256 * 1024
QUEUED_PACKETS = 64

GET_FEATURES, SET_FEATURES, SET_MEM_TABLE = 1, 2, 5
SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE, GET_VRING_BASE, SET_VRING_KICK, SET_VRING_CALL = range(8, 14)
GET_PROTOCOL_FEATURES, GET_QUEUE_NUM, GET_CONFIG = 15, 17, 24
# Version 1 of virtio, and the protocol features below; of those, the configuration space.
FEATURES = 1 << 32 | 1 << 30
PROTOCOL_FEATURES = 1 << 9
NO_DESCRIPTOR = 1 << 8
CHAINED = 1


class Memory:
    """The guest's memory, by its own addresses and by QEMU's."""

    def __init__(self, payload, descriptors):
        self.regions = []
        (count,) = struct.unpack_from("<I", payload)
        for at, descriptor in zip(range(count), descriptors):
            guest, size, qemu, offset = struct.unpack_from("<QQQQ", payload, 8 + 32 * at)
            mapped = mmap.mmap(descriptor, offset + size)
            os.close(descriptor)
            self.regions.append((guest, qemu, size, memoryview(mapped)[offset:]))

    def at(self, address, length, qemus=False):
        for guest, qemu, size, view in self.regions:
            start = address - (qemu if qemus else guest)
            if 0 <= start and start + length <= size:
                return view[start : start + length]
        raise ValueError(f"no memory at {address:#x}")


@dataclasses.dataclass
class Ring:
    """One split virtqueue."""

    size: int = 0
    # Of the descriptors, of what is used, of what is available: QEMU's.
    addresses: tuple = ()
    taken: int = 0
    kick: int = -1
    call: int = -1

    def chain(self, memory):
        """The memory of the next chain of descriptors, with its number; None when the guest has given no more."""
        if self.kick < 0:
            return None
        table, _, available = self.addresses
        header = memory.at(available, 4 + 2 * self.size, qemus=True)
        if struct.unpack_from("<H", header, 2)[0] == self.taken & 0xFFFF:
            return None
        (head,) = struct.unpack_from("<H", header, 4 + 2 * (self.taken % self.size))
        self.taken += 1
        descriptors = memory.at(table, 16 * self.size, qemus=True)
        views, flags, at = [], CHAINED, head
        while flags & CHAINED:
            address, length, flags, following = struct.unpack_from("<QIHH", descriptors, 16 * at)
            views.append(memory.at(address, length))
            at = following
        return head, views

    def give_back(self, memory, head, length):
        used = memory.at(self.addresses[1], 4 + 8 * self.size, qemus=True)
        (index,) = struct.unpack_from("<H", used, 2)
        struct.pack_into("<II", used, 4 + 8 * (index % self.size), head, length)
        struct.pack_into("<H", used, 2, (index + 1) & 0xFFFF)
        if self.call >= 0:
            os.eventfd_write(self.call, 1)


@dataclasses.dataclass(eq=False)
class Connection:
    """One stream between a host and a port of the guest."""

    socket: socket.socket
    cid: int = HOST_CID
    host_port: int = 0
    guest_port: int = 0
    open: bool = False
    asked: bytes = b""
    to_host: bytearray = dataclasses.field(default_factory=bytearray)
    host_gone: bool = False
    guest_gone: bool = False
    # Bytes from the guest that the host has; what the guest can take, and got.
    forwarded: int = 0
    told: int = 0
    room: int = 0
    sent: int = 0


class Device:
    def __init__(self, qemu, listener):
        self.selector = selectors.DefaultSelector()
        self.qemu = qemu
        self.memory = None
        self.rings = [Ring(), Ring()]
        self.to_guest = collections.deque()
        self.connections = {}
        self.next_port = 1 << 30
        self.selector.register(qemu, selectors.EVENT_READ, self.take_message)
        self.selector.register(listener, selectors.EVENT_READ, lambda: self.accept(listener))
        self.asking = set()

    def run(self):
        while True:
            for key, _ in self.selector.select():
                key.data()
            self.move()

    # --- QEMU

    def take_message(self):
        data, descriptors, _, _ = socket.recv_fds(self.qemu, 12, 16)
        if len(data) < 12:
            sys.exit(0)
        request, _, size = struct.unpack("<III", data)
        payload = b""
        while len(payload) < size:
            payload += self.qemu.recv(size - len(payload))
        answer = self.obey(request, payload, descriptors)
        if answer is not None:
            self.qemu.sendall(struct.pack("<III", request, 5, len(answer)) + answer)

    def obey(self, request, payload, descriptors):
        if request == GET_FEATURES:
            return struct.pack("<Q", FEATURES)
        if request == GET_PROTOCOL_FEATURES:
            return struct.pack("<Q", PROTOCOL_FEATURES)
        if request == GET_QUEUE_NUM:
            return struct.pack("<Q", 2)
        if request == GET_CONFIG:
            offset, size, _ = struct.unpack_from("<III", payload)
            return payload[:12] + struct.pack("<Q", GUEST_CID).ljust(256, b"\0")[offset : offset + size]
        if request == SET_MEM_TABLE:
            self.memory = Memory(payload, descriptors)
        elif SET_VRING_NUM <= request <= SET_VRING_CALL:
            return self.set_ring(request, payload, descriptors)
        return None

    def set_ring(self, request, payload, descriptors):
        index, number = struct.unpack_from("<II", payload)
        ring = self.rings[index & 0xFF]
        if request == SET_VRING_NUM:
            ring.size = number
        elif request == SET_VRING_ADDR:
            ring.addresses = struct.unpack_from("<QQQ", payload, 8)
        elif request == SET_VRING_BASE:
            ring.taken = number
        elif request == SET_VRING_CALL:
            ring.call = -1 if index & NO_DESCRIPTOR else descriptors[0]
        elif request == SET_VRING_KICK:
            ring.kick = -1 if index & NO_DESCRIPTOR else descriptors[0]
            if ring.kick >= 0:
                self.selector.register(ring.kick, selectors.EVENT_READ, lambda kick=ring.kick: os.eventfd_read(kick))
        elif request == GET_VRING_BASE:
            # The guest was stopped or reset: nothing of it is connected any more.
            if ring.kick >= 0:
                self.selector.unregister(ring.kick)
            ring.kick = -1
            self.drop_all()
            return struct.pack("<II", index, ring.taken & 0xFFFF)
        return None

    # --- Hosts

    def accept(self, listener):
        connection = Connection(listener.accept()[0])
        connection.socket.setblocking(False)
        self.asking.add(connection)
        self.selector.register(connection.socket, selectors.EVENT_READ, lambda: self.take_request(connection))

    def take_request(self, connection):
        byte = connection.socket.recv(1)
        connection.asked += byte
        if byte not in (b"", b"\n"):
            return
        self.selector.unregister(connection.socket)
        self.asking.discard(connection)
        words = connection.asked.split()
        if len(words) not in (2, 3) or words[0] != b"CONNECT":
            connection.socket.close()
            return
        connection.guest_port = int(words[1])
        connection.cid = int(words[2]) if len(words) == 3 else HOST_CID
        connection.host_port = self.next_port
        self.next_port += 1
        self.connections[connection.host_port] = connection
        self.say(connection, REQUEST)

    def drop(self, connection):
        self.connections.pop(connection.host_port, None)
        if connection.socket.fileno() in self.selector.get_map():
            self.selector.unregister(connection.socket)
        connection.socket.close()

    def drop_all(self):
        for connection in [*self.connections.values()]:
            self.drop(connection)
        self.to_guest.clear()

    def watch(self, connection):
        """The host is read while the guest can take more, and written to while there is something."""
        reads = connection.open and not connection.host_gone and connection.room > connection.sent and len(self.to_guest) < QUEUED_PACKETS
        events = selectors.EVENT_READ * reads | selectors.EVENT_WRITE * bool(connection.to_host)
        known = connection.socket.fileno() in self.selector.get_map()
        if known and not events:
            self.selector.unregister(connection.socket)
        elif events:
            change = self.selector.modify if known else self.selector.register
            change(connection.socket, events, lambda: self.exchange(connection))

    def exchange(self, connection):
        """Moves what can be moved between the host's socket and the queues."""
        try:
            while connection.to_host:
                count = connection.socket.send(connection.to_host)
                del connection.to_host[:count]
                connection.forwarded += count
        except BlockingIOError:
            pass
        except OSError:
            connection.host_gone = True
        if connection.forwarded - connection.told >= BUFFER_BYTES // 4:
            self.say(connection, CREDIT_UPDATE)
        if connection.guest_gone and not connection.to_host:
            self.drop(connection)
            return
        while connection.room > connection.sent and len(self.to_guest) < QUEUED_PACKETS and not connection.host_gone:
            try:
                data = connection.socket.recv(min(PACKET_BYTES, connection.room - connection.sent))
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if data:
                connection.sent += len(data)
                self.say(connection, RW, data)
            else:
                connection.host_gone = True
                self.say(connection, SHUTDOWN, flags=3)

    # --- The guest

    def say(self, connection, operation, data=b"", flags=0):
        connection.told = connection.forwarded
        addresses = (connection.cid, GUEST_CID, connection.host_port, connection.guest_port)
        self.to_guest.append((addresses, (1, operation, flags, BUFFER_BYTES, connection.forwarded & 0xFFFFFFFF), data))

    def move(self):
        """Everything that the rings allow."""
        if self.memory is None:
            return
        while (chain := self.rings[1].chain(self.memory)) is not None:
            head, views = chain
            self.hear(b"".join(views))
            self.rings[1].give_back(self.memory, head, 0)
        while self.to_guest and (chain := self.rings[0].chain(self.memory)) is not None:
            head, views = chain
            addresses, rest, data = self.to_guest.popleft()
            # What does not fit into the guest's buffer is the next packet.
            fits = sum(map(len, views)) - HEADER.size
            if len(data) > fits:
                self.to_guest.appendleft((addresses, rest, data[fits:]))
            packet = HEADER.pack(*addresses, len(data[:fits]), *rest) + data[:fits]
            at = 0
            for view in views:
                piece = packet[at : at + len(view)]
                view[: len(piece)] = piece
                at += len(piece)
            self.rings[0].give_back(self.memory, head, len(packet))
        for connection in [*self.connections.values()]:
            self.watch(connection)

    def hear(self, packet):
        _, cid, guest_port, host_port, length, _, operation, flags, buffer, forwarded = HEADER.unpack_from(packet)
        connection = self.connections.get(host_port)
        if connection is None or connection.guest_port != guest_port or connection.cid != cid:
            if operation != RST:
                stranger = Connection(None, cid, host_port, guest_port)
                self.say(stranger, RST)
            return
        # How far the guest can take bytes, counted from the first.
        taken = connection.sent - ((connection.sent - forwarded) & 0xFFFFFFFF)
        connection.room = taken + buffer
        if operation == RESPONSE:
            connection.open = True
            connection.to_host += b"OK %d\n" % host_port
            connection.forwarded -= len(connection.to_host)
            connection.told = connection.forwarded
        elif operation == RW:
            connection.to_host += packet[HEADER.size : HEADER.size + length]
        elif operation == CREDIT_REQUEST:
            self.say(connection, CREDIT_UPDATE)
        elif operation == RST or (operation == SHUTDOWN and flags & 3 == 3):
            if operation == SHUTDOWN:
                self.say(connection, RST)
            connection.guest_gone = True
        self.exchange(connection)


def listening(path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    return listener


def main(vhost_path, host_path):
    vhost, hosts = listening(vhost_path), listening(host_path)
    Device(vhost.accept()[0], hosts).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
