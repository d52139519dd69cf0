"""How fast the rollout viewer is: `python -m benchmarks.viewer`.

Writes a made-up run directory (`benchmarks.synthetic_run`) of 100,800 completions, serves it with `jobs.view`, and
opens it in headless Chromium. Measures, each over several rounds: from asking for the page, with nothing cached, to
the first groups on it; from changing a filter, or choosing a group, to what it shows being painted. Writes
`benchmarks/results/viewer.json`.
"""

import json
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import httpx
from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.machine import describe
from benchmarks.synthetic_run import write_run

RESULT = Path("benchmarks/results/viewer.json")
STEPS, GROUPS, GROUP_SIZE, PROMPTS = 200, 63, 8, 500
ROUNDS = 7
CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]

FILTERS = {
    "lowest reward": {"order": "lowest"},
    "gated": {"gated": True},
    "biggest change between steps": {"order": "changed"},
    "one step": {"step": "100"},
    "one fault": {"fault": "missing_block"},
    "one reference": {"label": "Melanoma"},
    "gated, lowest reward of one fault": {"order": "lowest", "gated": True, "fault": "missing_block"},
}

_PAINTED = """
async ([watched, act, given]) => {
  const target = document.getElementById(watched);
  const painted = new Promise((resolve) => {
    new MutationObserver((_, observer) => {
      observer.disconnect();
      requestAnimationFrame(() => setTimeout(() => resolve(performance.now())));
    }).observe(target, { childList: true });
  });
  const began = performance.now();
  if (act === "filter") {
    const fields = document.getElementById("filters").elements;
    for (const [name, value] of Object.entries(given)) {
      if (fields[name].type === "checkbox") fields[name].checked = value; else fields[name].value = value;
    }
    fields.order.dispatchEvent(new Event("change", { bubbles: true }));
  } else document.querySelectorAll("#groups a")[given].click();
  return (await painted) - began;
}
"""
"""Milliseconds from an act of the reader's to the next frame after what it changes was changed."""


def first_page(browser: Browser, url: str) -> float:
    """Milliseconds until groups are listed, by a browser that has never seen the page."""
    context = browser.new_context()
    page = context.new_page()
    began = time.perf_counter()
    page.goto(url, wait_until="commit")
    page.wait_for_selector("#groups li")
    took = 1e3 * (time.perf_counter() - began)
    context.close()
    return took


def filtered(page: Page, url: str, given: dict[str, Any]) -> float:
    page.goto("about:blank")
    page.goto(url)
    page.wait_for_selector("body[data-ready]")
    took: float = page.evaluate(_PAINTED, ["groups", "filter", given])
    assert page.locator("#groups li").count() > 0, f"no group fits {given}"
    return took


def measure(url: str) -> dict[str, Any]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        pages = [first_page(browser, url) for _ in range(ROUNDS)]
        page = browser.new_page()
        filters = {name: [filtered(page, url, given) for _ in range(ROUNDS)] for name, given in FILTERS.items()}
        groups = [page.evaluate(_PAINTED, ["group", "group", number]) for number in range(ROUNDS)]
        browser.close()
    return {
        "first_page_ms": _of(pages),
        "filter_ms": {name: _of(times) for name, times in filters.items()},
        "open_group_ms": _of(groups),
    }


def _of(times: list[float]) -> dict[str, float]:
    return {"median": round(median(times), 1), "largest": round(max(times), 1)}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "synthetic-run"
        write_run(run, steps=STEPS, groups=GROUPS, group_size=GROUP_SIZE, prompts=PROMPTS)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        url = f"http://127.0.0.1:{port}/"
        began = time.perf_counter()
        server = subprocess.Popen([sys.executable, "-m", "jobs.view", str(run), f"port={port}"])
        try:
            _wait(url, server)
            started = time.perf_counter() - began
            measured = measure(url)
        finally:
            server.terminate()
            server.wait(timeout=30)
    result = {
        "command": "python -m benchmarks.viewer",
        "machine": describe(),
        "run": f"synthetic: {STEPS} steps of {GROUPS} groups of {GROUP_SIZE}, {PROMPTS} prompts",
        "completions": STEPS * GROUPS * GROUP_SIZE,
        "rounds": ROUNDS,
        "from_command_to_listening_s": round(started, 2),
        **measured,
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def _wait(url: str, server: subprocess.Popen[bytes], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and server.poll() is None:
        try:
            httpx.get(url, timeout=1)
            return
        except httpx.TransportError:
            time.sleep(0.05)
    raise RuntimeError(f"the viewer did not listen within {seconds:g} s")


if __name__ == "__main__":
    main()
