#!/usr/bin/env python3
"""Writes the golden frames and their index from the table below; with --check, fails when they are not current.

The frames are built here byte by byte, from docs/reference/guest-frames.md and not from either implementation.
"""
import json
import pathlib
import struct
import sys

HERE = pathlib.Path(__file__).parent
NONCE = bytes(range(16))


def frame(kind: int, payload: bytes = b"") -> bytes:
    return struct.pack("<IB", 1 + len(payload), kind) + payload


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


ENTROPY = bytes(range(32))
BIG = 2**40 + 7
MOST = 2**53 - 1

# name, direction, bytes, the decoded fields
VALID = [
    ("host-hello", "host", frame(0x01, b"\x02\x00" + NONCE), {"type": "HELLO", "version": "2", "nonce": NONCE.hex()}),
    ("host-ack-most", "host", frame(0x08, b"\x01" + u64(MOST)), {"type": "ACK", "stream": "stdout", "offset": str(MOST)}),
    (
        "host-task",
        "host",
        frame(0x02, u64(BIG) + b'{"a":1}'),
        {"type": "TASK", "artifactsLimit": str(BIG), "config": b'{"a":1}'.hex()},
    ),
    ("host-stdin", "host", frame(0x03, u64(BIG) + b"\x00\xff"), {"type": "STDIN", "offset": str(BIG), "data": "00ff"}),
    ("host-stdin-end", "host", frame(0x04, u64(BIG)), {"type": "STDIN_END", "length": str(BIG)}),
    ("host-signal", "host", frame(0x05, u32(15)), {"type": "SIGNAL", "signal": "15"}),
    (
        "host-seed",
        "host",
        frame(0x06, u64(1790000000123456789) + ENTROPY),
        {"type": "SEED", "epochNs": "1790000000123456789", "entropy": ENTROPY.hex()},
    ),
    ("host-ping", "host", frame(0x07, u64(2**64 - 1)), {"type": "PING", "token": str(2**64 - 1)}),
    ("host-ack-stdout", "host", frame(0x08, b"\x01" + u64(0)), {"type": "ACK", "stream": "stdout", "offset": "0"}),
    ("host-ack-stderr", "host", frame(0x08, b"\x02" + u64(BIG)), {"type": "ACK", "stream": "stderr", "offset": str(BIG)}),
    ("host-ack-result", "host", frame(0x08, b"\x03" + u64(2)), {"type": "ACK", "stream": "result", "offset": "2"}),
    ("host-ack-artifacts", "host", frame(0x08, b"\x04" + u64(BIG)), {"type": "ACK", "stream": "artifacts", "offset": str(BIG)}),
    ("host-poweroff", "host", frame(0x09), {"type": "POWEROFF"}),
    (
        "host-file",
        "host",
        frame(0x0A, u32(1000) + u32(100) + u64(BIG) + b"/work/in.csv"),
        {"type": "FILE", "user": "1000", "group": "100", "size": str(BIG), "path": "/work/in.csv"},
    ),
    ("host-file-data", "host", frame(0x0B, b"a,b\n"), {"type": "FILE_DATA", "data": b"a,b\n".hex()}),
    (
        "guest-hello",
        "guest",
        frame(0x81, b"\x02\x00" + NONCE + b"0.1.0"),
        {"type": "HELLO", "version": "2", "nonce": NONCE.hex(), "agentVersion": "0.1.0"},
    ),
    ("guest-started", "guest", frame(0x82, u64(BIG)), {"type": "STARTED", "monotonicNs": str(BIG)}),
    ("guest-stdout", "guest", frame(0x83, u64(BIG) + b"\x0a"), {"type": "STDOUT", "offset": str(BIG), "data": "0a"}),
    ("guest-stderr", "guest", frame(0x84, u64(0) + b"no\n"), {"type": "STDERR", "offset": "0", "data": b"no\n".hex()}),
    (
        "guest-exit",
        "guest",
        frame(0x85, b"\x01\x01" + u32(9) + u64(3) + u64(BIG) + u64(7) + u64(2048) + u32(1) + u64(5) + u64(6) + b"\x00"),
        {
            "type": "EXIT",
            "kind": "signaled",
            "oom": True,
            "code": "9",
            "stdoutLength": "3",
            "stderrLength": str(BIG),
            "resultLength": "7",
            "artifactsLength": "2048",
            "artifactFiles": "1",
            "cpuUs": "5",
            "memoryPeakBytes": "6",
            "refused": None,
            "message": "",
        },
    ),
    (
        "guest-exit-refused",
        "guest",
        frame(0x85, b"\x00\x00" + u32(0) + u64(0) * 4 + u32(0) + u64(0) * 2 + b"\x02too many"),
        {
            "type": "EXIT",
            "kind": "exited",
            "oom": False,
            "code": "0",
            "stdoutLength": "0",
            "stderrLength": "0",
            "resultLength": "0",
            "artifactsLength": "0",
            "artifactFiles": "0",
            "cpuUs": "0",
            "memoryPeakBytes": "0",
            "refused": "artifacts",
            "message": "too many",
        },
    ),
    ("guest-result", "guest", frame(0x89, u64(0) + b"42"), {"type": "RESULT", "offset": "0", "data": b"42".hex()}),
    ("guest-artifacts", "guest", frame(0x8A, u64(BIG) + b"\x00"), {"type": "ARTIFACTS", "offset": str(BIG), "data": "00"}),
    ("guest-pong", "guest", frame(0x86, u64(1)), {"type": "PONG", "token": "1"}),
    ("guest-stdin-ack", "guest", frame(0x87, u64(BIG)), {"type": "STDIN_ACK", "offset": str(BIG)}),
    (
        "guest-fault",
        "guest",
        frame(0x88, b"\x03" + u32(2) + b"not found"),
        {"type": "FAULT", "stage": "start", "errno": "2", "message": "not found"},
    ),
]

# name, direction, bytes, the error
BROKEN = [
    ("host-empty", "host", u32(0) + b"\x00", "empty"),
    ("host-unknown", "host", frame(0x7F), "unknown_type"),
    ("host-of-guest", "host", frame(0x86, u64(1)), "unknown_type"),
    ("host-too-long", "host", u32(65553) + b"\x03", "too_long"),
    ("host-task-too-long", "host", u32(8 * 1024 * 1024 + 1) + b"\x02", "too_long"),
    ("host-task-empty", "host", frame(0x02, u64(0)), "bad_payload"),
    ("host-task-beyond-most", "host", frame(0x02, u64(MOST + 1) + b"{}"), "bad_payload"),
    ("host-stdin-empty", "host", frame(0x03, u64(0)), "bad_payload"),
    ("host-signal-0", "host", frame(0x05, u32(0)), "bad_payload"),
    ("host-signal-65", "host", frame(0x05, u32(65)), "bad_payload"),
    ("host-seed-short", "host", frame(0x06, u64(0) + b"\x00" * 31), "bad_payload"),
    ("host-ack-stream-0", "host", frame(0x08, b"\x00" + u64(0)), "bad_payload"),
    ("host-ack-stream-5", "host", frame(0x08, b"\x05" + u64(0)), "bad_payload"),
    ("host-ack-beyond-most", "host", frame(0x08, b"\x01" + u64(MOST + 1)), "bad_payload"),
    ("host-stdin-beyond-most", "host", frame(0x03, u64(MOST + 1) + b"x"), "bad_payload"),
    ("host-stdin-end-beyond-most", "host", frame(0x04, u64(MOST + 1)), "bad_payload"),
    ("host-stdin-too-much", "host", frame(0x03, u64(0) + b"x" * 65537), "bad_payload"),
    ("host-hello-short", "host", frame(0x01, b"\x02\x00" + NONCE[1:]), "bad_payload"),
    ("host-seed-long", "host", frame(0x06, u64(0) + b"\x00" * 257), "bad_payload"),
    ("host-poweroff-long", "host", frame(0x09, b"\x00"), "bad_payload"),
    ("host-ping-long", "host", frame(0x07, u64(0) + b"\x00"), "bad_payload"),
    ("host-file-relative", "host", frame(0x0A, u32(0) * 2 + u64(0) + b"work/in.csv"), "bad_payload"),
    ("host-file-nul", "host", frame(0x0A, u32(0) * 2 + u64(0) + b"/a\x00b"), "bad_payload"),
    ("host-file-path-too-long", "host", frame(0x0A, u32(0) * 2 + u64(0) + b"/" * 1025), "bad_payload"),
    ("host-file-data-empty", "host", frame(0x0B), "bad_payload"),
    ("guest-empty", "guest", u32(0) + b"\x00", "empty"),
    ("guest-unknown", "guest", frame(0x80), "unknown_type"),
    ("guest-too-long", "guest", u32(65553) + b"\x83", "too_long"),
    ("guest-stdout-empty", "guest", frame(0x83, u64(0)), "bad_payload"),
    ("guest-stdout-beyond-most", "guest", frame(0x83, u64(MOST + 1) + b"x"), "bad_payload"),
    ("guest-exit-code-256", "guest", frame(0x85, b"\x00\x00" + u32(256) + u64(0) * 4 + u32(0) + u64(0) * 2 + b"\x00"), "bad_payload"),
    ("guest-hello-no-version", "guest", frame(0x81, b"\x02\x00" + NONCE), "bad_payload"),
    ("guest-fault-not-utf-8", "guest", frame(0x88, b"\x03" + u32(0) + b"\xff"), "bad_payload"),
    (
        "guest-exit-refused-3",
        "guest",
        frame(0x85, b"\x00\x00" + u32(0) + u64(0) * 4 + u32(0) + u64(0) * 2 + b"\x03why"),
        "bad_payload",
    ),
    ("guest-result-empty", "guest", frame(0x89, u64(0)), "bad_payload"),
    ("guest-exit-short", "guest", frame(0x85, b"\x00\x00" + u32(0)), "bad_payload"),
    ("guest-fault-stage-5", "guest", frame(0x88, b"\x05" + u32(0)), "bad_payload"),
]


def files() -> dict[str, bytes]:
    made = {f"{name}.bin": data for name, _, data, _ in VALID + BROKEN}
    index = [
        {"file": f"{name}.bin", "direction": direction, "valid": True, "fields": fields}
        for name, direction, _, fields in VALID
    ] + [
        {"file": f"{name}.bin", "direction": direction, "valid": False, "error": error}
        for name, direction, _, error in BROKEN
    ]
    made["index.json"] = (json.dumps(index, indent=1) + "\n").encode()
    return made


def main() -> int:
    made = files()
    if "--check" not in sys.argv:
        for name, data in made.items():
            (HERE / name).write_bytes(data)
        return 0
    on_disk = {path.name: path.read_bytes() for path in HERE.iterdir() if path.suffix in (".bin", ".json")}
    stale = sorted(name for name in made.keys() | on_disk.keys() if made.get(name) != on_disk.get(name))
    for name in stale:
        print(f"not current: {name}")
    print(f"{0 if stale else 1} passed, {1 if stale else 0} failed")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
