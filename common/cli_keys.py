"""The command `keys`."""

from pathlib import Path

from . import curve
from .process import EXIT_OK, ConfigError

_TEXT = """\
made       {made}

On the server, in the configuration's file:

    [curve]
    secret_key = "{server_secret}"
    allowed = "{allowed}"

On the client's machine: move {client_secret} there (mode 600), and copy {server_public}.
The server's public key is {public}

Each .key file in {allowed} is a client that may connect; remove it to forbid.
"""


def keys(directory: Path, name: str) -> int:
    """Make the pairs of a server and a client and say what belongs where. Raises ConfigError."""
    try:
        made = curve.make(directory, name)
        public = curve.public_key(made.server_public).decode()
    except ValueError as error:
        raise ConfigError(str(error)) from None
    what = f"a pair for the client {name}" + (" (the server has one)" if made.was_there else " and one for the server")
    places = {key: value for key, value in made._asdict().items() if isinstance(value, Path)}
    print(_TEXT.format(made=what, public=public, **places), end="")
    return EXIT_OK
