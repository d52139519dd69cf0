"""The service's metrics in Prometheus' format, of the process that receives the requests.

Labels have few values by design: a release's label never is one, since a run makes releases without end.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from serve.catalogue import Catalogue
from serve.messages import Usage
from serve.replies import CCTReply

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Counters and gauges of one process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "dermo_ray_requests", "Requests by route, status and state of the release.", ["route", "status", "state"],
            registry=self._registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "dermo_ray_request_seconds", "Seconds until an answer was complete.", ["route"], buckets=_SECONDS,
            registry=self._registry,
        )  # fmt: skip
        self._tokens = Counter("dermo_ray_tokens", "Tokens by kind.", ["kind", "state"], registry=self._registry)
        self._under_way = Gauge("dermo_ray_requests_under_way", "Requests received and not yet answered.", ["route"],
                                registry=self._registry)  # fmt: skip
        self._refused = Counter("dermo_ray_overloaded", "Requests turned away because too many wait, or none is up.",
                                registry=self._registry)  # fmt: skip
        self._version = Gauge("dermo_ray_policy_version", "Learner updates that the release has seen.", ["state"],
                              registry=self._registry)  # fmt: skip
        self._share = Gauge("dermo_ray_canary_share", "Share of requests that the candidate answers.",
                            registry=self._registry)  # fmt: skip
        self._swaps = Counter("dermo_ray_swaps", "Times that another release took over.", registry=self._registry)
        self._refusals = Gauge("dermo_ray_checkpoints_refused", "Checkpoints whose refusal is remembered.",
                               registry=self._registry)  # fmt: skip
        self._cct = Counter("dermo_ray_cct", "Answers by CCT, and what they came to.", ["outcome"],
                            registry=self._registry)  # fmt: skip
        self._rollouts = Counter("dermo_ray_cct_rollouts", "Rollouts that CCT sampled.", registry=self._registry)
        self._cct_tokens = Counter("dermo_ray_cct_tokens", "Tokens that CCT generated.", registry=self._registry)
        self._promoted: str | None = None

    def begun(self, route: str) -> None:
        """A request has arrived."""
        self._under_way.labels(route).inc()

    def ended(self, route: str, status: int, seconds: float, state: str, usage: Usage) -> None:
        """A request has been answered, by a release in `state`, or by none."""
        self._under_way.labels(route).dec()
        self._requests.labels(route, str(status), state).inc()
        self._seconds.labels(route).observe(seconds)
        self._tokens.labels("prompt", state).inc(usage.prompt_tokens)
        self._tokens.labels("completion", state).inc(usage.completion_tokens)
        if status == 503:
            self._refused.inc()

    def inferred(self, reply: CCTReply, usage: Usage) -> None:
        """CCT has come to an answer."""
        self._cct.labels("abstained" if reply.abstain else "answered").inc()
        self._rollouts.inc(reply.sampled)
        self._cct_tokens.inc(usage.completion_tokens)

    def follow(self, catalogue: Catalogue) -> None:
        """The catalogue is another one."""
        if self._promoted not in (None, catalogue.promoted):
            self._swaps.inc()
        self._promoted = catalogue.promoted
        self._version.clear()
        self._version.labels("promoted").set(catalogue.newest.version)
        if catalogue.candidate is not None:
            self._version.labels("candidate").set(catalogue.releases[catalogue.candidate].version)
        self._share.set(catalogue.canary_share)
        self._refusals.set(len(catalogue.refused))

    def text(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self._registry)
