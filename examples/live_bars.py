"""Bars of the last minutes, then of what happens now: the same events and the same code for both.

    python examples/live_bars.py [--server tcp://127.0.0.1:9000] [--symbols BTCUSDT,ETHUSDT] [--start=-10m]
                                 [--interval 1m] [--count N]

A bar is printed with the first trade after its end. A follower never misses an event: what a slow network or a restart
costs it is asked from history, and what nobody has is told by a gap, which makes a bar not `whole`.
"""

import argparse
import os
import signal
from datetime import UTC, datetime
from itertools import islice

from trade_archivist import Client, series


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", default=os.environ.get("ARCHIVIST_SERVER"))
    parser.add_argument("--exchange", default="binance")
    parser.add_argument("--symbols", default="BTCUSDT,ETHUSDT")
    parser.add_argument("--start", default="-10m")
    parser.add_argument("--interval", default="1m")
    parser.add_argument("--count", type=int, help="stop after so many bars")
    args = parser.parse_args()
    with Client(args.server) as client:
        events = client.follow(args.exchange, args.symbols.split(","), ["trade"], start=args.start)
        for bar in islice(series.bars(events, args.interval), args.count):
            begin = datetime.fromtimestamp(bar.ts / 1e9, UTC)
            note = "" if bar.whole else "  (not whole)"
            print(
                f"{begin:%H:%M:%S.%f} {bar.symbol} close {bar.close:.2f} vwap {bar.vwap:.2f} "
                f"bought {bar.buy_volume:.5f} sold {bar.sell_volume:.5f} in {bar.count} trades{note}",
                flush=True,
            )


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # whoever reads may stop, as `| head` does
    main()
