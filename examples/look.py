"""What is in an archive: exchanges, symbols, what is whole and what is missing, and the book as it is now.

    python examples/look.py [--server tcp://127.0.0.1:9000 | --storage DIR] [--exchange binance]

Record something first: `make run` in the checkout records a generated market, and says where its server listens.
"""

import argparse
import os
import signal
from datetime import UTC, datetime

from trade_archivist import ArchivistError, Client


def time(ns: int) -> str:
    return datetime.fromtimestamp(ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", default=os.environ.get("ARCHIVIST_SERVER"))
    parser.add_argument("--storage", default=os.environ.get("ARCHIVIST_STORAGE"))
    parser.add_argument("--exchange", default="binance")
    args = parser.parse_args()
    with Client(args.server, storage=args.storage) as client:
        for exchange in client.exchanges():
            print(f"{exchange['name']}: complete to {exchange['complete']}, live events at {exchange['events']}")
        for symbol in client.symbols(args.exchange):
            print(symbol)
            for part in client.coverage(args.exchange, symbol, ["trade", "book"]):
                print(f"  {part['channel']:6} {time(part['start'])} to {time(part['end'])}: {part['whole']}")
            for gap in client.gaps(args.exchange, symbol):
                print(f"  gap {gap['gap']} {gap['state']}: {','.join(gap['channels'])}, {gap['reason']}")
            try:
                book = client.book(args.exchange, symbol, depth=3)
                print(f"  book at {time(book['ts_recv'])}: bids {book['bids']}, asks {book['asks']}")
            except ArchivistError as error:
                print(f"  no book: {error}")


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # whoever reads may stop, as `| head` does
    main()
