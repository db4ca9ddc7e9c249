"""A small WebSocket client for tests that must also violate the protocol: it sends any bytes at any time."""

from __future__ import annotations

import contextlib
import socket
import struct

HANDSHAKE = (
    "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{extra}\r\n"
)
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
MASK = b"\1\2\3\4"


def handshake(path, host="test", extra=""):
    return HANDSHAKE.format(path=path, host=host, extra=extra).encode()


def frame(payload, opcode=TEXT):
    """One complete, masked frame (RFC 6455, 5.2)."""
    data = payload.encode() if isinstance(payload, str) else payload
    if len(data) < 126:
        length = struct.pack("!B", 0x80 | len(data))
    elif len(data) < 65536:
        length = struct.pack("!BH", 0x80 | 126, len(data))
    else:
        length = struct.pack("!BQ", 0x80 | 127, len(data))
    mask = MASK * (len(data) // 4 + 1)
    masked = int.from_bytes(data, "big") ^ int.from_bytes(mask[: len(data)], "big")
    return bytes([0x80 | opcode]) + length + MASK + masked.to_bytes(len(data), "big")


class Refused(Exception):
    def __init__(self, status, head, body):
        super().__init__(f"HTTP {status}")
        self.status, self.head, self.body = status, head, body


class RawClient:
    """A TCP connection that can read lines of HTTP and frames."""

    def __init__(self, port, timeout=60.0, tls=None):
        """``tls``: the TLS context, if any."""
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        if tls is not None:
            self.sock = tls.wrap_socket(self.sock, server_hostname="localhost")
        self.buffer = b""

    def send_bytes(self, data):
        self.sock.sendall(data)

    def _fill(self):
        data = self.sock.recv(65536)
        if not data:
            raise ConnectionError("the server closed the connection")
        self.buffer += data

    def read(self, count):
        while len(self.buffer) < count:
            self._fill()
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data

    def read_head(self):
        while b"\r\n\r\n" not in self.buffer:
            self._fill()
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        return head.decode("latin-1")

    def read_response(self):
        """(status, head, body) of one HTTP answer."""
        head = self.read_head()
        length = next((line[15:] for line in head.lower().split("\r\n") if line.startswith("content-length:")), "0")
        status = int(head.split()[1])
        return status, head, b"" if status == 101 else self.read(int(length))

    def read_frame(self):
        first, second = self.read(2)
        length = second & 127
        if length > 125:
            length = int.from_bytes(self.read(2 if length == 126 else 8), "big")
        return first & 15, self.read(length)

    def reset(self):
        """Ends with RST instead of FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def abandon(self):
        self.sock.close()


class WebSocketClient(RawClient):
    """Connected after the constructor; otherwise it raises :class:`Refused`."""

    def __init__(self, port, path, extra="", timeout=60.0, tls=None):
        super().__init__(port, timeout, tls)
        self.send_bytes(handshake(path, f"127.0.0.1:{port}", extra))
        status, head, body = self.read_response()
        if status != 101:
            self.sock.close()
            raise Refused(status, head, body)

    def send(self, payload, opcode=TEXT):
        self.send_bytes(frame(payload, opcode))

    def receive(self):
        """The next message's text; answers pings, raises ConnectionError for a close frame."""
        opcode, data = self.read_frame()
        if opcode == PING:
            self.send(data, PONG)
            return self.receive()
        if opcode == CLOSE:
            raise ConnectionError(f"closed with {data[:2].hex()}")
        return data.decode()

    def close_code(self):
        """Reads up to the server's close frame."""
        opcode, data = self.read_frame()
        while opcode != CLOSE:
            opcode, data = self.read_frame()
        return struct.unpack("!H", data[:2])[0]

    def close(self):
        """A normal end: our close frame, the reply, then the socket."""
        with contextlib.suppress(OSError):
            self.send(struct.pack("!H", 1000), CLOSE)
            self.close_code()
        self.sock.close()
