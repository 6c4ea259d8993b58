"""A slice of trades as a polars frame, and as bars; all of it in exact columns, none of it guessed.

    python examples/slice_to_polars.py [--server tcp://127.0.0.1:9000 | --storage DIR] [--symbol BTCUSDT]
                                       [--start TIME] [--end TIME] [--interval 1m]

Needs the extra `frames`: pip install 'trade-archivist[frames]'. Times are ISO 8601 (UTC), ns, or as `--start=-2h`.
"""

import argparse
import os
import signal

import polars as pl
from trade_archivist import Client


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", default=os.environ.get("ARCHIVIST_SERVER"))
    parser.add_argument("--storage", default=os.environ.get("ARCHIVIST_STORAGE"))
    parser.add_argument("--exchange", default="binance")
    parser.add_argument("--symbol", default="BTCUSDT")
    parser.add_argument("--start")
    parser.add_argument("--end")
    parser.add_argument("--interval", default="1m")
    args = parser.parse_args()
    with Client(args.server, storage=args.storage) as client:
        past = client.slice(args.exchange, args.symbol, "trade", start=args.start, end=args.end)
        trades = past.to_polars()
        print(trades)
        print(
            trades.group_by(pl.col("side").cast(pl.String)).agg(
                trades=pl.len(), amount=pl.col("amount").sum(), mean_price=pl.col("price").mean()
            )
        )
        bars = past.bars(args.interval).to_polars()
        print(bars.with_columns(pl.from_epoch("ts", time_unit="ns")))
        print(f"{len(bars)} bars of {bars['count'].sum()} trades, {bars['whole'].sum()} of them whole")


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # whoever reads may stop, as `| head` does
    main()
