"""Run a whole pipeline in the foreground: a stand-in exchange where one is configured, archiver, history, the feeds.

    python -m processes.archive binance [okx ...] --storage ./storage-dir/ --listen 127.0.0.1:9000

    files   writes    <storage>/.run/supervisord.conf    what runs, in which order, with which options
    files   writes    <storage>/.run/supervisord.log     what was started, stopped and restarted
    unix    binds     <storage>/.run/supervisor.sock     for supervisorctl; in a private directory if too long

This process *becomes* supervisord: SIGINT (Ctrl-C), SIGTERM and the end of its terminal (SIGHUP, unless begun with
nohup) stop everything, last started first, and exit 0.
"""

import argparse
import errno
import os
import shlex
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from common import hangup, settings
from common.config import Config, socket_path
from common.private import secure
from common.process import EXIT_CONFIG, LOCK_WAIT_S, SUPERVISOR_VARIABLE, ConfigError

_WHAT = "Record exchanges: their feeds, the archiver and history, in the foreground until Ctrl-C."

STOP_WAIT_S = 30
"""How long a process may take to stop before it is killed."""

HEAD = """\
; Written by processes.archive at each start: changes are lost.
[supervisord]
nodaemon=true
silent=true
{user}logfile={run}/supervisord.log
logfile_maxbytes=1MB
logfile_backups=1
loglevel=info
pidfile={run}/supervisord.pid
childlogdir={run}
environment={variable}="{pid}"

[unix_http_server]
file={control}
chmod=0700

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[supervisorctl]
serverurl=unix://{control}
"""

PROGRAM = """
[program:{name}]
command={command}
priority={priority}
startsecs=0
startretries=1000000
autorestart=unexpected
exitcodes=0,2
stopsignal=TERM
stopwaitsecs={stop_wait_s}
redirect_stderr=true
stdout_logfile={output}
stdout_logfile_maxbytes={output_bytes}
stdout_logfile_backups=1
"""


class Program(NamedTuple):
    """One process of the pipeline: its name for supervisorctl, its module and arguments."""

    name: str
    module: str
    arguments: list[str]


def main(argv: Sequence[str] | None = None) -> int:
    """Check, write supervisord's configuration and become supervisord. Returns only to refuse."""
    args = _parse(argv)
    try:
        config = settings.from_arguments(args, args.exchanges)
        run = config.archive.storage.absolute() / ".run"
        control = control_socket(run)
        check_not_running(control, run)
        check_ports(config)
        conf = write_conf(run, control, programs(config, args))
    except ConfigError as error:
        print(f"archive: {error}", file=sys.stderr)
        return EXIT_CONFIG
    print(where_to_look(config, conf), flush=True)
    return _become([sys.executable, "-m", "processes.supervise", "-n", "-c", str(conf)])


def _become(command: list[str]) -> NoReturn:
    hangup.restore()
    os.execv(command[0], command)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m processes.archive", description=_WHAT)
    parser.add_argument("exchanges", nargs="+", metavar="EXCHANGE", help="exchanges to record, for example binance")
    settings.add_arguments(parser)
    return parser.parse_args(argv)


def programs(config: Config, args: argparse.Namespace) -> list[Program]:
    """What runs, in the order of starting. Each is given the options that this process was given."""
    options = settings.given_options(args) | {"--log-level": args.log_level}
    if config.path is not None:
        options["--conf"] = str(config.path)
    common = [f"{option}={value}" for option, value in options.items()]
    names = list(config.feeds)
    found = []
    if config.standin.port:
        if "binance" not in config.feeds:
            raise ConfigError(f"{config.path}: standin.port: a market is made up for binance only: leave it out")
        symbols = ",".join(config.feeds["binance"].symbols)
        market = ["--port", str(config.standin.port), "--synthetic", f"--symbols={symbols}"]
        found.append(Program("standin", "processes.standin", ["binance", *market]))
    found.append(Program("archiver", "processes.archiver", [*names, *common]))
    found.append(Program("history", "processes.history", [*names, *common]))
    for name, feed in config.feeds.items():
        # A feed that runs by itself is the first of its own list: it is told its port.
        events = [f"--publish={feed.events.removeprefix('tcp://')}"] if feed.events.startswith("tcp://") else []
        found.append(Program(f"feed-{name}", "processes.feed", [name, *common, *events]))
    return found


def control_socket(run: Path) -> Path:
    """Where supervisord binds its control socket: in a directory that nobody else can write."""
    path = socket_path(run, "supervisor.sock", len(".4194304"))  # it is bound as NAME.PID first
    try:
        secure(path)
    except PermissionError as error:
        path = Path(tempfile.mkdtemp(prefix="trade-archivist-")) / path.name
        print(f"archive: {error}; this time supervisorctl reaches it by {path}", file=sys.stderr)
    return path


def check_not_running(control: Path, run: Path) -> None:
    """Raise ConfigError if a pipeline runs on this storage directory."""
    with socket.socket(socket.AF_UNIX) as probe:
        if probe.connect_ex(str(control)) == 0:
            stop = _shown_command(
                "-m", "supervisor.supervisorctl", "-c", shlex.quote(_shown(run / "supervisord.conf")), "shutdown"
            )
            raise ConfigError(f"{run.parent}: a pipeline runs on this storage directory; to stop it: {stop}")


def check_ports(config: Config) -> None:
    """Raise ConfigError if a port is not free within LOCK_WAIT_S: the orphans of a killed pipeline may still end."""
    deadline = time.monotonic() + LOCK_WAIT_S
    for key, endpoint in settings.bound(config).items():
        if not endpoint.startswith("tcp://"):
            continue
        host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
        while error := _bind_error(host, int(port)):
            if error.errno != errno.EADDRINUSE or time.monotonic() >= deadline:
                message = (
                    f"{key}: {host}:{port} cannot be bound: {error.strerror}: stop what uses it, or take another port"
                )
                raise ConfigError(message)
            time.sleep(0.05)


def _bind_error(host: str, port: int) -> OSError | None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error
    return None


def write_conf(run: Path, control: Path, found: Sequence[Program]) -> Path:
    """Write supervisord's configuration and return its path. Raises ConfigError where that cannot be."""
    values = {
        "run": _value(str(run)),
        "control": _value(str(control)),
        "user": "user=root\n" if os.getuid() == 0 else "",
        "variable": SUPERVISOR_VARIABLE,
        "pid": os.getpid(),  # that of supervisord too: this process becomes it
    }
    text = HEAD.format(**values)
    terminal = _reopens_stdout()
    logs = _value(_value(str(run)))  # supervisord expands the name of a log file twice
    for place, program in enumerate(found):
        text += PROGRAM.format(
            name=program.name,
            command=_value(shlex.join([sys.executable, "-m", program.module, *program.arguments])),
            priority=place + 1,
            stop_wait_s=STOP_WAIT_S,
            output="/dev/fd/1" if terminal else f"{logs}/{program.name}.log",
            output_bytes="0" if terminal else "10MB",
        )
    path = run / "supervisord.conf"
    try:
        run.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None
    return path


def _reopens_stdout() -> bool:
    """Whether supervisord can open our standard output by name, as it must: a file, pipe or terminal, not a socket."""
    try:
        os.close(os.open("/dev/fd/1", os.O_WRONLY | os.O_APPEND))
    except OSError:
        return False
    return True


def _value(text: str) -> str:
    """A text as supervisord's configuration takes it."""
    if " ;" in text or " #" in text:
        raise ConfigError(
            f"{text!r}: supervisord takes ' ;' and ' #' for the beginning of a comment: choose another path"
        )
    return text.replace("%", "%%")


def where_to_look(config: Config, conf: Path) -> str:
    """What the user sees first."""
    name, feed = next(iter(config.feeds.items()))
    source = "the built-in stand-in exchange" if config.standin.port else feed.ws_url or "the exchange itself"
    recorded = "; ".join(f"{exchange} {', '.join(each.symbols)}" for exchange, each in config.feeds.items())
    lines = {
        "recording": f"{recorded} from {source}",
        "storage": _shown(config.archive.storage),
        "events": ", ".join(each.events for each in config.feeds.values()),
        "history": f"tcp://{config.history.listen}",
        "follow": f"{_research()} follow {name} {shlex.quote(feed.symbols[0])} --events {feed.events}",
        "prove": f"{_research()} verify {shlex.quote(_shown(config.archive.storage))}",
        "processes": _shown_command("-m", "supervisor.supervisorctl", "-c", shlex.quote(_shown(conf)), "status"),
        "their logs": "here" if _reopens_stdout() else _shown(conf.parent / "*.log"),
        "stop": "Ctrl-C",
    }
    if config.standin.port:
        lines["the real one"] = _shown_command("-m", "processes.archive", name)
    return "\n".join(f"{subject:<14}{text}" for subject, text in lines.items())


def _shown(path: Path) -> str:
    """A path from where the user stands, where that is shorter."""
    return min(os.path.relpath(path), str(path.absolute()), key=len)


def _research() -> str:
    return shlex.quote(_shown(Path(sys.executable).with_name("trade-archivist")))


def _shown_command(*words: str) -> str:
    return " ".join([shlex.quote(_shown(Path(sys.executable))), *words])


if __name__ == "__main__":
    sys.exit(main())
