"""asyncio: a server and clients in one loop, timers, and programs that are run for each tenth line."""
import asyncio
import sys


async def serve(reader, writer):
    while line := await reader.readline():
        await asyncio.sleep(0.001)
        writer.write(line.upper())
        await writer.drain()
    writer.close()


async def ask(address, line):
    reader, writer = await asyncio.open_connection(*address)
    writer.write(line)
    answer = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return answer.decode().strip()


async def run(line):
    child = await asyncio.create_subprocess_exec(
        "rev", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    return (await child.communicate(line))[0].decode().strip()


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    number = 0
    while line := await lines.readline():
        number += 1
        word = b"line %s" % line
        print(*await asyncio.gather(*(ask(address, b"%d %s" % (n, word)) for n in range(4))))
        if number % 10 == 0:
            print(await run(word))
    server.close()


asyncio.run(main())
