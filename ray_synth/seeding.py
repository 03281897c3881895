"""Names in, seeds out: every random draw is a function of what it is for, never of where or when it runs."""

import hashlib


def derive_seed(*names: str | int) -> int:
    """A seed in [0, 2**63) for the thing that `names` name; other names give an independent seed.

    >>> derive_seed("generator", 0, "class", 3) == derive_seed("generator", 0, "class", 3)
    True
    """
    text = "\x1f".join(f"{type(name).__name__}:{name}" for name in names)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def image_seed(generator_digest: str, label: int, index: int) -> int:
    """The seed of one synthetic image: (generator digest, class, index) and nothing else."""
    return derive_seed("image", generator_digest, int(label), int(index))
