"""A proxy between the library and the server, which loses what a test wants lost."""

import asyncio
import contextlib
import tempfile

READY = b"Z\x00\x00\x00\x05I"
"""The server is through with a request, outside of a transaction: what it did is committed."""

IN_TRANSACTION = (b"Z\x00\x00\x00\x05T", b"Z\x00\x00\x00\x05E")
"""The server is through with a request inside of one: nothing is committed yet."""


class Proxy:
    """Listens on a socket of its own.

    Attributes:
        loses: How many replies are still to be lost: that to the next statement or COMMIT after which all that was
            done is committed, and so on.
        loses_of: What a transaction must run for its reply to be lost; None for whatever it runs.
        refusals: What the next connections are refused with: SQLSTATE and message.
        lost: How many replies were lost.
        refused: How many connections were refused.
    """

    def __init__(self, server):
        self._server = server
        self.loses = 0
        self.loses_of = None
        self.refusals = []
        self.lost = 0
        self.refused = 0
        self._tasks = set()
        self._writers = []
        self._connections = set()
        self._speaks = asyncio.Event()
        self._speaks.set()

    def mute(self, *, new_ones=False):
        """Pass nothing on any more on the connections that there are; on new ones as well until `speak`."""
        for connection in self._connections:
            connection.clear()
        if new_ones:
            self._speaks.clear()

    def speak(self):
        """Pass on what new connections have to say."""
        self._speaks.set()

    async def close(self):
        """Cut all connections, and wait until nothing of them is left."""
        for writer in self._writers:
            writer.transport.abort()
        for connection in self._connections:
            connection.set()
        self.speak()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def serve(self, reader, writer):
        self._tasks.add(asyncio.current_task())
        self._writers.append(writer)
        if self.refusals:
            await reader.read(1 << 16)
            writer.write(error(*self.refusals.pop(0)))
            self.refused += 1
            await writer.drain()
            writer.close()
            return
        await self._speaks.wait()
        is_heard = asyncio.Event()
        is_heard.set()
        self._connections.add(is_heard)
        try:
            server_reader, server_writer = await asyncio.open_unix_connection(self._server)
        except OSError:
            # The server is down: so is the way to it.
            writer.transport.abort()
            return
        self._writers.append(server_writer)
        passage = Passage(self, is_heard)
        tasks = [
            asyncio.create_task(passage.up(reader, server_writer)),
            asyncio.create_task(passage.down(server_reader, writer)),
        ]
        # When one side has gone, so does the other.
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        writer.transport.abort()
        server_writer.transport.abort()
        await asyncio.gather(*tasks, return_exceptions=True)


class Passage:
    """The two ways of one connection."""

    def __init__(self, of, is_heard):
        self._proxy = of
        self._is_heard = is_heard
        self._session = Session()
        self._loses = False

    async def up(self, reader, writer):
        while request := await reader.read(1 << 16):
            await self._is_heard.wait()
            if self._session.commits(request, self._proxy.loses_of) and self._proxy.loses and not self._loses:
                self._proxy.loses -= 1
                self._loses = True
            writer.write(request)

    async def down(self, reader, writer):
        reply = b""
        while data := await reader.read(1 << 16):
            await self._is_heard.wait()
            if not self._loses:
                writer.write(data)
                continue
            reply += data
            if reply.endswith(READY):
                self._proxy.lost += 1
                return
            if reply.endswith(IN_TRANSACTION):
                writer.write(reply)
                reply, self._loses = b"", False
                self._proxy.loses += 1


class Session:
    """What a client asks for: the statements that it prepares and runs, and its transaction."""

    def __init__(self):
        self._rest = b""
        self._statements = {}
        self._is_open = False
        self._is_marked = False

    def commits(self, request, mark):
        """Say whether a request may commit what runs a statement with the mark; None is in every statement."""
        return True in [self._commits(sql, mark) for sql in self._run(request)]

    def _commits(self, sql, mark):
        word = sql.lstrip()[:8].upper()
        if word.startswith(b"BEGIN"):
            self._is_open, self._is_marked = True, False
        self._is_marked = self._is_marked or mark is None or mark in sql
        if word.startswith((b"COMMIT", b"ROLLBACK")) and b"TO" not in word:
            self._is_open = False
        is_done = self._is_marked and (not self._is_open)
        if not self._is_open:
            self._is_marked = False
        return is_done

    def _run(self, request):
        """Yield the statements that are run, of a request that may hold several messages, or a part of one."""
        self._rest += request
        while len(self._rest) >= 5:
            # Only a connection's first messages have no type: their length begins with a zero.
            start = 1 if self._rest[0] else 0
            end = start + int.from_bytes(self._rest[start : start + 4])
            if len(self._rest) < end:
                return
            message, self._rest = self._rest[:end], self._rest[end:]
            if message.startswith(b"P"):
                name, sql, *_ = message[5:].split(b"\0")
                self._statements[name] = sql
            elif message.startswith(b"B"):
                yield self._statements.get(message[5:].split(b"\0")[1], b"")
            elif message.startswith(b"Q"):
                yield message[5:]


def error(code, message):
    """The server's answer to whom it sends away."""
    body = b"".join(b"%b%b\0" % field for field in [(b"S", b"FATAL"), (b"V", b"FATAL"), (b"C", code), (b"M", message)])
    return b"E" + (len(body) + 5).to_bytes(4) + body + b"\0"


@contextlib.asynccontextmanager
async def proxy(folder, port):
    """Yield a proxy to the server whose socket is in a folder, and the folder of the proxy's own."""
    name = f".s.PGSQL.{port}"
    with tempfile.TemporaryDirectory(prefix="proxy-") as own:
        it = Proxy(f"{folder}/{name}")
        server = await asyncio.start_unix_server(it.serve, f"{own}/{name}")
        try:
            yield it, own
        finally:
            server.close()
            await it.close()
