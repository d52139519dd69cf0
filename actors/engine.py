"""The one place that touches vLLM's engine: an `AsyncLLM` whose adapters go by policy version.

Invariants: every sampling field is sent, so that no default of a model folder slips in; log-probabilities are those of
the distribution that was sampled from; a request keeps the adapter that it began with, and an adapter is unloaded only
when no request uses it.
"""

import itertools
import os
from collections import Counter
from collections.abc import Sequence

from PIL import Image
from vllm import AsyncEngineArgs, SamplingParams
from vllm.inputs import TokensPrompt
from vllm.logprobs import FlatLogprobs
from vllm.lora.request import LoRARequest
from vllm.model_executor.model_loader.utils import get_model_cls
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
from vllm.v1.engine.async_llm import AsyncLLM

from actors.adapters import Adapter, adapts_vision, checksum
from actors.messages import Sampled, Sampling
from dermo_ray.config.model import ModelSettings
from dermo_ray.config.pools import EngineSettings
from dermo_ray.errors import UserError
from dermo_ray.models.chat import banned_token_ids, end_of_turn_id, load_processor, prompt_text

_BAN = -100.0
"""The largest penalty vLLM takes; at any temperature the token's probability is 0 in float32."""


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
        self._request_ids = itertools.count()

    @classmethod
    def start(
        cls, model: ModelSettings, settings: EngineSettings, lora_rank: int | None, *, on_gpu: bool, threads: int = 1
    ) -> "Engine":
        """Start an engine on this process's GPUs, or on `threads` CPU threads. Call it from a running event loop."""
        if not on_gpu:
            _prepare_cpu(threads)
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
            # On a CPU a prompt cut in two can't have a seed of its own (torch's CPU generator has no offset).
            enable_chunked_prefill=on_gpu,
            **(
                {"gpu_memory_utilization": settings.gpu_memory_utilization}
                if on_gpu
                else {
                    "worker_extension_cls": "actors.cpu_lora.DenseLora",
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

    async def load(self, adapter: Adapter) -> str:
        """Load an adapter and make it the one that new requests use; returns the checksum of what was loaded.

        Versions that no request uses any more are unloaded. Raises `RuntimeError` where the files are not the published
        ones, where the engine would leave a part of them out, or does not list the adapter afterwards.
        """
        found = checksum(adapter.path)
        if found != adapter.checksum:
            raise RuntimeError(f"{adapter.path} has checksum {found[:12]}, published was {adapter.checksum[:12]}")
        lora = self.llm.vllm_config.lora_config
        if adapts_vision(adapter.path) and not (lora and lora.enable_tower_connector_lora):
            raise RuntimeError(
                f"{adapter.path} changes the vision tower: engines need engine.vision_adapters=true for it"
            )
        request = LoRARequest(f"policy-v{adapter.version:06d}", adapter.version + 1, str(adapter.path))
        await self.llm.add_lora(request)
        if request.lora_int_id not in await self.llm.list_loras():
            raise RuntimeError(f"the engine did not take policy version {adapter.version} from {adapter.path}")
        self._adapters[adapter.version] = request
        self._newest = adapter.version
        await self._unload_unused()
        return found

    @property
    def version(self) -> int | None:
        """The policy version that new requests get; None is the base model."""
        return self._newest

    @property
    def versions(self) -> list[int]:
        """The policy versions that are loaded."""
        return sorted(self._adapters)

    def lora_request(self, version: int) -> LoRARequest:
        """How vLLM knows the loaded policy `version`."""
        return self._adapters[version]

    async def check_health(self) -> None:
        """Raises vLLM's error where the engine is dead."""
        await self.llm.check_health()

    async def generate(
        self, prompt: str, images: Sequence[Image.Image], sampling: Sampling, version: int | None = None
    ) -> tuple[list[int], list[Sampled]]:
        """Answer one human turn (`<image>` stands for each image) with the policy of `version`, or the base model.

        Returns the prompt's token ids, image placeholders expanded, and `sampling.n` completions.
        """
        text = prompt_text(self.processor, [{"from": "human", "value": prompt}])
        tokens = self.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        request = TokensPrompt(prompt_token_ids=tokens, multi_modal_data={"image": list(images)})
        with _Using(self._in_use, version):
            final: RequestOutput | None = None
            async for output in self.llm.generate(
                request,
                self._parameters(sampling),
                f"request-{next(self._request_ids)}",
                lora_request=None if version is None else self.lora_request(version),
            ):
                final = output
        if final is None or final.prompt_token_ids is None:
            raise RuntimeError("the engine ended a request without an answer")
        return list(final.prompt_token_ids), [self._sampled(output) for output in final.outputs]

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
            logprobs=0,
            flat_logprobs=True,
            logit_bias=self.penalties,
            structured_outputs=StructuredOutputsParams(json=schema) if schema is not None else None,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _sampled(self, output: CompletionOutput) -> Sampled:
        token_ids = list(output.token_ids)
        # flat log-probabilities hold the sampled token's alone, position by position
        logprobs = list(output.logprobs.logprobs) if isinstance(output.logprobs, FlatLogprobs) else []
        written = token_ids[:-1] if token_ids and token_ids[-1] == self._end_of_turn else token_ids
        text = self.processor.tokenizer.decode(written, skip_special_tokens=False)
        return Sampled(token_ids, logprobs, text, str(output.finish_reason))


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


def _prepare_cpu(threads: int) -> None:
    """Settings that vLLM's CPU workers read from their environment."""
    os.environ.update(
        OMP_NUM_THREADS=str(threads),
        VLLM_CPU_OMP_THREADS_BIND="nobind",  # actors share cores as the kernel sees fit
        VLLM_ENABLE_V1_MULTIPROCESSING="0",  # lets the model run inside the engine's process: one process less
    )
