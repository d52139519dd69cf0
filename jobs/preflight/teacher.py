"""Whether the teacher's server answers and takes the key, before images are read for an hour."""

from dermo_ray.asking.endpoint import reach
from dermo_ray.config.asking import EndpointSettings
from dermo_ray.errors import UserError
from jobs.preflight.finding import Finding

CHECK = "teacher"


def check_teacher(endpoint: EndpointSettings) -> Finding:
    """Ask the server for its models; nothing is annotated, and nothing is paid for."""
    try:
        reach(endpoint, "the teacher")
    except UserError as error:
        return Finding(CHECK, "fail", str(error))
    return Finding(CHECK, "pass", f"{endpoint.base_url} answers")
