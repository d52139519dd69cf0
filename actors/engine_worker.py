"""What vLLM's worker processes do for an engine beyond what they can do by themselves."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor
from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod
from vllm.model_executor.model_loader import get_model_loader

from actors.merging import merged
from dermo_ray.models.fingerprint import fingerprint


class EngineWorker:
    """vLLM's hook for code in its workers: the worker becomes a subclass of this."""

    model_runner: Any
    reload_weights: Any
    vllm_config: Any

    def replace_weights(self, folder: str) -> None:
        """Load the weights in `folder` in place of those that are there."""
        self._reload(weights_path=folder)

    def merge_adapter(self, folder: str) -> None:
        """Load the weights that were last loaded whole, those that the adapter in `folder` covers changed by it."""
        model, config = self.model_runner.get_model(), self.vllm_config
        loader: Any = get_model_loader(config.load_config)  # its base class does not declare the method called here
        weights = loader.get_all_weights(config.model_config, model)
        mapper = getattr(model, "hf_to_vllm_mapper", None)
        self._reload(weights_iterator=merged(weights, Path(folder), mapper, next(model.parameters()).device))

    def _reload(self, **source: Any) -> None:
        """Let vLLM load every weight anew.

        On a CPU vLLM 0.32 multiplies by packed copies, and an output layer that shares its weights with the input
        embeddings has one of its own, which `reload_weights` leaves as it was: it is packed anew here.
        """
        self.reload_weights(**source)
        for layer in self.model_runner.get_model().modules():
            method = getattr(layer, "quant_method", None)
            if isinstance(method, UnquantizedEmbeddingMethod):
                method.process_weights_after_loading(layer)

    def note_received(self) -> None:
        """From now on, add up the fingerprint of the weights that the model is given, whole as they are sent.

        vLLM's receiver hands them to the model's `load_weights`, in each of the workers that an engine is cut over.
        """
        model = self.model_runner.get_model()
        load, self._received = type(model).load_weights, 0

        def noting(weights: Iterable[tuple[str, Tensor]]) -> Any:
            several = list(weights)
            self._received = (self._received + fingerprint(tensor for _, tensor in several)) % 2**64
            return load(model, several)

        model.load_weights = noting

    def weights_received(self) -> int:
        """The fingerprint of what came since `note_received`, which ends here."""
        del self.model_runner.get_model().load_weights
        return self._received

    def weights_held(self) -> int:
        """The fingerprint of the weights that this worker holds: all of them, unless it is one of several."""
        return fingerprint(self.model_runner.get_model().parameters())
