"""Forward connections: python relay.py LISTEN CONNECT. Each is HOST:NUMBER or the path of a Unix socket."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def main(listening: str, target: str) -> None:
    """Accept connections until the end of the process."""

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await connection(target)
        except OSError:
            writer.close()
            return
        await asyncio.gather(copy(reader, back), copy(there, writer))

    if listening.startswith("/"):
        server = await asyncio.start_unix_server(forward, listening)
    else:
        host, _, number = listening.rpartition(":")
        server = await asyncio.start_server(forward, host, int(number))
    await server.serve_forever()


async def connection(target: str) -> Stream:
    """Connect to the target."""
    if target.startswith("/"):
        return await asyncio.open_unix_connection(target)
    host, _, number = target.rpartition(":")
    return await asyncio.open_connection(host, int(number))


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy bytes until an end closes."""
    with suppress(OSError):
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
    writer.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
