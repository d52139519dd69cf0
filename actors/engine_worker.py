"""What vLLM's worker processes do for an engine beyond what they can do by themselves."""

from typing import Any

from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod

from dermo_ray.models.fingerprint import fingerprint


class EngineWorker:
    """vLLM's hook for code in its workers: the worker becomes a subclass of this."""

    model_runner: Any
    reload_weights: Any

    def replace_weights(self, folder: str) -> None:
        """Load the weights in `folder` in place of those that are there.

        On a CPU vLLM 0.32 multiplies by packed copies, and an output layer that shares its weights with the input
        embeddings has one of its own, which `reload_weights` leaves as it was: it is packed anew here.
        """
        self.reload_weights(weights_path=folder)
        for layer in self.model_runner.get_model().modules():
            method = getattr(layer, "quant_method", None)
            if isinstance(method, UnquantizedEmbeddingMethod):
                method.process_weights_after_loading(layer)

    def weight_fingerprint(self) -> int:
        """The fingerprint of the weights that this worker holds."""
        return fingerprint(self.model_runner.get_model().parameters())
