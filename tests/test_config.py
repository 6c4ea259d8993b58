"""The configuration: what is read from where, and what is refused, with file, key and mend."""

import argparse
import ast
import dataclasses
import inspect
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from common import exchanges, settings
from common.config import ArchiveConfig, Config, CurveConfig, FeedConfig, HistoryConfig, StandinConfig
from common.exchanges import binance
from common.process import EXIT_CONFIG, ConfigError

ROOT = Path(__file__).resolve().parent.parent
SYMBOLS = {"--symbols": "BTCUSDT"}


def written(folder: Path, text: str) -> Path:
    path = folder / "my.toml"
    path.write_text(text)
    return path


def load(
    path: Path | None = None, options: Mapping[str, str] = SYMBOLS, environ: Mapping[str, str] | None = None
) -> Config:
    return settings.load(path, ["binance"], options, environ or {})


def refusal(path: Path | None = None, options: Mapping[str, str] = SYMBOLS, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, options, environ)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_load_without_file_gives_the_defaults() -> None:
    config = load()
    usual = FeedConfig(symbols=("BTCUSDT",), channels=binance.CHANNELS, candle_intervals=("1m",))
    assert config == Config(None, ArchiveConfig(), {"binance": usual})
    assert config.listen == "127.0.0.1:9000"


def test_load_when_every_layer_sets_a_key_then_the_later_one_wins(tmp_path: Path) -> None:
    path = written(tmp_path, '[feed.binance]\nsymbols = ["A"]\nsilence_s = 5\n[archive]\ncodec = "zstd"\nlevel = 3')
    variables = {"TRADE_ARCHIVIST_FEED__BINANCE__SYMBOLS": "B,C", "TRADE_ARCHIVIST_ARCHIVE__LEVEL": "4"}
    from_file = load(path, {})
    from_environ = load(path, {}, variables)
    from_options = load(path, {"--symbols": "D, E", "--codec": "bz2"}, variables)
    busy = load(path, {}, {"TRADE_ARCHIVIST_FEED__BINANCE__BUSY_POLL": "true"})
    assert busy.feeds["binance"].busy_poll and not from_file.feeds["binance"].busy_poll
    assert (from_file.feeds["binance"].symbols, from_file.archive.level) == (("A",), 3)
    assert (from_environ.feeds["binance"].symbols, from_environ.archive.level) == (("B", "C"), 4)
    assert (from_options.feeds["binance"].symbols, from_options.archive.codec) == (("D", "E"), "bz2")
    assert from_options.feeds["binance"].silence_s == 5.0
    assert type(from_options.feeds["binance"].silence_s) is float


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[feed.binance]\nsymbls = ['A']", "unknown key feed.binance.symbls: did you mean feed.binance.symbols?"),
        ("[feed.binanc]\nsymbols = ['A']", "unknown key feed.binanc.symbols: did you mean feed.binance.symbols?"),
        ("[archve]\ncodec = 'bz2'", "unknown key archve.codec: did you mean archive.codec?"),
        ("[zzz]", "unknown key zzz"),
        ("codec = 'bz2'", "unknown key codec: did you mean archive.codec?"),
        ("archive = 5", "unknown key archive: did you mean archive."),
        ("[archive]\ncodec = 9", "archive.codec: 9 is not a text"),
        ("[archive]\nrotate_s = true", "archive.rotate_s: True is not an integer"),
        ("[archive]\nrotate_s = 1.5", "archive.rotate_s: 1.5 is not an integer"),
        ("[archive]\nrotate_s = '60'", "archive.rotate_s: '60' is not an integer"),
        ("[archive]\nsync_interval_s = 'x'", "archive.sync_interval_s: 'x' is not a number"),
        ("[feed.binance]\nsymbols = 'A,B'", "feed.binance.symbols: 'A,B' is not a list of texts"),
        ("[feed.binance]\nbusy_poll = 1", "feed.binance.busy_poll: 1 is not true or false"),
        ("[feed.binance]\nsymbols = [1]", "feed.binance.symbols: [1] is not a list of texts"),
        ("[archive]\nstorage = 5", "archive.storage: 5 is not a path"),
        ("[archive]\ncodec", "not TOML"),
    ],
)
def test_load_when_a_file_has_an_unknown_key_or_wrong_type_then_it_is_refused(
    tmp_path: Path, text: str, expected: str
) -> None:
    path = written(tmp_path, text)
    message = refusal(path)
    assert message.startswith(f"{path}: ")
    assert expected in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[feed.binance]\nsilence_s = -1", "feed.binance.silence_s: -1.0 is impossible"),
        ("[feed.binance]\nsilence_s = inf", "feed.binance.silence_s: inf is not finite"),
        ("[feed.binance]\njournal_max_bytes = 0", "feed.binance.journal_max_bytes: 0 is impossible"),
        ("[feed.binance]\nchannels = ['trades']", "'trades' is not one of"),
        ("[feed.binance]\nchannels = ['trades']", "did you mean trade?"),
        ("[feed.binance]\nchannels = []", "feed.binance.channels: is empty"),
        ("[feed.binance]\nsymbols = []", "feed.binance.symbols: is empty"),
        ("[feed.binance]\nsymbols = ['A', 'A']", "feed.binance.symbols: 'A' is named twice"),
        ("[feed.binance]\nsymbols = ['']", "feed.binance.symbols: '' is not a name"),
        ("[feed.binance]\nevents = '127.0.0.1:9001'", "feed.binance.events: '127.0.0.1:9001' is not tcp://"),
        ("[feed.binance]\nevents = 'tcp://127.0.0.1:x'", "feed.binance.events: '127.0.0.1:x' is not HOST:PORT"),
        ("[feed.binance]\nevents = 'tcp://*:9001'", "feed.binance.events: '*' is not an address"),
        ("[feed.binance]\nevents = 'tcp://eth0:9001'", "feed.binance.events: 'eth0' is not an address"),
        ("[feed.binance]\nevents = 'tcp://10.0.0.1:9001'", "feed.binance.events: 10.0.0.1:9001 is open to other"),
        ("[feed.binance]\nrecords = 'tcp://10.0.0.1:9001'", "feed.binance.records: 10.0.0.1:9001 is open to other"),
        ("[feed.binance]\nws_url = 'http://a'", "feed.binance.ws_url: 'http://a' is not ws://HOST:PORT"),
        ("[feed.binance]\nrest_url = 'http://a/api'", "feed.binance.rest_url: 'http://a/api' has a path"),
        ("[history]\nlisten = '127.0.0.1'", "history.listen: '127.0.0.1' is not HOST:PORT"),
        ("[history]\nlisten = '127.0.0.1:70000'", "history.listen: '127.0.0.1:70000' is not HOST:PORT"),
        ("[history]\nlisten = '0.0.0.0:9000'", "0.0.0.0:9000 is open to other machines, which needs CURVE keys"),
        ("[curve]\nsecret_key = 'none'", "curve.secret_key: none: No such file or directory: make keys with trade-"),
        ("[curve]\nsecret_key = 'setup.cfg'", "curve.secret_key: setup.cfg may be read by others: run chmod 600"),
        ("[curve]\nallowed = 'none'", "curve.allowed: none is not a directory that is there"),
        ("[history]\nlisten = '127.0.0.1:9001'", "tcp://127.0.0.1:9001 is that of history.listen too"),
        ("[history]\nworkers = 0", "history.workers: 0 is impossible"),
        ("[history]\nworkers = 1000", "history.workers: 1000 is too many"),
        ("[history]\nwaiting_max = -1", "history.waiting_max: -1 is impossible"),
        ("[history]\ntimeout_s = 0", "history.timeout_s: 0.0 is impossible"),
        ("[standin]\nport = 70000", "standin.port: 70000 is not a port"),
        ("[archive]\ncodec = 'gzip'", "archive.codec: 'gzip' is not one of bz2, zstd"),
        ("[archive]\nlevel = 10", "archive.level: 10 is above 9, the highest of bz2"),
        ("[archive]\nrotate_s = 3601", "archive.rotate_s: rotate_s 3601 is not a multiple of checkpoint_s 300"),
        ("[feed.binance]\ncheckpoint_s = 7", "feed.binance.checkpoint_s: rotate_s 3600 is not a multiple"),
        ("[archive]\nstorage = ''", "archive.storage: is empty"),
        ('[archive]\nstorage = "a\\nb"', "archive.storage: 'a\\nb' holds a control character"),
        ("[archive]\nstorage = 'setup.cfg'", "archive.storage: setup.cfg is a file"),
        ("[feed.binance]\njournal = 'setup.cfg'", "feed.binance.journal: setup.cfg is a file"),
        ("[feed.binance]\nrest_timeout_s = 1e300", "feed.binance.rest_timeout_s: 1e+300 is impossible: at most 604800"),
        ("[archive]\nrotate_s = 604801", "archive.rotate_s: 604801 is impossible: at most 604800"),
        ("[feed.binance]\nmax_frame_bytes = 65535", "feed.binance.max_frame_bytes: 65535 is too small"),
        ("[feed.binance]\nsnapshot_depth = 5001", "feed.binance.snapshot_depth: 5001 is above 5000"),
        ("[feed.binance]\ncandle_intervals = ['1m', '60m']", "feed.binance.candle_intervals: '60m' is not one of 1s"),
        ("[feed.binance]\nsymbols = ['A', 'btcusdt']", "'btcusdt' is not a symbol of Binance: did you mean BTCUSDT?"),
        ("[feed.binance]\nsymbols = ['BTC/USDT']", "feed.binance.symbols: 'BTC/USDT' is not a symbol of Binance"),
        ("[feed.binance]\nsymbols = ['btc/usdt']", "did you mean BTCUSDT?"),
        ("[feed.binance]\nsymbols = ['BTC USDT']", "did you mean BTCUSDT?"),
        ("[feed.binance]\nsymbols = ['/']", "'/' is not a symbol of Binance"),
    ],
)
def test_load_when_a_value_is_impossible_then_it_is_refused_with_file_and_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: str
) -> None:
    monkeypatch.chdir(ROOT)
    path = written(tmp_path, text)
    message = refusal(path, {} if "symbols" in text else SYMBOLS)
    assert message.startswith(f"{path}: ")
    assert expected in message


def test_load_when_values_are_at_their_bounds_then_takes_them(tmp_path: Path) -> None:
    text = "silence_s = 604800\nmax_frame_bytes = 65536\nsnapshot_depth = 5000\ncandle_intervals = ['1s', '1m', '1M']"
    path = written(tmp_path, f"[feed.binance]\n{text}")
    feed = load(path, {"--symbols": "币安人生USDT,1000SATS"}).feeds["binance"]
    assert feed.symbols == ("币安人生USDT", "1000SATS")
    assert (feed.silence_s, feed.max_frame_bytes, feed.snapshot_depth) == (604800.0, 65536, 5000)
    assert feed.candle_intervals == ("1s", "1m", "1M")


def test_load_when_no_symbols_are_named_then_it_is_refused() -> None:
    assert refusal(None, {}).startswith("defaults: feed.binance.symbols: is empty")


def test_load_when_a_file_is_absent_or_unreadable_then_it_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no.toml") == f"{tmp_path}/no.toml: cannot be read: No such file or directory"
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe")
    assert refusal(tmp_path / "b.toml").startswith(f"{tmp_path}/b.toml: not TOML")


def test_load_when_a_variable_is_unknown_or_wrong_then_it_is_refused_by_its_name() -> None:
    assert refusal(TRADE_ARCHIVIST_ARCHIVE__CODEX="bz2") == (
        "environment: unknown variable TRADE_ARCHIVIST_ARCHIVE__CODEX: did you mean TRADE_ARCHIVIST_ARCHIVE__CODEC?"
    )
    assert refusal(TRADE_ARCHIVIST_ARCHIVE__LEVEL="nine").startswith(
        "environment: TRADE_ARCHIVIST_ARCHIVE__LEVEL: 'nine'"
    )
    load(environ={"TRADE_ARCHIVIST_BOOT_ID": "x", "TRADE_ARCHIVIST_CONF": "y", "HOME": "z"})


@pytest.mark.parametrize(
    ("option", "value"),
    [("--codec", "gz"), ("--listen", "9000"), ("--publish", "127.0.0.1:0"), ("--ws-url", "x"), ("--symbols", "A,,B")],
)
def test_load_when_an_option_is_wrong_then_it_is_refused_by_its_name(option: str, value: str) -> None:
    assert refusal(None, {**SYMBOLS, option: value}).startswith(f"{option}: ")


def test_load_when_an_exchange_is_unknown_then_the_nearest_is_suggested() -> None:
    with pytest.raises(ConfigError, match=r"unknown exchange 'binanc'.*did you mean binance\?"):
        settings.load(None, ["binanc"], SYMBOLS, {})
    with pytest.raises(ConfigError, match="named twice"):
        settings.load(None, ["binance", "binance"], SYMBOLS, {})
    with pytest.raises(LookupError):
        exchanges.get("binance_standin")


def test_load_with_several_exchanges_then_each_has_its_own_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchanges, "_FILES", {"binance": "binance", "okx": "binance"})
    monkeypatch.setattr(exchanges, "get", lambda name: binance)
    plain = settings.load(None, ["binance", "okx"], SYMBOLS, {})
    given = settings.load(None, ["okx", "binance"], {**SYMBOLS, "--publish": "127.0.0.1:9100"}, {})
    assert [feed.events for feed in plain.feeds.values()] == ["tcp://127.0.0.1:9001", "tcp://127.0.0.1:9002"]
    assert {name: feed.events for name, feed in given.feeds.items()} == {
        "okx": "tcp://127.0.0.1:9100",
        "binance": "tcp://127.0.0.1:9101",
    }


def test_load_without_exchanges_takes_all_that_are_configured(tmp_path: Path) -> None:
    path = written(tmp_path, '[feed.binance]\nsymbols = ["A"]')
    assert list(settings.load(path, [], {}, {}).feeds) == ["binance"]
    with pytest.raises(ConfigError, match="no exchange is named or configured"):
        settings.load(None, [], {}, {})


def test_paths_when_relative_then_from_the_current_directory_and_home_is_expanded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert load(None, {**SYMBOLS, "--storage": "~/data"}).archive.storage == Path("/home/someone/data")
    assert load(None, {**SYMBOLS, "--storage": "data"}).archive.storage == Path("data")
    journal = load(environ={"TRADE_ARCHIVIST_FEED__BINANCE__JOURNAL": "."})
    assert journal.journal_dir("binance") == Path.cwd() / "binance"
    assert load().journal_dir("binance") == Path("storage-dir/.journal/binance")


def test_records_endpoint_when_the_path_is_long_then_a_short_one_of_its_own(tmp_path: Path) -> None:
    short = load(None, {**SYMBOLS, "--storage": "/data"})
    deep = [load(None, {**SYMBOLS, "--storage": str(tmp_path / (letter * 100))}) for letter in "ab"]
    endpoints = [config.records_endpoint("binance") for config in deep]
    assert short.records_endpoint("binance") == "ipc:///data/.journal/binance/records.ipc"
    assert all(len(endpoint) <= len("ipc://") + 100 for endpoint in endpoints)
    assert len(set(endpoints)) == 2
    named = load(environ={"TRADE_ARCHIVIST_FEED__BINANCE__RECORDS": "tcp://127.0.0.1:9500"})
    assert named.records_endpoint("binance") == "tcp://127.0.0.1:9500"


def parse(*argv: str) -> Config:
    parser = argparse.ArgumentParser()
    settings.add_arguments(parser)
    return settings.from_arguments(parser.parse_args(argv), ["binance"])


def test_from_arguments_finds_the_file_by_option_then_variable_then_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, '[feed.binance]\nsymbols = ["A"]')
    monkeypatch.delenv("TRADE_ARCHIVIST_CONF", raising=False)
    assert parse().path == ROOT / "conf" / "binance.toml"
    monkeypatch.setenv("TRADE_ARCHIVIST_CONF", str(path))
    assert parse().path == path
    assert parse("--conf", str(ROOT / "conf" / "sandbox.toml")).standin.port == 9443
    monkeypatch.delenv("TRADE_ARCHIVIST_CONF")
    monkeypatch.setattr(settings, "CHECKOUT_CONF", tmp_path / "absent.toml")
    assert parse("--symbols", "A").path is None


def test_example_files_have_the_values_that_are_documented() -> None:
    sandbox = settings.load(ROOT / "conf" / "sandbox.toml", ["binance"], {}, {})
    real = settings.load(ROOT / "conf" / "binance.toml", ["binance"], {}, {})
    assert dataclasses.replace(sandbox, path=None) == Config(
        archive=ArchiveConfig(storage=Path("sandbox-dir")),
        history=dataclasses.replace(sandbox.history, listen="127.0.0.1:9010"),
        standin=dataclasses.replace(sandbox.standin, port=9443),
        feeds={
            "binance": FeedConfig(
                symbols=("BTCUSDT", "ETHUSDT"),
                channels=binance.CHANNELS,
                candle_intervals=("1m",),
                events="tcp://127.0.0.1:9011",
                ws_url="ws://127.0.0.1:9443",
                rest_url="http://127.0.0.1:9443",
            )
        },
    )
    feed = FeedConfig(symbols=("BTCUSDT", "ETHUSDT"), channels=binance.CHANNELS, candle_intervals=("1m",))
    assert dataclasses.replace(real, path=None) == Config(feeds={"binance": feed})


@pytest.mark.parametrize("path", sorted((ROOT / "conf").glob("*.toml")), ids=lambda path: path.name)
def test_example_files_have_a_comment_above_each_key(path: Path) -> None:
    lines = path.read_text().splitlines()
    keys = [number for number, line in enumerate(lines) if "=" in line and not line.startswith("#")]
    assert len(keys) == sum(1 for _ in settings.leaves("", tomllib.loads(path.read_text())))
    assert [lines[number] for number in keys if not lines[number - 1].startswith("# ")] == []


@pytest.mark.parametrize("record", [FeedConfig, ArchiveConfig, HistoryConfig, StandinConfig, CurveConfig])
def test_every_key_has_a_description_below_it(record: type) -> None:
    (definition,) = ast.parse(inspect.getsource(record)).body
    assert isinstance(definition, ast.ClassDef)
    statements = list(zip(definition.body, definition.body[1:], strict=False))
    described = [
        key.target for key, text in statements if isinstance(key, ast.AnnAssign) and isinstance(text, ast.Expr)
    ]
    assert len(described) == len(dataclasses.fields(record))


@pytest.mark.parametrize(
    "arguments",
    [["binanc"], ["binance", "--codec", "gz"], ["binance", "--symbols", "btcusdt"], ["binance", "--nonsense"], []],
)
def test_a_process_when_its_configuration_is_wrong_then_exits_two_before_anything_starts(
    tmp_path: Path, arguments: list[str]
) -> None:
    command = [sys.executable, "-m", "processes.archive", *arguments, "--storage", str(tmp_path / "storage")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == EXIT_CONFIG
    assert done.stdout == ""
    assert not (tmp_path / "storage").exists()
