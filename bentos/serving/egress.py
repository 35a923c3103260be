"""How this machine reaches a package index or a registry, as it tells its own tools: certificate authorities, index, proxy.
Standard library only.

The variables are those of OpenSSL and uv (SSL_CERT_FILE, UV_DEFAULT_INDEX), pip (PIP_CERT, PIP_INDEX_URL, pip.conf), requests
and MLflow (REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE, MLFLOW_TRACKING_SERVER_CERT_PATH), and the usual ones of a proxy.
"""

from __future__ import annotations

import configparser
import hashlib
import os
import ssl
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

AUTHORITIES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
INDEXES = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL")
PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY")
UNKNOWN_ISSUER = ("CERTIFICATE_VERIFY_FAILED", "UnknownIssuer", "invalid peer certificate")
"""What pip, Python and uv say of a server whose authority they do not know."""

HINT = (
    "The certificate is of an authority that is not known here: set SSL_CERT_FILE (or PIP_CERT, REQUESTS_CA_BUNDLE) to a"
    " PEM file that has it."
)


def authority_files(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """The files of certificate authorities that *environ* and pip.conf name, each once."""
    named = [environ.get(name, "") for name in AUTHORITIES] + [_pip_conf(environ).get("cert", "")]
    return tuple(dict.fromkeys(Path(name).expanduser() for name in named if name and not Path(name).is_dir()))


def joined(files: Iterable[Path]) -> bytes:
    """The authorities of all *files*; equal files count once. Raises OSError."""
    contents = {hashlib.sha256(data).digest(): data for data in (path.read_bytes() for path in files)}
    return b"\n".join(contents.values())


def index_url(environ: Mapping[str, str]) -> str | None:
    """The package index that *environ* or pip.conf names."""
    named = [environ.get(name, "") for name in INDEXES] + [_pip_conf(environ).get("index-url", "")]
    return next((url for url in named if url), None)


def proxies(environ: Mapping[str, str]) -> dict[str, str]:
    """The proxy variables of *environ*, by their names in capitals."""
    said = {name: environ.get(name.lower()) or environ.get(name) or "" for name in PROXIES}
    return {name: value for name, value in said.items() if value}


def for_uv(environ: Mapping[str, str]) -> dict[str, str]:
    """What uv must be told beside *environ*: what only pip and others are told there."""
    told = {}
    files = authority_files(environ)
    if files and not environ.get("SSL_CERT_FILE"):
        told["SSL_CERT_FILE"] = str(files[0])
    url = index_url(environ)
    if url is not None and not any(environ.get(name) for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL")):
        told["UV_DEFAULT_INDEX"] = url
    return told


def tls(environ: Mapping[str, str]) -> ssl.SSLContext:
    """What a client of MLflow trusts: what Python does, and the bundle that MLflow's own client takes. Raises OSError for a
    bundle that cannot be read."""
    context = ssl.create_default_context()
    names = ("MLFLOW_TRACKING_SERVER_CERT_PATH", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
    known = ssl.get_default_verify_paths().cafile
    for bundle in dict.fromkeys(environ[name] for name in names if environ.get(name) not in (None, "", known)):
        try:
            where = {"capath": bundle} if Path(bundle).is_dir() else {"cafile": bundle}
            context.load_verify_locations(**where)
        except (OSError, ssl.SSLError) as error:
            raise OSError(f"certificate authorities {bundle}: {error}") from error
    return context


def _pip_conf(environ: Mapping[str, str]) -> dict[str, str]:
    """What pip's configuration files say for every command and for installs, the last said first."""
    named = environ.get("PIP_CONFIG_FILE", "")
    if named == os.devnull:
        return {}
    home = environ.get("HOME", "")
    config = environ.get("XDG_CONFIG_HOME", "") or (f"{home}/.config" if home else "")
    shared = (environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(os.pathsep)
    files = [*(f"{folder}/pip/pip.conf" for folder in shared), "/etc/pip.conf"]
    files += [f"{home}/.pip/pip.conf"] if home else []
    files += [f"{config}/pip/pip.conf"] if config else []
    files += [f"{sys.prefix}/pip.conf", *([named] if named else [])]
    parser = configparser.RawConfigParser()
    try:
        parser.read(files, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError, OSError):
        return {}  # pip says what is wrong with it
    found: dict[str, str] = {}
    for section in ("global", "install"):
        if parser.has_section(section):
            found |= dict(parser.items(section))
    return found
