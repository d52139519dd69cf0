"""The one place that touches vLLM's engine: an `AsyncLLM` whose weights go by policy version.

Invariants: every sampling field is sent, so that no default of a model folder slips in; log-probabilities are those of
the distribution that was sampled from; a request keeps the adapter that it began with, and an adapter is unloaded only
when no request uses it. Where the model's own weights are replaced, requests are held meanwhile and go on with the new
weights, their keys and values computed anew; each token knows its version. An engine whose weights could not be
replaced never answers again.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

from PIL import Image
from vllm import AsyncEngineArgs, SamplingParams
from vllm.config import WeightTransferConfig
from vllm.distributed.weight_transfer.base import WeightTransferInitRequest, WeightTransferUpdateRequest
from vllm.exceptions import VLLMClientError
from vllm.inputs import TokensPrompt
from vllm.logprobs import FlatLogprobs
from vllm.lora.request import LoRARequest
from vllm.model_executor.model_loader.utils import get_model_cls
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from actors.adapters import FullWeights, Published, adapts_vision, checksum
from actors.messages import PromptRefused, Sampled, Sampling
from dermo_ray.config.model import ModelSettings
from dermo_ray.config.pools import EngineSettings
from dermo_ray.errors import UserError
from dermo_ray.models.chat import banned_token_ids, end_of_turn_id, load_processor, prompt_text
from dermo_ray.records import Turn

_BAN = -100.0
"""The largest penalty vLLM takes; at any temperature the token's probability is 0 in float32."""

_LOOK = 0.1
"""Seconds between two looks at whether the engine's process is alive."""


class Engine:
    """An engine for one base model, and the policy versions it can answer with."""

    def __init__(self, llm: AsyncLLM, model: ModelSettings) -> None:
        self.llm = llm
        self.model = model
        self.processor = load_processor(model.path)
        vocabulary_size = llm.model_config.get_vocab_size()
        self.penalties = {token: _BAN for token in banned_token_ids(self.processor, vocabulary_size)}
        """The logit bias of every token that must not be sampled; whoever calls `llm` directly sends it as well."""
        self._end_of_turn = end_of_turn_id(self.processor)
        self._adapters: dict[int, LoRARequest] = {}
        self._in_use: Counter[int] = Counter()
        self._newest: int | None = None
        self._whole: int | None = None
        """The policy version that the model itself has become, None while it is the base model."""
        self._request_ids = itertools.count()

    @classmethod
    def start(
        cls,
        model: ModelSettings,
        settings: EngineSettings,
        lora_rank: int | None,
        *,
        on_gpu: bool,
        receives: bool = False,
    ) -> "Engine":
        """Start an engine; `actors.engine_process.start_engine` prepares this process for it and says what is what."""
        arguments = AsyncEngineArgs(
            model=str(model.path),
            dtype=model.dtype,
            max_model_len=settings.max_model_len,
            max_num_seqs=settings.max_num_seqs,
            max_num_batched_tokens=max(settings.max_num_batched_tokens, settings.max_model_len),
            tensor_parallel_size=settings.tensor_parallel_size,
            enforce_eager=settings.enforce_eager,
            enable_lora=lora_rank is not None,
            max_lora_rank=lora_rank or 16,  # type: ignore[arg-type]  # checked by vLLM, which names the ranks it takes
            max_loras=settings.max_adapters,
            enable_tower_connector_lora=settings.vision_adapters,
            limit_mm_per_prompt={"video": 0},
            allowed_media_domains=["none"],  # vLLM fetches from anywhere where the list is empty
            generation_config="vllm",  # the model folder's own would fill in top_k and more
            logprobs_mode="processed_logprobs",
            enable_prefix_caching=True,
            disable_log_stats=True,  # pools and services count for themselves
            # On a CPU a prompt cut in two can't have a seed of its own (torch's CPU generator has no offset).
            enable_chunked_prefill=on_gpu,
            weight_transfer_config=WeightTransferConfig(backend="nccl") if receives else None,
            worker_extension_cls="actors.engine_worker.EngineWorker" if on_gpu else "actors.cpu_lora.DenseLora",
            **(
                {"gpu_memory_utilization": settings.gpu_memory_utilization}
                if on_gpu
                else {
                    "kv_cache_memory_bytes": int(settings.cpu_kv_cache_gib * 2**30),
                    "distributed_executor_backend": "uni" if settings.tensor_parallel_size == 1 else "mp",
                }
            ),
        )
        if settings.vision_adapters:
            architecture = get_model_cls(arguments.create_model_config())
            if not getattr(architecture, "supports_tower_connector_lora", False):
                raise UserError(
                    f"vLLM loads no adapter of the vision tower of {architecture.__name__}: "
                    "give vision_adapters=false, and train with vision=frozen"
                )
        return cls(AsyncLLM.from_engine_args(arguments), model)

    async def load(self, weights: Published) -> str:
        """Load published weights and make them those that new requests use; returns the checksum of what was loaded.

        Adapters that no request uses any more are unloaded. Raises `RuntimeError` where the files are not the published
        ones, where the engine would leave a part of them out, or does not list the adapter afterwards.
        """
        whole = isinstance(weights, FullWeights)
        if whole or self.llm.vllm_config.lora_config is None:
            found = await asyncio.to_thread(_verified, weights)
            await self._hold()
            method = "replace_weights" if whole else "merge_adapter"
            await self.llm.collective_rpc(method, args=(str(weights.path),))
            await self._go_on(weights.version)
            return found
        await self.keep(weights)
        self._newest = weights.version
        await self._unload_unused()
        return weights.checksum

    async def keep(self, adapter: Published) -> None:
        """Have `adapter` loaded for a request that begins at once, whether or not it is the newest."""
        if adapter.version not in self._adapters:
            request = await self.add(f"policy-v{adapter.version:06d}", adapter.version + 1, adapter)
            self._adapters[adapter.version] = request

    async def add(self, name: str, number: int, adapter: Published) -> LoRARequest:
        """Load an adapter beside others and return how vLLM knows it; whoever adds it removes it, by `remove`.

        `name` and `number` (at least 1) must be new to this engine. Raises `RuntimeError` as `load` does.
        """
        request = LoRARequest(name, number, str(adapter.path))
        # side by side: no request can use the adapter before both are done
        await asyncio.gather(asyncio.to_thread(_verified, adapter), self.llm.add_lora(request))
        lora = self.llm.vllm_config.lora_config
        if adapts_vision(adapter.path) and not (lora and lora.enable_tower_connector_lora):
            raise RuntimeError(
                f"{adapter.path} changes the vision tower: engines need engine.vision_adapters=true for it"
            )
        if number not in await self.llm.list_loras():
            raise RuntimeError(f"the engine did not take policy version {adapter.version} from {adapter.path}")
        return request

    async def remove(self, request: LoRARequest) -> None:
        """Unload what `add` loaded; no request may be using it."""
        await self.llm.remove_lora(request.lora_int_id)

    async def join_transfer(self, init_info: dict[str, Any]) -> None:
        """Meet the learners in the group that weights are sent over, after leaving an earlier one."""
        await self.llm.shutdown_weight_transfer_engine()
        await self.llm.init_weight_transfer_engine(WeightTransferInitRequest(init_info))

    async def begin_transfer(self) -> None:
        """Hold all requests and get ready for new weights."""
        await self._hold()
        await self.llm.start_weight_update()
        await self.llm.collective_rpc("note_received")

    async def receive(self, update_info: dict[str, Any]) -> None:
        """Take the weights that `update_info` announces, while the learners send them."""
        await self.llm.update_weights(WeightTransferUpdateRequest(update_info))

    async def end_transfer(self, version: int, expected: int) -> None:
        """Go on with the weights that were received, as policy `version`.

        Raises `RuntimeError` where what a GPU received, or what it holds then, does not have the fingerprint of what
        was sent. An engine cut over several GPUs holds some weights more than once: there the second is not compared.
        """
        received: list[int] = await self.llm.collective_rpc("weights_received")
        await self.llm.finish_weight_update()
        held: list[int] = await self.llm.collective_rpc("weights_held")
        if any(part != expected for part in (received + held if len(held) == 1 else received)):
            raise RuntimeError(f"the weights received as policy version {version} are not those that were sent")
        await self._go_on(version)

    async def _hold(self) -> None:
        await self.llm.pause_generation(mode="keep", clear_cache=True)

    async def _go_on(self, version: int) -> None:
        await self.llm.update_weight_version(str(version))
        self._whole = self._newest = version
        await self.llm.resume_generation()

    @property
    def version(self) -> int | None:
        """The policy version that new requests get; None is the base model."""
        return self._newest

    @property
    def versions(self) -> list[int]:
        """The policy versions that are loaded."""
        return sorted(self._adapters)

    def lora_request(self, version: int) -> LoRARequest:
        """How vLLM knows the loaded adapter of policy `version`."""
        return self._adapters[version]

    async def check_health(self) -> None:
        """Raises `RuntimeError` where the engine is dead: vLLM's own error could not be read without loading vLLM."""
        try:
            await self.llm.check_health()
        except EngineDeadError as error:
            raise RuntimeError(str(error)) from None

    async def death(self) -> None:
        """Returns once the engine's process has died, and vLLM knows."""
        while not self.llm.errored:
            await asyncio.sleep(_LOOK)

    async def generate(
        self,
        prompt: str | Sequence[Turn],
        images: Sequence[Image.Image],
        sampling: Sampling,
        version: int | None = None,
    ) -> tuple[list[int], list[Sampled]]:
        """Answer a human turn, or a conversation that ends with one, with the policy of `version`, or the base model.

        `<image>` stands for each image. Returns the prompt's token ids, image placeholders expanded, and `sampling.n`
        completions. Raises `PromptRefused` for a prompt that is too long, and whatever else ends this request alone.
        """
        turns = [Turn(from_="human", value=prompt)] if isinstance(prompt, str) else prompt
        text = prompt_text(self.processor, [turn.model_dump(by_alias=True) for turn in turns])
        tokens = self.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        request = TokensPrompt(prompt_token_ids=tokens, multi_modal_data={"image": list(images)})
        with _Using(self._in_use, version):
            final: RequestOutput | None = None
            # the model itself may have become that version
            adapter = None if version is None or version == self._whole else self.lora_request(version)
            name = f"request-{next(self._request_ids)}"
            try:
                async for output in self.llm.generate(request, self._parameters(sampling), name, lora_request=adapter):
                    final = output
            except (VLLMClientError, EngineGenerateError) as error:
                raise PromptRefused(" ".join(str(error.__cause__ or error).split())) from error
        if final is None or final.prompt_token_ids is None:
            raise RuntimeError("the engine ended a request without an answer")
        return list(final.prompt_token_ids), [self._sampled(output, version) for output in final.outputs]

    def close(self) -> None:
        """Stop the engine and its processes."""
        self.llm.shutdown()

    async def _unload_unused(self) -> None:
        for version in self.versions:
            if version != self._newest and not self._in_use[version]:
                await self.llm.remove_lora(self._adapters.pop(version).lora_int_id)

    def _parameters(self, sampling: Sampling) -> SamplingParams:
        schema = sampling.json_schema
        return SamplingParams(
            n=sampling.n,
            temperature=sampling.temperature,
            top_p=1.0,
            top_k=-1,
            min_p=0.0,
            presence_penalty=0.0,
            frequency_penalty=0.0,
            repetition_penalty=1.0,
            max_tokens=sampling.max_tokens,
            min_tokens=0,
            seed=sampling.seed,
            stop=[],
            stop_token_ids=[self._end_of_turn],
            ignore_eos=False,
            bad_words=[],
            allowed_token_ids=None,
            watermarking=False,
            logprobs=sampling.top_logprobs,
            logprob_token_ids=None,
            prompt_logprobs=None,
            prompt_logprob_token_ids=None,
            prompt_logprob_start=None,
            flat_logprobs=True,
            logit_bias=self.penalties,
            structured_outputs=StructuredOutputsParams(json=schema) if schema is not None else None,
            thinking_token_budget=None,
            repetition_detection=None,
            detokenize=False,
            skip_special_tokens=False,
            spaces_between_special_tokens=False,
            include_stop_str_in_output=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            stream_interval=None,
            skip_clone=False,
            skip_reading_prefix_cache=False,
            extra_args=None,
            routed_experts_prompt_start=0,
            trace_decode_token_ids=None,
        )

    def _sampled(self, output: CompletionOutput, version: int | None) -> Sampled:
        """An answer of vLLM's to a request that began with policy `version`."""
        token_ids = list(output.token_ids)
        logprobs, top_logprobs = _logprobs(output.logprobs)
        written = token_ids[:-1] if token_ids and token_ids[-1] == self._end_of_turn else token_ids
        text = self.processor.tokenizer.decode(written, skip_special_tokens=False)
        return Sampled(
            token_ids, logprobs, text, str(output.finish_reason), top_logprobs, self._versions(output, version)
        )

    def _versions(self, output: CompletionOutput, version: int | None) -> list[int]:
        """The policy version that sampled each token of an answer to a request that began with `version`."""
        if self._whole is None or output.weight_versions is None:
            return [version or 0] * len(output.token_ids)
        return [int(span.version) for span in output.weight_versions for _ in range(span.start, span.end)]


def _verified(weights: Published) -> str:
    """The checksum of published files. Raises `RuntimeError` where it is another one than when they were published."""
    found = checksum(weights.path)
    if found != weights.checksum:
        raise RuntimeError(f"{weights.path} has checksum {found[:12]}, published was {weights.checksum[:12]}")
    return found


class _Using:
    """Counts a request among the users of its policy version for as long as it runs."""

    def __init__(self, users: Counter[int], version: int | None) -> None:
        self.users, self.version = users, version

    def __enter__(self) -> None:
        if self.version is not None:
            self.users[self.version] += 1

    def __exit__(self, *exception: object) -> None:
        if self.version is not None:
            self.users[self.version] -= 1


def _logprobs(found: object) -> tuple[list[float], list[dict[int, float]]]:
    """The log-probability of each sampled token, and the likeliest tokens at its place where any were asked for."""
    if not isinstance(found, FlatLogprobs):
        return [], []
    # one list for all places; at each the sampled token comes first, whatever its rank
    sampled = [found.logprobs[start] for start in found.start_indices]
    if len(found.logprobs) == len(sampled):
        return sampled, []
    places = zip(found.start_indices, found.end_indices, strict=True)
    return sampled, [
        dict(zip(found.token_ids[start:end], found.logprobs[start:end], strict=True)) for start, end in places
    ]
