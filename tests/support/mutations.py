"""Changes to the bytes of a file, for the tests that try many of them."""

import json
import random
import subprocess
import sys


def flip(content: bytes, chance: random.Random) -> bytes:
    """Some bytes changed, most of them near the beginning, where headers are."""
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 8, 50))):
        end = chance.choice((16, 200, 4000, len(changed)))
        if changed:
            changed[chance.randrange(min(end, len(changed)))] = chance.randrange(256)
    return bytes(changed)


def cut(content: bytes, chance: random.Random) -> bytes:
    """Removes the end or another part, or repeats a part at the end."""
    start, end = sorted(chance.randrange(len(content) + 1) for _ in range(2))
    return chance.choice((content[:start], content[:start] + content[end:], content + content[start:end]))


def exaggerate(content: bytes, chance: random.Random) -> bytes:
    """Some numbers of one to four bytes near the beginning, where sizes are, set to extremes."""
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 4))):
        size = chance.choice((1, 2, 2, 4, 4))
        value = chance.choice((0, 1, 255, 256, 0x7FFF, 0x8000, 0xFFFF, 30_000, 1 << 20, 0x7FFFFFFF, 0xFFFFFFFF))
        place = chance.randrange(min(len(changed), chance.choice((64, 300, 4000))))
        raw = (value % (1 << 8 * size)).to_bytes(size, chance.choice(("little", "big")))
        changed[place : place + size] = raw[: len(changed) - place]
    return bytes(changed)


def outcomes_of(file: str, *arguments: str) -> dict[str, int]:
    """Runs a test's file as a script in its own process; returns how often each outcome occurred."""
    done = subprocess.run([sys.executable, "-X", "faulthandler", file, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-5000:]
    return json.loads(done.stdout.splitlines()[-1])
