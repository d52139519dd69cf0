"""What stands between a request and the model: keys, limits, and images that are checked before anyone looks at them.

Invariants: a request that is refused costs little memory, and is told why in OpenAI's error shape with a 4xx status;
nothing is fetched from an address that was not checked; no text and no image reaches a log unless that is switched on.
Needs neither Ray nor vLLM.
"""
