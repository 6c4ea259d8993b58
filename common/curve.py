"""CURVE: encrypted sockets that know their clients by key. Files and authentication are pyzmq's own (`zmq.auth`).

    DIR/server.key           the server's public key, for clients
    DIR/server.key_secret    the server's pair: stays there, mode 0600
    DIR/allowed/NAME.key     public keys of the clients that may connect
    DIR/clients/NAME.key_secret   a client's pair, mode 0600: belongs on the client's machine

Keys are 40 characters of Z85. All errors are ValueErrors, in a sentence that says the mend.
"""

import logging
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import zmq
import zmq.auth

from .config import CurveConfig
from .guests import Bounds, Guests, Told, bound_in

log = logging.getLogger("curve")

Context = zmq.Context["zmq.Socket[bytes]"]
Socket = zmq.Socket[bytes]

_KEY = re.compile(rb"[0-9a-zA-Z.:+=^!/*?&<>()\[\]{}@%$#-]{40}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_DOMAIN = b"trade-archivist"
_JOIN_S = 5.0


class KeyPair(NamedTuple):
    """Both keys of one party, as Z85."""

    public: bytes
    secret: bytes


class Made(NamedTuple):
    """The files of `make`, and whether the server's pair was there already."""

    server_public: Path
    server_secret: Path
    allowed: Path
    client_secret: Path
    was_there: bool


def check_available() -> None:
    """Raise ValueError where libzmq was built without CURVE."""
    if not zmq.has("curve"):
        raise ValueError(
            f"this libzmq ({zmq.zmq_version()}) was built without CURVE: install pyzmq's own wheel, "
            "pip install --force-reinstall --only-binary :all: pyzmq"
        )


# -- files ---------------------------------------------------------------------------------------------------------


def make(directory: Path, name: str) -> Made:
    """Make a pair for a client, and for the server where there is none yet. Nothing is overwritten."""
    check_available()
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a name for a client's file: take letters, digits, '-', '_' and '.'")
    allowed, clients = directory / "allowed", directory / "clients"
    client_public, client_secret = allowed / f"{name}.key", clients / f"{name}.key_secret"
    server_public, server_secret = directory / "server.key", directory / "server.key_secret"
    for path in (client_public, client_secret):
        if path.exists():
            raise ValueError(f"{path} is there already: take another --name, or remove it to forbid and make it anew")
    try:
        allowed.mkdir(parents=True, exist_ok=True)
        clients.mkdir(mode=0o700, exist_ok=True)
        if not (was_there := server_secret.exists()):
            _write_pair(directory, "server")
        else:
            load(server_secret)
        _write_pair(clients, name)
        (clients / f"{name}.key").replace(client_public)
    except OSError as error:
        raise ValueError(f"{error.filename}: cannot be written: {error.strerror}: name another directory") from None
    return Made(server_public, server_secret, allowed, client_secret, was_there)


def _write_pair(directory: Path, name: str) -> None:
    """The secret is never readable by others, not for a moment; the public one is."""
    before = os.umask(0o077)
    try:
        public, _ = zmq.auth.create_certificates(directory, name)
    finally:
        os.umask(before)
    Path(public).chmod(0o644)


def load(path: Path) -> KeyPair:
    """The pair in a secret key file. One that others may read is refused."""
    check_available()
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}: make keys with trade-archivist keys") from None
    if mode & 0o077:
        raise ValueError(f"{path} may be read by others: run chmod 600 {path}")
    public, secret = _certificate(path)
    if secret is None:
        raise ValueError(f"{path} has no secret key in it: name the .key_secret file")
    if not _KEY.fullmatch(secret) or zmq.curve_public(secret) != public:
        raise ValueError(f"{path} is not a key file: make keys with trade-archivist keys")
    return KeyPair(public, secret)


def public_key(value: str | Path) -> bytes:
    """A public key: its 40 characters, or a `.key` file that holds it."""
    text = str(value)
    if _KEY.fullmatch(text.encode()) and not Path(text).is_file():
        return text.encode()
    if not Path(text).is_file():
        raise ValueError(f"{text!r} is neither a public key of 40 characters nor a .key file that is there")
    return _certificate(Path(text))[0]


def _certificate(path: Path) -> tuple[bytes, bytes | None]:
    try:
        public, secret = zmq.auth.load_certificate(path)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}: see that it is a file that can be read") from None
    except ValueError:
        public, secret = b"", None
    if not _KEY.fullmatch(public):
        raise ValueError(f"{path} is not a key file: make keys with trade-archivist keys")
    return public, secret


# -- sockets -------------------------------------------------------------------------------------------------------


def secure_client(socket: Socket, server: bytes, own: KeyPair) -> None:
    """Make a socket, before it connects, a client of the server with this public key."""
    socket.curve_secretkey, socket.curve_publickey, socket.curve_serverkey = own.secret, own.public, server


def own_client(socket: Socket, endpoint: str, config: CurveConfig) -> None:
    """Make a socket, before it connects, a client of a server of this very configuration."""
    if config.is_set and endpoint.startswith("tcp://"):
        pair = load(config.secret_key)
        secure_client(socket, pair.public, pair)


class Gate:
    """Lets clients into the servers' TCP sockets of one context, and bounds what they take (`guests`).

    With no keys configured it is open to everyone.
    The allow-list is read at each connection: a key that is removed connects no more, but stays connected. The
    server's own key is allowed too, for processes with the same configuration.
    """

    def __init__(self, context: Context, config: CurveConfig, wake: Callable[[], None] = lambda: None) -> None:
        """`wake` is called again and again while clients send, in another thread."""
        self._pair = load(config.secret_key) if config.is_set else None
        self._allowed = config.allowed
        self._told, self._wake = Told(log), wake
        self._guests: list[Guests] = []
        if self._pair is not None:
            from zmq.auth.thread import ThreadAuthenticator  # asyncio and more: only who needs it pays

            self._authenticator = ThreadAuthenticator(context)
            self._authenticator.start()
            self._authenticator.configure_curve_callback(_DOMAIN.decode(), self)

    @property
    def public(self) -> str | None:
        """The server's public key; None where there are no keys."""
        return None if self._pair is None else self._pair.public.decode()

    @property
    def is_busy(self) -> bool:
        """Whether clients have sent within the last moment."""
        return any(guests.is_busy for guests in self._guests)

    def secure(self, socket: Socket, endpoint: str, bounds: Bounds) -> None:
        """Make a socket, before it is bound there, one that takes only allowed clients, and of them what is bounded.

        Files (ipc) are open: their directory's permissions guard them.
        """
        bound_in(socket, bounds, has_keys=self._pair is not None)
        if not endpoint.startswith("tcp://"):
            return
        if self._pair is not None:
            socket.curve_server = True
            socket.curve_secretkey = self._pair.secret
            socket.zap_domain = _DOMAIN
            socket.set(zmq.ZAP_ENFORCE_DOMAIN, 1)  # without it, and without an authenticator, every key would do
        self._guests = [each for each in self._guests if not each.socket.closed]
        self._guests.append(Guests(socket, endpoint, bounds, self._told, self._wake))

    def callback(self, domain: str, key: bytes) -> bool:
        """Whether a client's key is allowed. Called in the authenticator's thread, which an error would end."""
        try:
            if (self._pair is not None and key == self._pair.public) or key in set(_listed(self._allowed, self._told)):
                return True
        except OSError as error:
            self._told.tell(f"a client is refused: {self._allowed}: {error.strerror}")
            return False
        self._told.tell(f"a client is refused: its key {key.decode()} is not in {self._allowed}")
        return False

    def close(self) -> None:
        """Before the context ends, and after its sockets: what is open still takes no client any more."""
        for guests in self._guests:
            guests.close(_JOIN_S)
        if self._pair is not None:
            self._authenticator.stop()

    def __enter__(self) -> "Gate":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _listed(directory: Path, told: Told) -> Iterator[bytes]:
    """The public keys of a directory. A file that holds none is told and passed over. Raises OSError."""
    for path in sorted(directory.iterdir()):
        if path.suffix == ".key":
            try:
                yield public_key(path)
            except ValueError as error:
                told.tell(f"passed over: {error}")
