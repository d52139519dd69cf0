"""Terms of one's own: they count as the settings say, and what is wrong with them shows before a run starts."""

import asyncio
import contextlib
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from reward_cases import CLINICAL, HONEST, MELANOMA, PSORIASIS, features, fields, write

from dermo_ray.config import RewardConfig, dump, load
from dermo_ray.config.reward import ImportedTerm, ServiceTerm
from dermo_ray.errors import UserError
from rewards import Scorer, mavic_reward
from rewards.check import check_reward

TERMS = """
    class Brevity:
        def __init__(self, limit=100):
            self.limit = limit

        def __call__(self, completions, truths):
            return [min(1.0, self.limit / max(1, len(text))) for text in completions]

    def labels(completions, truths, bonus=0.0):
        return [float(truth.final_label in text) * 0.5 + bonus for text, truth in zip(completions, truths)]

    def clinical(completions, truths):
        return [float("Plaque" in text) if truth.modality == "clinical" else None
                for text, truth in zip(completions, truths)]

    def always(completions, truths): return [0.5] * len(completions)
    def by_reference(completions, truths): return [float(truth.modality == "clinical") for truth in truths]
    def never(completions, truths): return [None] * len(completions)
    def one_only(completions, truths): return [1.0]
    def nan(completions, truths): return [float("nan")] * len(completions)
    def large(completions, truths): return [len(text) for text in completions]
    def words(completions, truths): return ["good"] * len(completions)
    def nothing(completions, truths): pass
    def broken(completions, truths): return [truth.labels for truth in truths]
    def choosy(completions, truths): return [1.0 if "<morph>" in text else None for text in completions]
    def no_batch(completion): return 1.0
    def endless(completions, truths): __import__("time").sleep(20)
    constant = 3
"""


@pytest.fixture(autouse=True)
def my_terms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module of a user's terms, and one that can't be imported."""
    (tmp_path / "my_terms.py").write_text(dedent(TERMS))
    (tmp_path / "my_typo.py").write_text("def f(:\n")
    (tmp_path / "my_needs.py").write_text("import a_library_that_is_absent\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in ("my_terms", "my_typo", "my_needs"):
        sys.modules.pop(name, None)


def with_term(path: str, **more: Any) -> RewardConfig:
    return RewardConfig(extra=(ImportedTerm(path=path, **more),))


def test_an_extra_term_weighs_in_beside_the_others_and_is_not_gated() -> None:
    text = write(fields(7), "Melanoma")  # no field is right, so the gate is closed

    reward = mavic_reward(text, MELANOMA, with_term("my_terms:labels", weight=0.25))

    assert reward.terms["labels"] == 0.5
    assert reward.weights["labels"] == pytest.approx(0.25 / 1.25)
    assert (reward.gate, "labels" in reward.gated) == (0.0, False)
    assert reward.total == pytest.approx((0.2 * 1 + 0.25 * 0.5) / 1.25)


def test_a_term_applies_where_it_gives_a_number() -> None:
    rewards = Scorer(with_term("my_terms:clinical")).score([HONEST, CLINICAL], [MELANOMA, PSORIASIS])

    assert ["clinical" in reward.terms for reward in rewards] == [False, True]
    assert [reward.total for reward in rewards] == [1.0, 1.0]
    assert rewards[0] == mavic_reward(HONEST, MELANOMA, RewardConfig())


def test_options_build_a_class_and_reach_a_function() -> None:
    short = mavic_reward(HONEST, MELANOMA, with_term("my_terms:Brevity", options={"limit": len(HONEST) // 2}))
    bonus = mavic_reward(HONEST, MELANOMA, with_term("my_terms:labels", options={"bonus": 0.25}))

    assert short.terms["Brevity"] == pytest.approx(0.5, abs=0.01)
    assert bonus.terms["labels"] == 0.75


def test_a_weight_of_0_records_a_term_and_changes_nothing() -> None:
    reward = mavic_reward(HONEST, MELANOMA, with_term("my_terms:labels", weight=0))

    assert reward.terms["labels"] == 0.5
    assert reward.total == 1.0


def test_a_path_alone_stands_for_a_term_and_settings_survive_a_file(tmp_path: Path) -> None:
    config = load(RewardConfig, None, ['extra=["my_terms:Brevity", {path: "my_terms:labels", name: named, weight: 2}]'])

    assert [(term.name, term.weight) for term in config.extra] == [("Brevity", 0.1), ("named", 2)]
    dump(config, tmp_path / "job.yaml")
    assert load(RewardConfig, tmp_path / "job.yaml") == config


@pytest.mark.parametrize(
    "extra",
    [
        '["my_terms:labels", "other:labels"]',
        '[{path: "my_terms:labels", name: morphology}]',
        '[{path: "my_terms:labels", name: total}]',
        '[{path: "my_terms:labels", weigth: 1}]',
        '["my_terms.labels"]',
        '[{path: "my_terms:labels", weight: -1}]',
    ],
    ids=["name twice", "a name of MAVIC", "the name of the sum", "unknown setting", "no colon", "negative weight"],
)
def test_settings_that_can_not_be_meant_are_refused(extra: str) -> None:
    with pytest.raises(UserError, match="extra"):
        load(RewardConfig, None, [f"extra={extra}"])


@pytest.mark.parametrize(
    ("path", "cause"),
    [
        ("my_absent:f", "there is no module my_absent; put the folder that holds it on PYTHONPATH"),
        ("my_needs:f", "there is no module a_library_that_is_absent"),
        ("my_typo:f", "importing my_typo failed: SyntaxError"),
        ("my_terms:brevity", "the module my_terms has no brevity"),
        ("my_terms:constant", "is of type int, not callable"),
        ("my_terms:one_only", "gave 1 scores for 28 completions"),
        ("my_terms:nan", "gave nan for completion 0"),
        ("my_terms:large", "a score is a number in [0, 1]"),
        ("my_terms:words", "gave 'good' for completion 0"),
        ("my_terms:nothing", "gave None: it must return a list"),
        ("my_terms:broken", "failed: AttributeError: 'GroundTruth' object has no attribute 'labels'"),
        ("my_terms:no_batch", "failed: TypeError"),
        ("my_terms:always", "the same score"),
        ("my_terms:by_reference", "the same score"),
        ("my_terms:never", "applies to no task and modality"),
        ("my_terms:choosy", "applies to some completions of a reference"),
    ],
)
def test_a_term_that_can_not_reward_is_named_before_a_run(path: str, cause: str) -> None:
    with pytest.raises(UserError) as caught:
        check_reward(with_term(path))

    assert path.partition(":")[2] in str(caught.value)
    assert cause in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_failure_in_the_users_code_says_where(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"my_terms\.py, line \d+"):
        check_reward(with_term("my_terms:broken"))


def test_options_that_a_class_does_not_take_are_named() -> None:
    with pytest.raises(UserError, match=r"Brevity can't be built with the options \{'limt': 3\}"):
        check_reward(with_term("my_terms:Brevity", options={"limt": 3}))


@pytest.mark.parametrize(
    "path", ["my_terms:Brevity", "my_terms:labels", "my_terms:clinical", "rewards.examples:Brevity"]
)
def test_a_term_that_rewards_passes_the_check(path: str) -> None:
    check_reward(with_term(path))


def test_a_concept_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no concept model at"):
        check_reward(RewardConfig(concepts=tmp_path / "absent"))


Answer = Callable[[dict[str, Any], int], tuple[int, Any]]


@pytest.fixture
def service() -> Iterator[Callable[..., RewardConfig]]:
    """Starts a service that answers request number i as `answer(body, i)` says: a status, and an object to send."""
    servers: list[HTTPServer] = []

    def start(answer: Answer, **settings: Any) -> RewardConfig:
        calls = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                status, content = answer(body, len(calls))
                calls.append(body)
                sent = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(sent)))
                self.end_headers()
                self.wfile.write(sent)

            def log_message(self, *arguments: object) -> None:
                """Keeps stderr clean."""

        server = HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/score"
        return RewardConfig(services=(ServiceTerm(name="judge", url=url, **settings),))

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def judged(body: dict[str, Any], call: int) -> tuple[int, Any]:
    pairs = zip(body["completions"], body["ground_truths"], strict=True)
    return 200, {"rewards": [float(truth["final_label"] in text) for text, truth in pairs]}


def test_a_service_scores_a_batch_in_its_order(service: Callable[..., RewardConfig]) -> None:
    config = service(judged, weight=0.5)
    texts = [HONEST, CLINICAL, write(features("Plaque"), "\ud800")]

    check_reward(config)
    rewards = Scorer(config).score(texts, [MELANOMA, MELANOMA, PSORIASIS])

    assert [reward.terms["judge"] for reward in rewards] == [1.0, 0.0, 0.0]
    assert rewards[0].weights["judge"] == pytest.approx(0.5 / 1.5)


def test_a_service_that_stumbles_is_asked_again(service: Callable[..., RewardConfig]) -> None:
    config = service(lambda body, call: judged(body, call) if call == 2 else (503, {}), retries=2)

    assert Scorer(config).score([HONEST], [MELANOMA])[0].terms["judge"] == 1.0


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        ((500, {}), "it answered with status 500"),
        ((404, {}), "refused with status 404"),
        ((200, [1.0]), 'must answer {"rewards": [...]}'),
        ((200, {"scores": [1.0]}), 'must answer {"rewards": [...]}'),
        ((200, {"rewards": [1.0, 1.0]}), "gave 2 scores for 1 completions"),
        ((200, {"rewards": [1.5]}), "a score is a number in [0, 1]"),
        ((200, {"rewards": 1.0}), "must return a list"),
    ],
)
def test_what_a_service_does_wrong_is_named(
    answer: tuple[int, Any], cause: str, service: Callable[..., RewardConfig]
) -> None:
    config = service(lambda body, call: answer, retries=1)

    with pytest.raises(UserError, match="judge") as caught:
        Scorer(config).score([HONEST], [MELANOMA])

    assert cause in str(caught.value)


def test_a_service_that_hangs_is_given_up_at_its_deadline(service: Callable[..., RewardConfig]) -> None:
    def slow(body: dict[str, Any], call: int) -> tuple[int, Any]:
        time.sleep(1.0)
        return 200, {}

    began = time.monotonic()
    with pytest.raises(UserError, match=r"judge at http.* did not score a batch \(deadline 0.2 s"):
        Scorer(service(slow, timeout=0.2)).score([HONEST], [MELANOMA])
    assert time.monotonic() - began < 0.9


def test_a_service_whose_answer_trickles_in_is_given_up_at_its_deadline() -> None:
    stop = threading.Event()

    def drip(server: socket.socket) -> None:
        connection, _ = server.accept()
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
        with contextlib.suppress(OSError):
            while not stop.wait(0.05):
                connection.sendall(b" ")
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=drip, args=(server,), daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/score"
        scorer = Scorer(RewardConfig(services=(ServiceTerm(name="judge", url=url, timeout=0.3),)))
        began = time.monotonic()
        try:
            with pytest.raises(UserError, match=r"\(deadline 0\.3 s, .*there was no whole answer in time"):
                scorer.score([HONEST], [MELANOMA])
            assert time.monotonic() - began < 5
        finally:
            stop.set()


def test_a_service_is_asked_from_inside_an_event_loop_as_well(service: Callable[..., RewardConfig]) -> None:
    async def score() -> float:
        return Scorer(service(judged)).score([HONEST], [MELANOMA])[0].terms["judge"]

    assert asyncio.run(score()) == 1.0


def test_a_term_that_does_not_come_back_is_named_before_a_run() -> None:
    with pytest.raises(UserError, match=r"endless was not made and tried on 28 completions within 0\.2 s"):
        check_reward(with_term("my_terms:endless"), deadline=0.2)


def test_a_service_that_is_not_there_is_named() -> None:
    config = RewardConfig(services=(ServiceTerm(name="judge", url="http://127.0.0.1:9/", retries=0, timeout=5),))

    with pytest.raises(UserError, match=r"judge at http://127\.0\.0\.1:9/"):
        check_reward(config)
