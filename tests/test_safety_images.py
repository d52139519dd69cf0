"""Images: what is taken, what is refused and why, and what is fetched from elsewhere."""

import asyncio
import base64
import ssl
from collections.abc import Callable, Coroutine
from io import BytesIO
from typing import Any

import httpcore
import numpy as np
import pytest
from malformed import GOOD, bad_files, encoded, noise, uri
from PIL import Image

from dermo_ray.config.safety import SafetySettings
from serve.safety import images as module
from serve.safety.errors import Refused
from serve.safety.images import Images
from serve.safety.remote import RemoteImages, is_public

FILES = bad_files()
HOST = "images.example.org"
PUBLIC = "93.184.215.14"
SETTINGS = SafetySettings(allowed_hosts=(HOST,))


def opened(url: str, settings: SafetySettings | None = None) -> Image.Image:
    return asyncio.run(Images(settings or SafetySettings()).open(url, "the place"))


def refusal(url: str, settings: SafetySettings | None = None) -> Refused:
    with pytest.raises(Refused) as caught:
        opened(url, settings)
    assert caught.value.status == 400
    assert caught.value.param == "the place"
    return caught.value


KINDS = [
    *(("PNG", mode) for mode in ("RGB", "RGBA", "L", "LA", "P", "1")),
    *(("JPEG", mode) for mode in ("RGB", "L", "CMYK")),
    *(("WEBP", mode) for mode in ("RGB", "RGBA")),
]


@pytest.mark.parametrize(("kind", "mode"), KINDS)
def test_a_still_picture_is_opened_in_rgb(kind: str, mode: str):
    data = encoded(noise().convert(mode), kind, progressive=True)
    image = opened(uri(data, f"image/{kind.lower()}"))
    assert (image.mode, image.size) == ("RGB", (64, 64))


def test_pixels_are_those_that_were_sent():
    assert np.array_equal(np.asarray(opened(GOOD)), np.asarray(noise()))


def test_what_is_transparent_is_white_as_in_training():
    sent = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    sent.paste((0, 0, 255, 255), (0, 0, 16, 32))
    for mode in ("RGBA", "P", "LA"):
        image = opened(uri(encoded(sent.convert(mode))))
        assert image.getpixel((24, 5)) == (255, 255, 255)
        assert image.getpixel((5, 5)) != (255, 255, 255)


def test_a_type_that_does_not_fit_the_picture_is_forgiven():
    assert opened(uri(encoded(noise()), "image/jpeg")).size == (64, 64)


def test_a_telephones_picture_is_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    sent = encoded(noise(80, 40), "JPEG", exif=exif)
    assert opened(uri(sent)).size == (40, 80)


def test_a_telephones_jpeg_with_a_second_picture_in_it_is_taken():
    sent = encoded(noise(), "MPO", save_all=True, append_images=[noise(seed=1)])
    assert np.array_equal(np.asarray(opened(uri(sent))), np.asarray(opened(uri(encoded(noise(), "JPEG")))))


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("empty", "empty_image"),
        ("gif", "unsupported_image_format"),
        ("svg", "unsupported_image_format"),
        ("postscript", "unsupported_image_format"),
        ("animated png", "animated_image"),
        ("animated webp", "animated_image"),
        ("10,000 x 1", "image_too_small"),
        ("10,000 x 16", "image_too_narrow"),
        ("900 megapixels in a small png", "image_too_large"),
        ("the largest png there can be", "image_too_large"),
        ("the largest jpeg there can be", "image_too_large"),
        ("60 megapixels", "image_too_large"),
        ("a png with 16 bits of grey", "unsupported_image_depth"),
        ("a compressed text of 100 MiB", "damaged_image"),
        ("a jpeg of 2,000 scans", "unsupported_image_format"),
        ("jpeg cut at 90 %", "damaged_image"),
        ("png cut at 60 %", "damaged_image"),
    ],
)
def test_a_refusal_says_what_is_wrong(name: str, code: str):
    assert refusal(uri(FILES[name])).code == code


def test_a_picture_that_announces_too_much_is_not_decoded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_pixels", lambda image, param: pytest.fail("decoded"))
    refusal(uri(FILES["900 megapixels in a small png"]))


def test_no_format_but_the_three_is_even_tried(monkeypatch: pytest.MonkeyPatch):
    tried: list[Any] = []
    real = Image.open
    monkeypatch.setattr(Image, "open", lambda file, **options: tried.append(options) or real(file, **options))
    refusal(uri(FILES["postscript"]))
    assert tried == [{"formats": ("JPEG", "PNG", "WEBP")}]


def chat(*urls: str) -> dict[str, Any]:
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"model": "dermo", "messages": [{"role": "user", "content": [part]} for part in parts]}


def test_the_pictures_of_a_chat_come_in_order_and_the_request_stays_as_it_was():
    red, blue = (uri(encoded(Image.new("RGB", (32, 32), colour))) for colour in ("red", "blue"))
    body = chat(red, blue)
    images = asyncio.run(Images(SafetySettings()).check_messages(body))
    assert [image.getpixel((0, 0)) for image in images] == [(255, 0, 0), (0, 0, 255)]
    assert body == chat(red, blue)


def test_an_address_may_stand_without_an_object_around_it():
    body = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": GOOD}]}]}
    assert len(asyncio.run(Images(SafetySettings()).check_messages(body))) == 1


@pytest.mark.parametrize(
    ("settings", "code"),
    [({"max_images": 2}, "too_many_images"), ({"max_pixels": 3 * 64 * 64 - 1}, "image_too_large")],
)
def test_limits_hold_for_all_pictures_of_a_request_together(settings: dict[str, int], code: str):
    with pytest.raises(Refused) as caught:
        asyncio.run(Images(SafetySettings(**settings)).check_messages(chat(GOOD, GOOD, GOOD)))
    assert caught.value.code == code


def test_the_refusal_names_the_place_of_the_picture():
    with pytest.raises(Refused) as caught:
        asyncio.run(Images(SafetySettings()).check_messages(chat(GOOD, uri(b"GIF89a"))))
    assert caught.value.param == "messages[1].content[0]"


# --- from elsewhere ---------------------------------------------------------------------------------------------------


class Network(httpcore.AsyncNetworkBackend):
    """A network in which every host answers what it is told to; notes which address was connected to."""

    def __init__(self, *responses: bytes) -> None:
        self.responses = list(responses)
        self.connected: list[tuple[str, int]] = []
        self.certified: list[str | None] = []

    async def connect_tcp(self, host: str, port: int, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        self.connected.append((host, port))
        return Stream(self, [self.responses.pop(0)])

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Stream(httpcore.AsyncMockStream):
    def __init__(self, network: Network, buffer: list[bytes]) -> None:
        super().__init__(buffer)
        self.network = network

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        self.network.certified.append(server_hostname)
        return self


def found(content: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    return head.encode() + content


def moved(where: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nLocation: {where}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()


def looked_up(*answers: list[str]) -> Callable[[str, int], Coroutine[Any, Any, list[str]]]:
    """A resolver that gives these addresses, one answer after the other, the last one for ever."""
    left = list(answers)

    async def look_up(host: str, port: int) -> list[str]:
        return left.pop(0) if len(left) > 1 else left[0]

    return look_up


def fetch(
    network: Network,
    url: str = f"https://{HOST}/x.png",
    *answers: list[str],
    settings: SafetySettings = SETTINGS,
) -> bytes:
    async def run() -> bytes:
        remote = RemoteImages(settings, network, looked_up(*(answers or ([PUBLIC],))))
        try:
            return await remote.fetch(url, "image")
        finally:
            await remote.close()

    return asyncio.run(run())


def test_an_image_of_an_allowed_host_is_fetched_from_the_checked_address():
    network = Network(found(b"pixels"))
    assert fetch(network) == b"pixels"
    assert (network.connected, network.certified) == ([(PUBLIC, 443)], [HOST])


def test_an_image_from_elsewhere_becomes_a_data_uri():
    sent = encoded(noise())
    body = chat(f"https://{HOST}/x.png")
    remote = RemoteImages(SETTINGS, Network(found(sent)), looked_up([PUBLIC]))
    (image,) = asyncio.run(Images(SETTINGS, remote).check_messages(body))
    url = body["messages"][0]["content"][0]["image_url"]["url"]
    kind, _, text = url.partition(",")
    assert kind == "data:image/png;base64"
    assert np.array_equal(np.asarray(Image.open(BytesIO(base64.b64decode(text)))), np.asarray(image))


@pytest.mark.parametrize(
    "url",
    [
        f"http://{HOST}/x.png",
        f"https://{HOST}:8443/x.png",
        f"https://{HOST}.example.com/x.png",
        f"https://evil.{HOST}/x.png",
        f"https://{HOST}@example.com/x.png",
        f"https://user@{HOST}/x.png",
        f"https://example.com/{HOST}",
        f"https://example.com#@{HOST}/",
        f"https://example.com\\@{HOST}/",
        f"//{HOST}/x.png",
        f"ftp://{HOST}/x.png",
        "file:///etc/passwd",
        "https://127.0.0.1/x.png",
        "https://[::1]/x.png",
        "https://",
        "nonsense",
        "https://" + "a" * 5000,
    ],
)
def test_what_is_not_allowed_is_not_even_looked_up(url: str):
    network = Network()
    with pytest.raises(Refused) as caught:
        fetch(network, url)
    assert (caught.value.code, network.connected) == ("image_url_not_allowed", [])


def test_nothing_is_fetched_by_default():
    with pytest.raises(Refused, match="data URIs"):
        fetch(Network(), settings=SafetySettings())


PRIVATE = [
    "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
    "255.255.255.255", "192.0.2.1", "198.18.0.1", "240.0.0.1", "::1", "::", "fe80::1", "fc00::1", "fec0::1", "ff02::1",
    "2001:db8::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "64:ff9b::a00:1", "2002:7f00:1::", "2001::1", "::10.0.0.1",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_an_allowed_host_with_an_address_of_this_network_is_not_connected_to(address: str):
    network = Network(found(b"secret"))
    with pytest.raises(Refused, match="no public address"):
        fetch(network, f"https://{HOST}/x.png", [PUBLIC, address])
    assert network.connected == []


@pytest.mark.parametrize("address", [PUBLIC, "8.8.8.8", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"])
def test_addresses_of_the_open_internet_are_public(address: str):
    assert is_public(address)


def test_a_name_that_changes_its_address_between_check_and_connection_gains_nothing():
    network = Network(found(b"pixels"))
    assert fetch(network, f"https://{HOST}/x.png", [PUBLIC], ["127.0.0.1"]) == b"pixels"
    assert network.connected == [(PUBLIC, 443)]


def test_a_redirect_within_the_allowed_hosts_is_followed():
    network = Network(moved("/y.png"), moved(f"https://{HOST}/z.png"), found(b"pixels"))
    assert fetch(network) == b"pixels"


WHERE = ["https://example.com/", "http://127.0.0.1/", f"http://{HOST}/", "file:///x", "//example.com/x", "https://["]


@pytest.mark.parametrize("where", WHERE)
def test_a_redirect_to_anywhere_else_is_not(where: str):
    network = Network(moved(where), found(b"secret"))
    with pytest.raises(Refused) as caught:
        fetch(network)
    assert (caught.value.code, len(network.connected)) == ("image_url_not_allowed", 1)


def test_a_redirect_to_an_allowed_name_with_a_private_address_is_not():
    network = Network(moved(f"https://{HOST}/y.png"), found(b"secret"))
    with pytest.raises(Refused, match="no public address"):
        fetch(network, f"https://{HOST}/x.png", [PUBLIC], ["10.0.0.1"])
    assert len(network.connected) == 1


def test_redirects_end():
    with pytest.raises(Refused, match="too often"):
        fetch(Network(*[moved("/again")] * 9))


def test_a_port_that_is_listed_may_be_asked():
    network = Network(found(b"pixels"))
    settings = SafetySettings(allowed_hosts=(f"{HOST}:8443",))
    assert fetch(network, f"https://{HOST}:8443/x.png", settings=settings) == b"pixels"
    with pytest.raises(Refused):
        fetch(network, f"https://{HOST}/x.png", settings=settings)


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "status 404"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "reached"),
        (b"", "reached"),
        (found(bytes(2**20 + 1)), "larger than 1 MiB"),
    ],
)
def test_a_host_that_misbehaves_is_a_refusal(response: bytes, reason: str):
    with pytest.raises(Refused, match=reason) as caught:
        fetch(Network(response), settings=SafetySettings(allowed_hosts=(HOST,), max_body_mib=1))
    assert (caught.value.code, caught.value.param) == ("image_fetch_failed", "image")


def test_a_host_that_never_answers_is_given_up():
    async def never(host: str, port: int) -> list[str]:
        await asyncio.sleep(60)
        return []

    settings = SafetySettings(allowed_hosts=(HOST,), fetch_timeout=0.05)
    with pytest.raises(Refused, match="longer than"):
        asyncio.run(RemoteImages(settings, Network(), never).fetch(f"https://{HOST}/x.png", "image"))


@pytest.mark.parametrize("host", ["https://example.org", "example.org/x", "*.example.org", "", "exa mple.org", "a:b"])
def test_an_allowed_host_is_a_bare_name(host: str):
    with pytest.raises(ValueError, match="host name"):
        SafetySettings(allowed_hosts=(host,))
