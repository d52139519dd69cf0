"""Images fetched from the hosts that the settings allow, and from no address of this network.

Invariants: every hop of a redirect must be HTTPS to an allowed host; a host name is looked up once for each connection,
every address it has must be public, and the connection goes to one that was checked, so that a name which changes its
address in between ("DNS rebinding") gains nothing. TLS proves the host's name. No proxy of the environment is used.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import httpcore
import httpx

from dermo_ray.config.safety import SafetySettings
from serve.safety.errors import Refused

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""The addresses of a host for a port."""

_MAX_REDIRECTS = 3
_MAX_CONNECTIONS = 16
_MAX_URL = 2048
_HTTPS_PORT = 443
_REDIRECTS = (301, 302, 303, 307, 308)
_HEADERS = [(b"User-Agent", b"dermo-ray"), (b"Accept", b"image/*"), (b"Accept-Encoding", b"identity")]

_DISGUISES = tuple(
    ipaddress.ip_network(network)
    for network in ("::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "::/96", "fec0::/10")
)
"""Prefixes of IPv6 that lead to an IPv4 address inside (mapped, NAT64, 6to4, Teredo, compatible), or are site-local."""


def is_public(address: str) -> bool:
    """Whether an IP address is one of the open internet."""
    ip = ipaddress.ip_address(address)
    disguised = ip.version == 6 and any(ip in network for network in _DISGUISES)
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or disguised)


async def resolve(host: str, port: int) -> list[str]:
    """All addresses of `host`, as the system's resolver gives them."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


class _CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Connects to checked addresses alone."""

    def __init__(self, network: httpcore.AsyncNetworkBackend, look_up: Resolve) -> None:
        self._network = network
        self._look_up = look_up

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = await self._look_up(host, port)
        if not addresses or not all(is_public(address) for address in addresses):
            raise _forbidden(f"The host {host} has no public address.")
        return await self._network.connect_tcp(addresses[0], port, timeout, local_address, socket_options)

    async def sleep(self, seconds: float) -> None:
        await self._network.sleep(seconds)


class RemoteImages:
    """Fetches what may be fetched. `network` and `look_up` are the system's unless given."""

    def __init__(
        self,
        settings: SafetySettings,
        network: httpcore.AsyncNetworkBackend | None = None,
        look_up: Resolve = resolve,
    ) -> None:
        self._settings = settings
        checked = _CheckedNetwork(network or httpcore.AnyIOBackend(), look_up)
        self._pool = httpcore.AsyncConnectionPool(max_connections=_MAX_CONNECTIONS, network_backend=checked)

    async def fetch(self, url: str, param: str) -> bytes:
        """The bytes behind `url`. Raises `Refused` (400) where it may not be fetched, or can't be."""
        try:
            async with asyncio.timeout(self._settings.fetch_timeout):
                target = self._allowed(url)
                for _ in range(_MAX_REDIRECTS + 1):
                    content, moved = await self._get(target)
                    if moved is None:
                        return content
                    target = self._allowed(moved, target)
            raise _failed("it is redirected too often")
        except Refused as refused:
            refused.param = param
            raise
        except TimeoutError:
            raise _failed(f"it took longer than {self._settings.fetch_timeout:g} s", param) from None
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, OSError):
            raise _failed("its host can't be reached", param) from None

    async def close(self) -> None:
        """Close the connections."""
        await self._pool.aclose()

    def _allowed(self, url: str, base: httpx.URL | None = None) -> httpx.URL:
        """The address, perhaps relative to `base`, if its scheme, host and port are allowed.

        What is checked here is what is connected to: it is not parsed again.
        """
        hosts = self._settings.allowed_hosts
        if not hosts:
            raise _forbidden("Send images as data URIs: nothing is fetched here.")
        try:
            address = url if len(url) <= _MAX_URL else ""
            target = httpx.URL(address) if base is None else base.join(address)
        except (httpx.InvalidURL, ValueError):
            raise _forbidden("The address is malformed.") from None
        if target.scheme != "https" or target.userinfo:
            raise _forbidden("Images are fetched over https:// alone, without a user name.")
        port = target.port or _HTTPS_PORT
        host = target.raw_host.decode("ascii")
        if f"{host}:{port}" not in hosts and not (host in hosts and port == _HTTPS_PORT):
            raise _forbidden("Images are not fetched from this host. Send the image as a data URI.")
        return target

    async def _get(self, target: httpx.URL) -> tuple[bytes, str | None]:
        """The content at `target`, or where it has moved to."""
        port = target.port or _HTTPS_PORT
        url = httpcore.URL(scheme=b"https", host=target.raw_host, port=port, target=target.raw_path)
        host = target.raw_host if port == _HTTPS_PORT else target.raw_host + b":%d" % port
        timeouts = dict.fromkeys(("connect", "read", "write", "pool"), self._settings.fetch_timeout)
        async with self._pool.stream(
            "GET", url, headers=[(b"Host", host), *_HEADERS], extensions={"timeout": timeouts}
        ) as response:
            if response.status in _REDIRECTS:
                headers = {name.lower(): value for name, value in response.headers}
                return b"", headers.get(b"location", b"").decode("latin-1")
            if response.status != 200:
                raise _failed(f"its host answers with status {response.status}")
            content = bytearray()
            async for chunk in response.aiter_stream():
                content += chunk
                if len(content) > self._settings.max_body_bytes:
                    raise _failed(f"it is larger than {self._settings.max_body_mib:g} MiB")
            return bytes(content), None


def _forbidden(message: str) -> Refused:
    return Refused(400, message, code="image_url_not_allowed")


def _failed(reason: str, param: str | None = None) -> Refused:
    return Refused(400, f"The image can't be fetched: {reason}.", code="image_fetch_failed", param=param)
