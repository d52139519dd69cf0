"""Makes an API key for the service, adds its hash to a file, and prints the key once: `file=keys.yaml name=lab`.

`safety.keys_file` of jobs.serve names the file. To withdraw a key, take its entry out of the file; a running service
notices within a second.
"""

from dermo_ray.config.keys import KeysConfig
from jobs.command import main
from serve.safety import keys

CONFIG = KeysConfig


def run(config: KeysConfig) -> None:
    """Add the key and print it."""
    print(keys.add(config.file, config.name, config.role))


if __name__ == "__main__":
    main(CONFIG, run, __doc__)
