"""What NautilusTrader calls the instruments of exchanges, and how its catalogue has them."""

from typing import TYPE_CHECKING, Any

from .errors import BadRequestError
from .events import Event
from .exports import Job
from .tables import arrow

if TYPE_CHECKING:
    import pyarrow as pa

DIRECTORIES = {"spot": "currency_pair", "perpetual": "crypto_perpetual", "future": "crypto_future"}
_CLASSES = {"spot": "CurrencyPair", "perpetual": "CryptoPerpetual", "future": "CryptoFuture"}

_SUFFIXES = {"bybit-spot": "-SPOT", "bybit-linear": "-LINEAR", "bybit-inverse": "-INVERSE"}

_LIMITS = ("max_quantity", "min_quantity", "max_notional", "min_notional", "max_price", "min_price")
_RATES = ("margin_init", "margin_maint", "maker_fee", "taker_fee")


def identifier(exchange: str, symbol: str) -> str:
    """BTCUSDT.BINANCE, BTCUSDT-PERP.BINANCE, BTCUSDT-LINEAR.BYBIT: as its own adapters name them."""
    if exchange in ("binance-usdm", "binance-coinm") and not symbol[-1:].isdigit():
        symbol = symbol.removesuffix("_PERP") + "-PERP"
    return f"{symbol}{_SUFFIXES.get(exchange, '')}.{exchange.partition('-')[0].upper()}"


def instrument_table(job: Job, name: str, found: list[Event]) -> "pa.Table":
    """One row: the instrument as it was known at the job's end. Raises BadRequestError where it is not known."""
    asked = f"{job.exchange} {job.symbol}"
    if not found:
        message = f"{asked}: no instrument is archived (what was imported has none)"
        raise BadRequestError(f"{message}: leave it out, --kinds trade_tick,quote_tick,order_book_delta")
    (event,) = found
    if event["type"] not in _CLASSES or event["tick_size"] is None or event["lot_size"] is None:
        raise BadRequestError(f"{asked}: a catalogue has no {event['type']} like it: leave out the kind instrument")
    row = {"id": name, "raw_symbol": job.symbol, **_kind_of(event), **_sizes(event)}
    row |= dict.fromkeys(_LIMITS) | dict.fromkeys(_RATES, "0")
    row |= {"info": b"null", "ts_event": job.start, "ts_init": job.start}
    pa = arrow()
    fields = [pa.field(key, _type_of(pa, key)) for key in row]
    return pa.Table.from_pylist([row], pa.schema(fields, {"class": _CLASSES[event["type"]]}))


def _kind_of(event: Event) -> dict[str, Any]:
    base, quote, sort = event["base"], event["quote"], event["type"]
    if sort == "spot":
        return {"base_currency": base, "quote_currency": quote}
    settle = event["settle"] or quote
    money = {"quote_currency": quote, "settlement_currency": settle, "is_inverse": settle == base}
    if sort == "perpetual":
        return {"base_currency": base, **money}
    return {"underlying": base, **money, "activation_ns": 0, "expiration_ns": event["expiry"]}


def _sizes(event: Event) -> dict[str, Any]:
    tick, lot = _plain(event["tick_size"]), _plain(event["lot_size"])
    found: dict[str, Any] = {"price_precision": _digits(tick), "size_precision": _digits(lot)}
    found |= {"price_increment": tick, "size_increment": lot, "multiplier": _plain(event["contract_size"] or "1")}
    return found | ({"lot_size": None} if event["type"] == "spot" else {})


def _plain(size: str) -> str:
    """Without zeroes that say nothing: 0.01000000 is 0.01."""
    return size.rstrip("0").rstrip(".") if "." in size else size


def _digits(size: str) -> int:
    return len(size.partition(".")[2])


def _type_of(pa: Any, key: str) -> "pa.DataType":
    if key in ("raw_symbol", *_RATES):
        return pa.string()
    if key in ("price_precision", "size_precision"):
        return pa.uint8()
    if key.startswith("ts_") or key.endswith("_ns"):
        return pa.uint64()
    if key in ("is_inverse", "info"):
        return pa.bool_() if key == "is_inverse" else pa.binary()
    return pa.dictionary(pa.int64() if key == "id" else pa.int16(), pa.string())
