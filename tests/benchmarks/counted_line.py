"""Counts the bytes between programs and a server: what they send to the line's port goes on to the server's."""

import asyncio
import threading
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

HOST = "127.0.0.1"
CHUNK = 65_536  # bytes


class CountedLine:
    """A TCP forwarder in a thread of its own; a context manager. It slows down what passes: never time through one."""

    def __init__(self, server_port: int) -> None:
        self.kilobytes = 0.0  # in both directions
        self._server_port = server_port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._port = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def address_of(self, url: str) -> str:
        """The same address through this line."""
        parts = urlsplit(url)
        return parts._replace(netloc=f"{parts.username}@{HOST}:{self._port}").geturl()

    async def _listen(self) -> int:
        server = await asyncio.start_server(self._forward, HOST, 0)
        return int(server.sockets[0].getsockname()[1])

    async def _stop(self) -> None:
        connections = asyncio.all_tasks() - {asyncio.current_task()}
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection(HOST, self._server_port)
        await asyncio.gather(self._pass_on(reader, to_writer), self._pass_on(to_reader, writer))

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(CHUNK):
                self.kilobytes += len(data) / 1000
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass  # whoever it was has gone
        finally:
            writer.close()
