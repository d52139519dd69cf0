"""Settings that guard the served model against what is sent to it."""

import ipaddress
import re

from pydantic import Field, field_validator

from dermo_ray.config.base import AbsolutePath, Settings

_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?")


class SafetySettings(Settings):
    """Who may ask, how much, and which images are looked at."""

    keys_file: AbsolutePath | None = None
    """Keys that requests must carry, as `jobs.keys` writes them; without it every request is let in, which only a
    service on a loopback address may do."""
    requests_per_minute: int | None = Field(default=600, ge=1)
    """Requests that each key may make in a minute; null sets no limit. Requests without keys have none either."""
    burst: int = Field(default=60, ge=1)
    """Requests that a key may make at once after a pause."""
    max_body_mib: float = Field(default=32, gt=0)
    """Largest request body, in MiB; an image grows by a third in a data URI."""
    body_timeout: float = Field(default=30, gt=0)
    """Seconds within which a request's body must have arrived."""
    request_timeout: float = Field(default=600, gt=0)
    """Seconds within which an answer must be complete, its stream included."""
    max_images: int = Field(default=8, ge=1)
    """Images in one request."""
    max_pixels: int = Field(default=50_000_000, ge=1)
    """Pixels that the images of one request may announce together; more are refused before they are decoded."""
    min_side: int = Field(default=16, ge=1)
    """Shortest side of an image, in pixels."""
    max_aspect_ratio: float = Field(default=20, ge=1)
    """Longer side over shorter side."""
    allowed_hosts: tuple[str, ...] = ()
    """Hosts that images may be fetched from over HTTPS, such as images.example.org or images.example.org:8443, each by
    its exact name; none by default: images come as data URIs. Private addresses are never asked."""
    fetch_timeout: float = Field(default=10, gt=0)
    """Seconds within which a remote image must have been fetched, redirects included."""
    log_content: bool = False
    """Write what is asked, texts and images' hashes, to the log; for debugging with data that may be kept."""

    @field_validator("allowed_hosts")
    @classmethod
    def _are_host_names(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        lowered = tuple(host.lower() for host in hosts)
        for host in lowered:
            if not _HOST.fullmatch(host):
                raise ValueError(f"{host!r} is no host name: write it bare, without https:// and without a path")
        return lowered

    @property
    def max_body_bytes(self) -> int:
        """The largest request body, and the largest remote image."""
        return int(self.max_body_mib * 2**20)


def require_keys(host: str, settings: SafetySettings) -> None:
    """Raise `ValueError` where other machines could reach `host` and no keys are asked for."""
    if settings.keys_file is None and not is_loopback(host):
        raise ValueError(
            f"host {host} can be reached from other machines: set safety.keys_file (`python -m jobs.keys` makes one), "
            "or listen on 127.0.0.1"
        )


def is_loopback(host: str) -> bool:
    """Whether `host`, a name or an address (in brackets or not), means this machine alone."""
    name = host.strip("[]").lower()
    if name == "localhost":
        return True
    try:
        address = ipaddress.ip_address(name)
        mapped = address.ipv4_mapped if address.version == 6 else None  # a socket for both families names IPv4 so
        return (mapped or address).is_loopback
    except ValueError:
        return False
