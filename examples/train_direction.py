"""Train on recorded books: does the imbalance of the best levels tell where the mid price goes next?

    python examples/train_direction.py [--server tcp://127.0.0.1:9000 | --storage DIR] [--symbol BTCUSDT]
                                       [--start TIME] [--end TIME] [--interval 1s] [--depth 10]

Features are known at each moment, the answer is the direction of the mid price over the next interval. The first 70 %
teach; the rest, which the models have not seen, judges. A logistic regression in NumPy, and a small network in PyTorch
where it is installed. Needs the extra `frames`. It shows how the data is used, and is no advice to trade.
"""

import argparse
import os
import signal
from typing import Any

import numpy as np
from trade_archivist import Client

Array = np.ndarray[Any, np.dtype[np.float64]]


def examples_of(levels: Array, depth: int) -> tuple[Array, Array]:
    """Features [example, feature] and answers [example]: 1 up, 0 down; from books [time, depth x 4].

    Left out: moments at which the book or the next one is not known (NaN), and those after which the mid stays.
    """
    book = levels.reshape(-1, depth, 4)
    bid, bid_amount, ask, ask_amount = np.moveaxis(book, 2, 0)  # each [time, depth]
    mid = (bid[:, 0] + ask[:, 0]) / 2
    bids, asks = np.nancumsum(bid_amount, axis=1), np.nancumsum(ask_amount, axis=1)
    imbalance = (bids - asks) / (bids + asks)  # over the best level, the best two, …
    spread = (ask[:, 0] - bid[:, 0]) / mid * 1e4
    past = np.concatenate(([np.nan], np.diff(mid) / mid[:-1] * 1e4))  # in basis points, as the spread
    features = np.column_stack([imbalance, spread, past])[:-1]
    move = np.diff(mid)
    usable = np.isfinite(features).all(axis=1) & np.isfinite(move) & (move != 0)
    return features[usable], (move[usable] > 0).astype(np.float64)


def logistic(features: Array, answers: Array, penalty: float = 1.0) -> Array:
    """The weights of a logistic regression, by Newton's method; the first is the constant."""
    inputs = np.column_stack([np.ones(len(features)), features])
    weights = np.zeros(inputs.shape[1])
    ridge = penalty * np.eye(len(weights))
    ridge[0, 0] = 1e-9
    for _ in range(30):
        chance = 1 / (1 + np.exp(-np.clip(inputs @ weights, -30, 30)))
        slope = inputs.T @ (answers - chance) - ridge @ weights
        curve = (inputs * (chance * (1 - chance))[:, None]).T @ inputs + ridge
        step = np.linalg.solve(curve, slope)
        weights += step
        if np.abs(step).max() < 1e-8:
            break
    return weights


def network(features: Array, answers: Array, unseen: Array) -> Array | None:
    """The chances that a small network gives to what it has not seen; None without PyTorch."""
    try:
        import torch
    except ImportError:
        return None
    torch.manual_seed(1)
    inputs, targets = torch.tensor(features, dtype=torch.float32), torch.tensor(answers, dtype=torch.float32)
    model = torch.nn.Sequential(torch.nn.Linear(inputs.shape[1], 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=1e-3)
    for _ in range(300):
        optimiser.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(model(inputs)[:, 0], targets).backward()
        optimiser.step()
    with torch.no_grad():
        chances: Array = torch.sigmoid(model(torch.tensor(unseen, dtype=torch.float32))[:, 0]).numpy().astype(float)
    return chances


def judge(name: str, chances: Array, answers: Array) -> None:
    right = float(((chances > 0.5) == (answers > 0.5)).mean())
    kept = np.clip(chances, 1e-6, 1 - 1e-6)
    loss = -float((answers * np.log(kept) + (1 - answers) * np.log(1 - kept)).mean())
    print(f"{name:24} right {right:6.1%}   log loss {loss:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", default=os.environ.get("ARCHIVIST_SERVER"))
    parser.add_argument("--storage", default=os.environ.get("ARCHIVIST_STORAGE"))
    parser.add_argument("--exchange", default="binance")
    parser.add_argument("--symbol", default="BTCUSDT")
    parser.add_argument("--start")
    parser.add_argument("--end")
    parser.add_argument("--interval", default="1s")
    parser.add_argument("--depth", type=int, default=10)
    args = parser.parse_args()
    with Client(args.server, storage=args.storage) as client:
        books = client.slice(args.exchange, args.symbol, "book", start=args.start, end=args.end)
        _, levels = books.book_snapshots(args.depth, args.interval).to_numpy()
    features, answers = examples_of(levels, args.depth)
    cut = int(len(features) * 0.7)
    if cut < 20:
        raise SystemExit(f"{len(levels)} books hold {len(features)} moves: record longer, or take a shorter interval")
    mean, scale = features[:cut].mean(axis=0), features[:cut].std(axis=0) + 1e-9
    features = (features - mean) / scale
    print(f"{len(levels)} books, {len(features)} moves: {cut} to learn from, {len(features) - cut} to be judged by")
    unseen, truth = features[cut:], answers[cut:]
    judge("always the same", np.full(len(truth), answers[:cut].mean()), truth)
    weights = logistic(features[:cut], answers[:cut])
    judge("logistic regression", 1 / (1 + np.exp(-(weights[0] + unseen @ weights[1:]))), truth)
    chances = network(features[:cut], answers[:cut], unseen)
    if chances is None:
        print("PyTorch is not installed: its network is skipped")
    else:
        judge("network (PyTorch)", chances, truth)


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # whoever reads may stop, as `| head` does
    main()
