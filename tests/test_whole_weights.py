"""Whole weights for the engines: a source that DeepSpeed may have cut up, and the engines' side of a transfer."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
import ray
import torch
from torch import Tensor, nn

from actors.whole_weights import WeightSource
from dermo_ray.models.fingerprint import fingerprint

Whole = Callable[[Iterable[Tensor]], Any]


class CutUp:
    """Parameters as ZeRO-3 leaves them: empty, with the whole shape beside them, and filled within `whole` alone."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        shapes = {"embed.weight": (10, 4), "layer.weight": (4, 4), "layer.bias": (4,), "norm.weight": (4,)}
        self.full = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        self.parameters: dict[str, Any] = {name: nn.Parameter(torch.empty(0)) for name in shapes}
        for name, parameter in self.parameters.items():
            parameter.ds_shape = self.full[name].shape
        self.gathered: list[list[str]] = []

    @contextmanager
    def whole(self, some: Iterable[Tensor]) -> Iterator[None]:
        names = [name for name, parameter in self.parameters.items() if any(parameter is one for one in some)]
        self.gathered.append(names)
        for name in names:
            self.parameters[name].data = self.full[name].clone()
        yield
        for name in names:
            self.parameters[name].data.zero_()  # as if the memory had been given to others
            self.parameters[name].data = torch.empty(0)


def test_what_is_announced_is_what_comes_and_it_outlives_the_gathering() -> None:
    model = CutUp()
    source = WeightSource(model.parameters.items(), model.whole)
    announced = source.metadata()
    assert model.gathered == []
    assert [(meta.name, meta.dtype, meta.shape) for meta in announced] == [
        (name, torch.float32, tuple(weight.shape)) for name, weight in model.full.items()
    ]
    for _ in range(2):  # every round is a fresh one
        sent = dict(source)
        assert list(sent) == [meta.name for meta in announced]
        assert all(torch.equal(sent[name], weight) for name, weight in model.full.items())
        assert source.fingerprint == fingerprint(model.full.values())


@pytest.mark.parametrize(
    ("bucket", "expected"),
    [
        (1, [["embed.weight"], ["layer.weight"], ["layer.bias"], ["norm.weight"]]),
        (96, [["embed.weight"], ["layer.weight", "layer.bias", "norm.weight"]]),
        (10**6, [["embed.weight", "layer.weight", "layer.bias", "norm.weight"]]),
    ],
)
def test_weights_are_gathered_bucket_by_bucket(bucket: int, expected: list[list[str]]) -> None:
    model = CutUp()
    assert len(list(WeightSource(model.parameters.items(), model.whole, bucket))) == 4
    assert model.gathered == expected


def test_two_ranks_that_go_through_their_sources_gather_in_lockstep() -> None:
    sender, helper = CutUp(), CutUp()
    sending, helping = (WeightSource(model.parameters.items(), model.whole, bucket=64) for model in (sender, helper))
    for _ in sending:
        pass
    for _ in helping:
        pass
    assert sender.gathered == helper.gathered


def test_vllm_takes_the_source_for_its_own_kind() -> None:
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerWeightTransferEngine

    model = CutUp()
    source = WeightSource(model.parameters.items(), model.whole)
    checked = NCCLTrainerWeightTransferEngine._checked_iter(cast(Any, source), cast(Any, source.metadata()))
    assert [name for name, _ in checked] == list(model.full)


class FakeEngines:
    """Stands for the engines of a transfer: notes what each of them is asked."""

    ranks_per_engine, ranks = 2, 4

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[tuple[Any, ...]]]] = []

    def ask(self, method: str, arguments_of: Callable[[int], tuple[Any, ...]]) -> None:
        self.asked.append((method, [arguments_of(number) for number in range(2)]))


def test_a_transfer_gives_each_engine_ranks_of_its_own_and_asks_for_proof() -> None:
    from actors.weight_transfer import Control

    model = CutUp()
    source, engines = WeightSource(model.parameters.items(), model.whole), FakeEngines()
    control = Control(cast(Any, engines), source)
    control.init_weight_transfer_engine({"rank_offset": 1, "world_size": 5, "master_port": 7})
    control.version = 3
    control.start_weight_update()
    control.update_weights({"names": ["a"]})
    list(source)
    control.finish_weight_update()
    assert engines.asked == [
        (
            "join_transfer",
            [({"rank_offset": 1 + 2 * n, "world_size": 5, "master_port": 7},) for n in range(2)],
        ),
        ("begin_transfer", [(), ()]),
        ("receive", [({"names": ["a"]},)] * 2),
        ("end_transfer", [(3, source.fingerprint)] * 2),
    ]


def test_vllms_sender_drives_the_engines_through_the_four_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.distributed.weight_transfer import nccl_engine

    from actors.weight_transfer import Sender

    sent: list[str] = []

    def broadcast(iterator: Iterator[tuple[str, Tensor]], **more: Any) -> None:
        sent.extend(name for name, _ in iterator)

    monkeypatch.setattr(nccl_engine, "open_trainer_endpoint", lambda info: object())
    monkeypatch.setattr(nccl_engine, "packed_nccl_broadcast_producer", broadcast)
    model, helper = CutUp(), CutUp()
    engines = FakeEngines()
    source = WeightSource(model.parameters.items(), model.whole)
    Sender(0, cast(Any, engines), source, "127.0.0.1", 29500).send(version=2)
    assert sent == list(model.full)
    methods = [method for method, _ in engines.asked]
    assert methods == ["join_transfer", "begin_transfer", "receive", "end_transfer"]
    assert engines.asked[0][1][1][0] | {"packed_buffer_size_bytes": 0, "packed_num_buffers": 0, "packed": True} == {
        "master_address": "127.0.0.1",
        "master_port": 29500,
        "rank_offset": 3,
        "world_size": 5,
        "packed": True,
        "packed_buffer_size_bytes": 0,
        "packed_num_buffers": 0,
    }
    announced = engines.asked[2][1][0][0]
    assert announced["names"] == list(model.full)
    assert announced["dtype_names"] == ["float32"] * 4
    assert engines.asked[3][1] == [(2, fingerprint(model.full.values()))] * 2
    # another rank takes part in gathering, and asks the engines nothing
    bystanders = FakeEngines()
    Sender(1, cast(Any, bystanders), WeightSource(helper.parameters.items(), helper.whole), "127.0.0.1", 29500).send(2)
    assert helper.gathered == model.gathered
    assert bystanders.asked == []


def test_a_worker_proves_what_its_model_was_given_however_it_lays_it_out() -> None:
    from actors.engine_worker import EngineWorker

    class Model(nn.Module):
        """Keeps half of what it is given, as an engine that is cut in two does."""

        def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
            self.kept = {name: tensor.flatten()[: tensor.numel() // 2] for name, tensor in weights}
            return set(self.kept)

    worker, model = EngineWorker(), Model()
    worker.model_runner = SimpleNamespace(get_model=lambda: model)
    sent = {"a": torch.randn(3, 4), "b": torch.randn(8)}
    for altered in (0.0, 1e-6):
        worker.note_received()
        assert model.load_weights((name, tensor + altered) for name, tensor in [("a", sent["a"])]) == {"a"}
        model.load_weights(iter([("b", sent["b"])]))
        assert (worker.weights_received() == fingerprint(sent.values())) is (altered == 0)
        assert "load_weights" not in vars(model)


def test_an_engine_that_fails_or_is_late_in_a_transfer_is_named(ray_cluster: None) -> None:
    from actors.weight_transfer import Engines, TransferError

    @ray.remote(num_cpus=0)
    class Worker:
        async def receive(self, seconds: float) -> None:
            await asyncio.sleep(seconds)
            if seconds:
                raise RuntimeError("no such weight: lm_head")

    workers = {f"rollout worker {n}": Worker.remote() for n in (1, 2)}
    patient = Engines(workers, 1, timeout=60.0)  # actors take a while to start
    patient.ask("receive", lambda number: (0.0,))
    with pytest.raises(TransferError, match=r"^rollout worker 2 failed in receive: .*no such weight: lm_head"):
        patient.ask("receive", lambda number: (0.1 * number,))
    with pytest.raises(TransferError, match=r"^rollout worker 2 did not answer receive within 2 s"):
        Engines(workers, 1, timeout=2.0).ask("receive", lambda number: (60.0 * number,))
