"""A proxy between the library and the server, which loses what a test wants lost."""

import asyncio
import contextlib
import tempfile

READY = b"Z\x00\x00\x00\x05I"
"""The server is through with a request, outside of a transaction: what it did is committed."""


class Proxy:
    """Listens on a socket of its own.

    Attributes:
        loses: How many replies are still to be lost: that to the next statement that is run, and so on.
        refusals: What the next connections are refused with: SQLSTATE and message.
        lost: How many replies were lost.
        refused: How many connections were refused.
    """

    def __init__(self, server):
        self._server = server
        self.loses = 0
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
        server_reader, server_writer = await asyncio.open_unix_connection(self._server)
        self._writers.append(server_writer)
        is_lost = False

        async def upstream():
            nonlocal is_lost
            while request := await reader.read(1 << 16):
                await is_heard.wait()
                # A statement that has been prepared is bound and run.
                if self.loses and request.startswith(b"B"):
                    self.loses -= 1
                    is_lost = True
                server_writer.write(request)

        async def downstream():
            reply = b""
            while data := await server_reader.read(1 << 16):
                await is_heard.wait()
                if not is_lost:
                    writer.write(data)
                    continue
                reply += data
                if reply.endswith(READY):
                    self.lost += 1
                    break

        tasks = [asyncio.create_task(way()) for way in (upstream, downstream)]
        # When one side has gone, so does the other.
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        writer.transport.abort()
        server_writer.transport.abort()
        await asyncio.gather(*tasks, return_exceptions=True)


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
