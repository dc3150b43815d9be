"""Which engine to talk to: the provider's configuration, ``DOCKER_HOST`` and friends, or a docker context.

Source: docker CLI, cli/command/cli.go (resolveContextName) and opts/hosts.go.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import docker.errors
from docker.context import Context, ContextAPI
from docker.context.config import get_current_context_name
from docker.tls import TLSConfig

from vkprovider.errors import ConfigurationError

DEFAULT_HOST = "unix:///var/run/docker.sock"


@dataclass(frozen=True, slots=True)
class TLSFiles:
    """Files for TLS towards an engine; ``verify`` says whether its certificate is checked."""

    ca_cert: Path | None
    client_cert: Path | None
    client_key: Path | None
    verify: bool = True


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an engine listens.

    Attributes:
        url: As in ``DOCKER_HOST``.
        origin: Where the choice came from, for messages.
        socket_path: Path of the unix socket; None for TCP.
        host: Host name for TCP.
        port: Port for TCP.
        tls: TLS files; None for plain connections.
    """

    url: str
    origin: str
    socket_path: str | None = None
    host: str = ""
    port: int = 0
    tls: TLSFiles | None = None

    @property
    def base_url(self) -> str:
        """URL for an HTTP client."""
        if self.socket_path is not None:
            return "http://docker"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.url} (from {self.origin})"

    def make_ssl_context(self) -> ssl.SSLContext | None:
        """TLS context for our own connections; None for plain ones. Reads the files.

        Raises:
            ConfigurationError: A file is missing or wrong.
        """
        if self.tls is None:
            return None
        try:
            context = ssl.create_default_context(cafile=str(self.tls.ca_cert) if self.tls.ca_cert else None)
            if not self.tls.verify:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            if self.tls.client_cert is not None:
                context.load_cert_chain(str(self.tls.client_cert), str(self.tls.client_key))
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(f"TLS files for the engine at {self}: {error}") from error
        return context

    def make_sdk_arguments(self) -> dict[str, Any]:
        """Arguments of ``docker.APIClient`` that choose this engine.

        Raises:
            ConfigurationError: A TLS file is missing.
        """
        if self.tls is None:
            return {"base_url": self.url}
        pair = (str(self.tls.client_cert), str(self.tls.client_key)) if self.tls.client_cert else None
        try:
            tls = TLSConfig(
                client_cert=pair,
                ca_cert=str(self.tls.ca_cert) if self.tls.ca_cert else None,
                verify=self.tls.verify,
            )
        except docker.errors.TLSParameterError as error:
            raise ConfigurationError(f"TLS files for the engine at {self}: {error}") from error
        return {"base_url": f"https://{self.base_url.removeprefix('https://')}", "tls": tls}


def find_endpoint(host: str = "", environment: dict[str, str] | None = None) -> Endpoint:
    """The engine to use, as the docker CLI would choose it. Reads the docker configuration.

    Args:
        host: The provider's own setting; wins over everything.
        environment: Environment variables; None for the process's own.

    Raises:
        ConfigurationError: The choice makes no sense; the message says where it came from.
    """
    env = dict(os.environ) if environment is None else environment
    if host:
        return parse_host(host, origin="the provider's configuration", tls=_tls_from_environment(env))
    if env.get("DOCKER_HOST"):
        return parse_host(env["DOCKER_HOST"], origin="DOCKER_HOST", tls=_tls_from_environment(env))
    name, origin = env.get("DOCKER_CONTEXT", ""), "DOCKER_CONTEXT"
    if not name:
        name, origin = get_current_context_name() or "default", "the docker configuration's currentContext"
    if name == "default":
        return parse_host(DEFAULT_HOST, origin="the default", tls=None)
    return _from_context(name, origin)


def parse_host(text: str, *, origin: str, tls: TLSFiles | None) -> Endpoint:
    """An endpoint from a ``DOCKER_HOST`` text.

    Raises:
        ConfigurationError: The text is malformed or its scheme cannot be used.
    """
    if text.startswith("unix://"):
        path = text.removeprefix("unix://")
        if not path.startswith("/"):
            path = f"/{path}"
        return Endpoint(url=f"unix://{path}", origin=origin, socket_path=path)
    if text.startswith("ssh://"):
        raise ConfigurationError(
            f"the engine at {text} (from {origin}): ssh is not supported; forward its socket instead"
            " (ssh -L /tmp/docker.sock:/var/run/docker.sock HOST) and use unix:///tmp/docker.sock"
        )
    parts = urlsplit(text)
    try:
        port, malformed = parts.port, False
    except ValueError:
        port, malformed = None, True
    if malformed or parts.scheme not in ("tcp", "http", "https") or not parts.hostname or parts.path not in ("", "/"):
        raise ConfigurationError(
            f"{text!r} (from {origin}) is not an engine's address; expected unix:///path/to/docker.sock or tcp://host:port"
        )
    if parts.scheme == "https" and tls is None:
        tls = TLSFiles(None, None, None)
    return Endpoint(
        url=text,
        origin=origin,
        host=parts.hostname,
        port=port or (2376 if tls else 2375),
        tls=tls,
    )


def _tls_from_environment(env: dict[str, str]) -> TLSFiles | None:
    # As the CLI: any value of DOCKER_TLS_VERIFY switches verified TLS on; DOCKER_TLS alone switches on unverified TLS.
    verify = bool(env.get("DOCKER_TLS_VERIFY"))
    if not verify and not env.get("DOCKER_TLS"):
        return None
    directory = Path(env.get("DOCKER_CERT_PATH") or Path(env.get("HOME", "/")) / ".docker")
    cert, key = directory / "cert.pem", directory / "key.pem"
    if not (cert.exists() and key.exists()):
        cert = key = None  # type: ignore[assignment]
    ca_cert = directory / "ca.pem"
    if verify and not ca_cert.exists():
        raise ConfigurationError(f"DOCKER_TLS_VERIFY is set but {ca_cert} does not exist; set DOCKER_CERT_PATH")
    return TLSFiles(ca_cert if ca_cert.exists() else None, cert, key, verify=verify)


def _from_context(name: str, origin: str) -> Endpoint:
    try:
        context: Context | None = ContextAPI.get_context(name)
    except Exception as error:  # the SDK raises a bare Exception for a damaged file
        raise ConfigurationError(f"docker context {name!r} (from {origin}) cannot be read: {error}") from error
    if context is None or not context.Host:
        raise ConfigurationError(
            f"docker context {name!r} (from {origin}) does not exist or names no engine; see docker context ls"
        )
    tls = None
    material = context.TLSConfig
    if material is not None:
        cert, key = material.cert or (None, None)
        tls = TLSFiles(
            Path(material.ca_cert) if material.ca_cert else None,
            Path(cert) if cert else None,
            Path(key) if key else None,
            verify=bool(material.verify),
        )
    return parse_host(context.Host, origin=f"docker context {name!r}", tls=tls)
