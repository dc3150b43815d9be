"""References of images: what is valid, the default tag, and the repository that credentials are looked up for. Pure.

Source: github.com/distribution/reference; pkg/util/parsers/parsers.go, ParseImageName.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

DEFAULT_DOMAIN: Final = "docker.io"
DEFAULT_TAG: Final = "latest"
MAX_NAME_CHARS: Final = 255

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_REFERENCE = re.compile(
    rf"(?P<name>(?:{_DOMAIN}/)?{_COMPONENT}(?:/{_COMPONENT})*)"
    r"(?::(?P<tag>[\w][\w.-]{0,127}))?"
    r"(?:@(?P<digest>[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}))?",
    re.ASCII,
)
_HEX_DIGEST = re.compile(r"[a-f0-9]{64}")


@dataclass(frozen=True, slots=True)
class ImageName:
    """A reference in its parts.

    Attributes:
        repository: Full name with domain, e.g. ``docker.io/library/busybox``.
        tag: Tag; ``latest`` if the reference has neither tag nor digest, empty if it has only a digest.
        digest: Digest, or empty.
    """

    repository: str
    tag: str
    digest: str


@lru_cache(maxsize=1024)
def parse_image_name(text: str) -> ImageName:
    """Parts of a reference, with Docker's defaults filled in.

    Raises:
        ValueError: Not a reference; the message is that of the reference parser.
    """
    if _HEX_DIGEST.fullmatch(text):
        raise ValueError(
            f'couldn\'t parse image name "{text}": invalid repository name ({text}), '
            "cannot specify 64-byte hexadecimal strings"
        )
    domain, path = _split_domain(text)
    repository, separator, rest = path.partition(":")
    if "/" in rest.partition("@")[0]:
        repository, rest, separator = path, "", ""
    if not separator:
        repository = path.partition("@")[0]
    if repository.lower() != repository:
        raise ValueError(
            f'couldn\'t parse image name "{text}": invalid reference format: repository name ({repository}) must be lowercase'
        )
    match = _REFERENCE.fullmatch(f"{domain}/{path}")
    if match is None:
        raise ValueError(f'couldn\'t parse image name "{text}": invalid reference format')
    name, tag, digest = match.group("name"), match.group("tag") or "", match.group("digest") or ""
    if len(name) > MAX_NAME_CHARS:
        raise ValueError(
            f'couldn\'t parse image name "{text}": repository name must not be more than {MAX_NAME_CHARS} characters'
        )
    if not tag and not digest:
        tag = DEFAULT_TAG
    return ImageName(name, tag, digest)


def _split_domain(text: str) -> tuple[str, str]:
    first, separator, rest = text.partition("/")
    if not separator or (not any(c in first for c in ".:") and first != "localhost" and first.lower() == first):
        domain, path = DEFAULT_DOMAIN, text
    else:
        domain, path = first, rest
    if domain == "index.docker.io":
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in path:
        path = f"library/{path}"
    return domain, path


def apply_default_tag(text: str) -> str:
    """The reference as written, with ``:latest`` if it has neither tag nor digest.

    Raises:
        ValueError: Not a reference.
    """
    name = parse_image_name(text)
    if not name.digest and name.tag and not text.endswith(f":{name.tag}"):
        return f"{text}:{name.tag}"
    return text
