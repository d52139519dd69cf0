"""Malformed requests, the same every time: bad images of every kind, bad bodies, bad chats, bad headers.

`requests` makes them for the served model's name; `throw` sends them through any client and finds what was answered
otherwise than with a 4xx status in OpenAI's shape.
"""

import base64
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
from PIL import Image

DIAGNOSE = "/v1/diagnose"
CHAT = "/v1/chat/completions"
CONTENT_TYPES = (
    "", "text/plain", "text/html", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
    "application/jsonp", "application/xml", "image/png", "*/*",
)  # fmt: skip
NO_PATHS = (
    "/v1", "/v1/", "/v2/diagnose", "/v1/diagnose/../../etc/passwd", "/page/../__init__.py", "/page/%2e%2e/__init__.py",
    "/page/index.html", "/.git/config", "/v1/diagnose%00",
)  # fmt: skip


@dataclass(frozen=True)
class Malformed:
    """A request that must be refused."""

    name: str
    path: str
    content: bytes
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    method: str = "POST"


def noise(width: int = 64, height: int = 64, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def uri(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


GOOD = uri(encoded(noise()))


def png(width: int, height: int, bits: int = 8, colour: int = 2, extra: bytes = b"", data: bytes = bytes(64)) -> bytes:
    """A PNG that announces what it is told to, whatever it holds."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def jpeg_that_announces(width: int, height: int) -> bytes:
    data = bytearray(encoded(noise(), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def bad_files() -> dict[str, bytes]:
    """Files that are no still picture of a size that is taken."""
    frames = [noise(seed=seed) for seed in range(3)]
    bomb = zlib.compress(bytes(100 * 2**20))
    flat = zlib.compress(bytes(64))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("image.png", encoded(noise()))
    scans = encoded(noise(), "JPEG", progressive=True)
    start = scans.index(b"\xff\xda")
    files = {
        "empty": b"",
        "one byte": b"\xff",
        "zeros": bytes(1000),
        "random": np.random.default_rng(1).bytes(5000),
        "text": b"this is no image",
        "html": b"<!doctype html><html><script>alert(1)</script></html>",
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"/>',
        "svg with an entity": b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><svg>&a;</svg>',
        "pdf": b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n%%EOF",
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n(/etc/passwd) (r) file\n%%EOF",
        "zip": archive.getvalue(),
        "gzip": b"\x1f\x8b\x08\0\0\0\0\0\0\x03" + bytes(40),
        "executable": b"\x7fELF\x02\x01\x01" + bytes(100),
        "video": b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(100),
        "heic": b"\0\0\0\x18ftypheic\0\0\0\0heicmif1" + bytes(100),
        "numpy": b"\x93NUMPY\x01\0" + bytes(100),
        "pickle": b"\x80\x04\x95\x0f\0\0\0\0\0\0\0\x8c\x02os\x8c\x06system\x93.",
        "photoshop": b"8BPS\0\x01" + bytes(100),
        "dicom": bytes(128) + b"DICM" + bytes(100),
        "gif": encoded(noise(), "GIF"),
        "bmp": encoded(noise(), "BMP"),
        "tiff": encoded(noise(), "TIFF"),
        "ico": encoded(noise(), "ICO"),
        "ppm": encoded(noise(), "PPM"),
        "tga": encoded(noise(), "TGA"),
        "jpeg 2000": encoded(noise(), "JPEG2000"),
        "animated gif": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "animated png": encoded(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        "animated webp": encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True),
        "10,000 x 1": encoded(Image.new("RGB", (10_000, 1))),
        "1 x 10,000": encoded(Image.new("RGB", (1, 10_000))),
        "10,000 x 16": encoded(Image.new("RGB", (10_000, 16))),
        "16 x 10,000 jpeg": encoded(Image.new("RGB", (16, 10_000)), "JPEG"),
        "1 x 1": encoded(Image.new("RGB", (1, 1))),
        "15 x 15": encoded(noise(15, 15)),
        "1 x 1 webp": encoded(Image.new("RGB", (1, 1)), "WEBP"),
        "no width": png(0, 64),
        "no size": png(0, 0),
        "900 megapixels in a small png": png(30_000, 30_000, data=bytes(2**20)),
        "the largest png there can be": png(2**31 - 1, 2**31 - 1),
        "beyond the largest png": png(2**32 - 1, 2**32 - 1),
        "the largest jpeg there can be": jpeg_that_announces(65_500, 65_500),
        "60 megapixels": png(7_800, 7_800),
        "a png with 16 bits of grey": encoded(Image.fromarray(np.zeros((64, 64), np.uint16))),
        "a compressed text of 100 MiB": png(64, 64, extra=chunk(b"zTXt", b"comment\0\0" + bomb)),
        "an international text of 100 MiB": png(64, 64, extra=chunk(b"iTXt", b"c\0\x01\0\0\0" + bomb)),
        "a colour profile of 100 MiB": png(64, 64, extra=chunk(b"iCCP", b"profile\0\0" + bomb)),
        "pixels that are missing": png(64, 64),
        "pixels that are no zlib stream": png(64, 64).replace(flat, b"\1" * len(flat)),
        "a png without pixels": b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0)),
        "an unknown colour type": png(64, 64, colour=5),
        "an unknown depth": png(64, 64, bits=3),
        "a jpeg of 2,000 scans": scans[:start] + scans[start:-2] * 200 + scans[-2:],
        "a jpeg without tables": b"\xff\xd8\xff\xda\0\x0c\x03\x01\0\x02\x11\x03\x11\0\x3f\0" + bytes(100) + b"\xff\xd9",
    }  # fmt: skip
    kinds: dict[str, dict[str, Any]] = {"png": {}, "jpeg": {}, "webp": {"lossless": True}}
    wholes = {kind: encoded(noise(), kind.upper(), **options) for kind, options in kinds.items()}
    for kind, whole in wholes.items():
        for percent in (1, 5, 20, 40, 60, 80, 90):
            files[f"{kind} cut at {percent} %"] = whole[: len(whole) * percent // 100]
    return files


def bad_addresses() -> dict[str, Any]:
    """What stands where a data URI should."""
    text = base64.b64encode(encoded(noise())).decode()
    uris = {
        "empty": "",
        "a path": "/etc/passwd",
        "a relative path": "../../etc/passwd",
        "bare base64": text,
        "a scheme alone": "data:",
        "no comma": f"data:image/png;base64{text}",
        "no base64": "data:image/png,abc",
        "a type alone": "data:image/png;base64,",
        "no type": f"data:;base64,{text}",
        "upper case": f"DATA:image/png;base64,{text}",
        "a parameter": f"data:image/png;charset=utf-8;base64,{text}",
        "another encoding": f"data:image/png;base32,{text}",
        "percent-encoded": f"data:image/png;base64,{text.replace('=', '%3D').replace('+', '%2B')}%",
        "url-safe": f"data:image/png;base64,{text[:-4]}-_-_",
        "no padding": f"data:image/png;base64,{text[:-5]}",
        "white space": f"data:image/png;base64,{text[:40]} {text[40:]}",
        "lines": f"data:image/png;base64,{text[:76]}\n{text[76:]}",
        "a null": f"data:image/png;base64,{text[:40]}\0{text[40:]}",
        "letters that are not ASCII": f"data:image/png;base64,{text[:40]}é漢{text[40:]}",
        "padding in the middle": f"data:image/png;base64,{text[:40]}={text[41:]}",
        "a uri in a uri": f"data:image/png;base64,data:image/png;base64,{text}",
        "white space before": f" data:image/png;base64,{text}",
        **{f"the type {kind}": f"data:{kind};base64,{text}" for kind in (
            "text/html", "image/svg+xml", "image/gif", "image/tiff", "image/*", "application/octet-stream",
            "application/pdf", "video/mp4", "video/jpeg", "audio/wav", "image/heic", "image/png/x", "IMAGE/PNG",
        )},
        **{f"the address {url}": url for url in (
            "http://example.org/x.png", "https://example.org/x.png", "http://127.0.0.1/x.png",
            "https://127.0.0.1:8000/",
            "https://localhost/x.png", "https://[::1]/x.png", "https://0.0.0.0/x.png", "https://0x7f.1/x.png",
            "https://2130706433/x.png", "https://169.254.169.254/latest/meta-data/", "https://[::ffff:10.0.0.1]/x.png",
            "https://user:password@example.org/x.png", "file:///etc/passwd", "ftp://example.org/x.png",
            "gopher://127.0.0.1:6379/_x", "javascript:alert(1)", "blob:https://example.org/1", "//example.org/x.png",
            "https:///x.png", "https://", "https://exa mple.org/", "https://example.org:99999/", "https://[/x.png",
            "https://\u0000/", "https://xn--/", f"https://example.org/{'a' * 10_000}",
        )},
    }  # fmt: skip
    others = {"null": None, "a number": 7, "a list": [GOOD], "an object": {"url": GOOD}, "true": True}
    return uris | others


def raw_bodies() -> dict[str, bytes]:
    """Bodies that are no JSON object that can be read and held."""
    return {
        "nothing": b"",
        "white space": b"  \n ",
        "half an object": b'{"model": "dermo", "messages": [',
        "no quotes": b"{model: dermo}",
        "single quotes": b"{'model': 'dermo'}",
        "a comment": b'{"model": "dermo" /* why */}',
        "two objects": b"{}{}",
        "a list": b"[]",
        "text": b'"dermo"',
        "a number": b"7",
        "null": b"null",
        "true": b"true",
        "not UTF-8": b'{"model": "\xff\xfe"}',
        "UTF-16": '{"model": "dermo"}'.encode("utf-16"),
        "a byte order mark": b"\xef\xbb\xbf{}",
        "a null byte": b'{"model": "der\0mo"}',
        "half a surrogate pair": b'{"model": "dermo", "messages": [{"role": "user", "content": "\\ud800"}]}',
        "half a surrogate pair as a key": b'{"\\udfff": 1}',
        "not a number": b'{"model": "dermo", "temperature": NaN}',
        "infinity": b'{"model": "dermo", "temperature": Infinity}',
        "a number beyond floats": b'{"model": "dermo", "temperature": 1e999}',
        "an integer beyond 64 bits": b'{"model": "dermo", "seed": 100000000000000000000}',
        "an integer of 5,000 digits": b'{"seed": ' + b"9" * 5000 + b"}",
        "lists 100 deep": b'{"messages": ' + b"[" * 100 + b"]" * 100 + b"}",
        "lists 100,000 deep": b"[" * 100_000 + b"]" * 100_000,
        "objects 100,000 deep": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        "a form": b"model=dermo&messages=x",
        "multipart": b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\nabc\r\n--x--',
        "compressed": zlib.compress(b'{"model": "dermo"}'),
        "xml": b"<?xml version='1.0'?><a/>",
        "yaml": b"model: dermo",
        "random": np.random.default_rng(2).bytes(3000),
    }


def bad_diagnoses() -> dict[str, dict[str, Any]]:
    """Changes that make a good request for a diagnosis a bad one; `...` takes a field away."""
    changes: dict[str, dict[str, Any]] = {}
    wrong: dict[str, tuple[Any, ...]] = {
        "image": (...,),
        "modality": (..., None, 0, "", "xray", "Clinical", ["clinical"], {}, "clinical\0", "d" * 10_000),
        "model": (0, "", ["dermo"], {}, "gpt-4o", "dermo@", "dermo@step_999999", "dermo@../../etc",
            "dermo+cct+cct", "m" * 10_000, "dermo\n", "dermo+CCT"),
        "stream": ("perhaps", 2, [], {}),
        "max_tokens": (0, -1, 1.5, "many", [], 10**18, -(2**63)),
        "seed": (-1, 1.5, "one", [], {}),
        "view_images": ("perhaps", 2, []),
        "cct": ("perhaps", 2, [], "yes please"),
        "unknown": (1, None),
        "Image": (GOOD,),
        "__class__": ("x",),
        "": (1,),
    }  # fmt: skip
    for name, values in wrong.items():
        for number, value in enumerate(values):
            changes[f"{name or 'a field without a name'} {number}"] = {name: value}
    return changes


def bad_messages() -> dict[str, Any]:
    """What stands where the messages of a chat should."""
    text = {"type": "text", "text": "What is this?"}
    image = {"type": "image_url", "image_url": {"url": GOOD}}

    def user(*parts: Any) -> list[Any]:
        return [{"role": "user", "content": list(parts)}]

    return {
        "missing": ...,
        "null": None,
        "none": [],
        "text": "hello",
        "a number": 7,
        "an object": {"role": "user", "content": "hello"},
        "a list of text": ["hello"],
        "a list of null": [None],
        "a list of lists": [[]],
        "content is a number": [{"role": "user", "content": 7}],
        "content is an object": [{"role": "user", "content": text}],
        "content is true": [{"role": "user", "content": True}],
        "a part is text": user("hello"),
        "a part is null": user(None),
        "a part is a list": user([text]),
        "a part without a type": user({"text": "hello"}),
        "a part of an unknown type": user({"type": "hologram", "hologram": "x"}),
        "the type is null": user({"type": None, "text": "x"}),
        "the type is a list": user({"type": ["text"], "text": "x"}),
        "text is missing": user({"type": "text"}),
        "text is null": user({"type": "text", "text": None}),
        "text is a number": user({"type": "text", "text": 7}),
        "text is a list": user({"type": "text", "text": ["x"]}),
        "an image without an address": user({"type": "image_url"}),
        "an image whose address is null": user({"type": "image_url", "image_url": None}),
        "an image without a url": user({"type": "image_url", "image_url": {}}),
        "an image whose url is null": user({"type": "image_url", "image_url": {"url": None}}),
        "an image whose url is a list": user({"type": "image_url", "image_url": {"url": [GOOD]}}),
        "an image by its key in a cache": user({"type": "image_url", "image_url": None, "uuid": "1"}),
        "an image and a key in a cache": user({**image, "uuid": "1"}),
        "an image with an unknown key": user({"type": "image_url", "image_url": {"url": GOOD, "path": "/etc/passwd"}}),
        "text with an image": user({**text, "image_url": {"url": "http://127.0.0.1/"}}),
        "audio": user({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}),
        "audio by its address": user({"type": "audio_url", "audio_url": {"url": "http://127.0.0.1/a.wav"}}),
        "video": user({"type": "video_url", "video_url": {"url": "http://127.0.0.1/v.mp4"}}),
        "embeddings": user({"type": "image_embeds", "image_embeds": "AAAA"}),
        "an image of another library": user({"type": "image_pil", "image_pil": "x"}),
        "a file": user({"type": "file", "file": {"file_id": "1"}}),
        "nine images": user(*[image] * 9),
        "images in nine messages": [message for _ in range(9) for message in user(image)],
        "the second image is bad": user(image, {"type": "image_url", "image_url": {"url": uri(b"GIF89a")}}),
        "an image in an answer": [*user(text), {"role": "assistant", "content": [{**image, "image_url": "file:///x"}]}],
    }  # fmt: skip


def bad_chats() -> dict[str, dict[str, Any]]:
    """Changes that make a good chat a bad one; `...` takes a field away."""
    changes = {f"messages: {name}": {"messages": value} for name, value in bad_messages().items()}
    changes |= {
        f"model: {value!r}"[:60]: {"model": value}
        for value in (..., None, 7, [], {}, "", "gpt-4o", "dermo@", "dermo@step_999999", "m" * 10_000)
    }
    changes |= {f"n: {value!r}": {"n": value} for value in (0, -1, 1.5, "many", [], 17, 10**6, 2**63 - 1)}
    changes |= {
        "loaders' options": {"media_io_kwargs": {"image": {"image_mode": "F"}}},
        "processors' options": {"mm_processor_kwargs": {"max_pixels": 10**12}},
        "a template": {"chat_template": "{% for x in range(10**9) %}{% endfor %}"},
        "another engine's memory": {"kv_transfer_params": {"remote_host": "127.0.0.1"}},
        "an engine's options": {"vllm_xargs": {"x": 1}},
    }
    return changes


def changed(body: Mapping[str, Any], change: Mapping[str, Any]) -> bytes:
    fields = {name: value for name, value in {**body, **change}.items() if value is not ...}
    return json.dumps(fields).encode()


def requests(model: str = "dermo") -> list[Malformed]:
    """Every malformed request, for a service whose model has this name."""
    ask = {"image": GOOD, "modality": "clinical", "model": model}
    question = {"type": "text", "text": "What does the skin show?"}
    talk = {"model": model, "messages": [{"role": "user", "content": [question]}], "max_tokens": 4}
    made = []
    images = {f"a file: {name}": uri(data) for name, data in bad_files().items()}
    images |= {f"an address: {name}": url for name, url in bad_addresses().items()}
    for name, url in images.items():
        part = {"type": "image_url", "image_url": url if name == "an address: an object" else {"url": url}}
        chat = changed(talk, {"messages": [{"role": "user", "content": [question, part]}]})
        made.append(Malformed(f"diagnose, {name}", DIAGNOSE, changed(ask, {"image": url})))
        made.append(Malformed(f"diagnose in a stream, {name}", DIAGNOSE, changed(ask, {"image": url, "stream": True})))
        if name != "an address: an object":  # that is how a chat has it
            made.append(Malformed(f"chat, {name}", CHAT, chat))
    for path in (DIAGNOSE, CHAT):
        made += [Malformed(f"{path}, body: {name}", path, content) for name, content in raw_bodies().items()]
        good = changed(ask if path == DIAGNOSE else talk, {})
        for kind in CONTENT_TYPES:
            made.append(Malformed(f"{path}, content type: {kind}", path, good, {"Content-Type": kind}))
        made += [Malformed(f"{method} {path}", path, good, method=method) for method in ("PUT", "PATCH", "DELETE")]
    made += [Malformed(f"diagnose, {name}", DIAGNOSE, changed(ask, change)) for name, change in bad_diagnoses().items()]
    made += [Malformed(f"chat, {name}", CHAT, changed(talk, change)) for name, change in bad_chats().items()]
    for path in NO_PATHS:
        made.append(Malformed(f"GET {path}", path, b"", method="GET"))
    return made


async def throw(client: httpx.AsyncClient, malformed: Iterable[Malformed]) -> dict[str, str]:
    """Send every request; {name: what was wrong with the answer} for those not refused as they should be."""
    wrong = {}
    for request in malformed:
        answer = await client.request(request.method, request.path, content=request.content, headers=request.headers)
        if fault := fault_of(answer):
            wrong[request.name] = fault
    return wrong


def fault_of(answer: httpx.Response) -> str | None:
    """Why `answer` is no refusal in OpenAI's shape; None where it is one."""
    if not 400 <= answer.status_code < 500:
        return f"status {answer.status_code}: {answer.text[:200]}"
    try:
        error = answer.json()["error"]
    except (ValueError, KeyError, TypeError):
        return f"not in OpenAI's shape: {answer.text[:200]}"
    if not {"message", "type", "param", "code"} <= error.keys() or not error["message"]:
        return f"parts of the error are missing: {error}"
    return None if len(answer.content) < 2000 else f"an answer of {len(answer.content)} bytes"
