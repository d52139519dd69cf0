"""What a fork server of engines loads before it starts any; imported for that alone."""

from actors.engine_process import uncollected

with uncollected():
    import vllm.v1.engine.core  # noqa: F401

    import actors.engine_worker  # noqa: F401
