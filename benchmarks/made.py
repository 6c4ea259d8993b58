"""Frames of exchanges whose present format nobody has recorded, made up in it: a book that begins whole and goes on."""

import random
from collections.abc import Callable, Iterator
from zlib import crc32

DELTAS = 5_000
DEPTH = 1_000


def kraken() -> Iterator[bytes]:
    """Books of a thousand levels a side with true checksums, and trades. Most changes are near the best prices."""
    draw = random.Random(1)
    sides = [dict.fromkeys(range(60000 - sign, 60000 - sign * DEPTH - sign, -sign), "1.00000000") for sign in (1, -1)]
    yield _kraken("snapshot", sides, sides, 0)
    for number in range(1, DELTAS):
        side = draw.randrange(2)
        best = sorted(sides[side], reverse=side == 0)
        price = best[min(int(draw.expovariate(0.1)), DEPTH - 1)]
        changes: list[dict[int, str]] = [{}, {}]
        changes[side][price] = sides[side][price] = f"{draw.randrange(1, 10**9) / 1e8:.8f}"
        yield _kraken("update", changes, sides, number)
        yield (
            b'{"channel":"trade","type":"update","data":[{"symbol":"BTC/USD","side":"buy","price":%d.0,"qty":0.01000000,'
            b'"ord_type":"limit","trade_id":%d,"timestamp":"%b"}]}' % (price, number, _time(number))
        )


def _kraken(kind: str, changes: list[dict[int, str]], sides: list[dict[int, str]], number: int) -> bytes:
    texts = [",".join(f'{{"price":{price}.0,"qty":{amount}}}' for price, amount in side.items()) for side in changes]
    asks, bids = sorted(sides[1])[:10], sorted(sides[0], reverse=True)[:10]
    digits = [
        f"{price}0{side[price].replace('.', '').lstrip('0')}"
        for side, best in ((sides[1], asks), (sides[0], bids))
        for price in best
    ]
    return (
        f'{{"channel":"book","type":"{kind}","data":[{{"symbol":"BTC/USD","bids":[{texts[0]}],"asks":[{texts[1]}],'
        f'"checksum":{crc32("".join(digits).encode())},"timestamp":"{_time(number).decode()}"}}]}}'
    ).encode()


def _time(number: int) -> bytes:
    return b"2026-08-01T12:%02d:%02d.%03d000Z" % (number // 60_000, number // 1000 % 60, number % 1000)


def htx() -> Iterator[bytes]:
    """The book of 150 levels that is asked for on the socket, and what it changes by: four levels a frame."""
    draw = random.Random(1)
    held = (
        b'{"ch":"market.btcusdt.mbp.150","ts":1573199608679,'
        b'"tick":{"seqNum":%d,"prevSeqNum":%d,"asks":[%b],"bids":[%b]}}'
    )
    yield held % (1, 0, b"", b"")
    levels = [b",".join(b"[%d.5,1.0]" % (9000 + sign * place) for place in range(1, 151)) for sign in (1, -1)]
    yield (
        b'{"id":"1","rep":"market.btcusdt.mbp.150","status":"ok","data":{"seqNum":1,"asks":[%b],"bids":[%b]}}'
        % (*levels,)
    )
    for number in range(2, DELTAS):
        changed = [
            b",".join(b"[%d.5,%d.%04d]" % (9000 + sign * draw.randrange(1, 100), number % 9, number) for _ in range(2))
            for sign in (1, -1)
        ]
        yield held % (number, number - 1, *changed)


MADE: dict[str, Callable[[], Iterator[bytes]]] = {"kraken": kraken, "htx": htx}
