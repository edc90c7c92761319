"""What the sizes of objects tell hosts that see everything: games between two worlds, and guesses beside a secret.

A31: who chooses two sets of files of the same total cannot tell from the whole transcript (every object's size, in
order) which of them was stored. A32: nor which sizes many small files have. A35: nor whether a guess beside a secret
was right. With ``coarse_sizes`` all three hold; the default says something about each, and the tests say how much.
``-m fuzz --rounds N`` plays N rounds of each world.
"""

import itertools
import math
import os
import random
import shutil
from collections import Counter
from dataclasses import replace

import pytest

from megafs.packs.codec import Codec
from megafs.packs.format import layout, sealed_bytes
from tests.security import rig as rigs
from tests.security.rig import Rig

# Nothing is committed or shipped before it is told to: how often it would be while the test writes is a matter of time,
# not of size, and on a busy machine it was all that a classifier saw.
FINE = replace(rigs.SETTINGS, compression=True, commit_s=60.0, pack_idle_s=3600.0, pack_age_s=3600.0)
COARSE = replace(FINE, coarse_sizes=True)
FEW, MANY = 2, 40
WORDS = [b"the", b"quick", b"brown", b"fox", b"jumps", b"over", b"a", b"lazy", b"dog", b"\n"]


def text(size):
    """What compresses to a third."""
    chance = random.Random(os.urandom(8))
    return b" ".join(chance.choice(WORDS) for _ in range(size // 4 + 9))[:size]


def one_large():
    return [os.urandom(700_000)]


def many_small():
    return [os.urandom(20_000) for _ in range(35)]


def compressible():
    return [text(700_000)]


def rising():
    return [os.urandom(100 + 10 * n) for n in range(40)]


def two_sizes():
    return [os.urandom(100 if n % 2 else 490) for n in range(40)]


async def transcript(base, settings, files):
    """What one host sees of storing these files: verbs and sizes, in order. Names are pseudonyms, contents sealed."""
    rig = Rig(base, 1)
    rig.settings = settings
    async with rig.running() as drive:
        await drive.write(b"what everybody knows is here", b"x" * 3000)
        await drive.sync()
        rig.brain.transcript.clear()
        for number, data in enumerate(files):
            await drive.write(b"%04d" % number, data)
        await drive.sync()
        return tuple((seen.verb, len(seen.data)) for seen in rig.brain.transcript if seen.verb == "put")


def advantage(left, right):
    """Of the best classifier that knows how often each transcript comes from each world: half of the rounds teach it,
    the other half are played. 0: a coin does as well, 1: it always knows. And the upper end of its 95 % interval."""
    half = len(left) // 2
    taught, won = [Counter(world[:half]) for world in (left, right)], []
    for side, world in enumerate((left, right)):
        for each in world[half:]:
            here, there = taught[side][each], taught[1 - side][each]
            won.append(0.0 if here == there else 1.0 if here > there else -1.0)
    mean = sum(won) / len(won)
    deviation = math.sqrt(sum((each - mean) ** 2 for each in won) / len(won))
    return mean, mean + 1.96 * deviation / math.sqrt(len(won))


async def played(tmp_path, settings, worlds, rounds):
    """The transcripts of so many rounds in each of two worlds, taken in turns."""
    seen = ([], [])
    for number in range(rounds):
        for side, files in enumerate(worlds):
            base = tmp_path / f"{number}-{side}"
            seen[side].append(await transcript(base, settings, files()))
            shutil.rmtree(base)  # a game at length would fill a disk
    return seen


GAMES = {
    "A31 one large file or many small ones": (one_large, many_small),
    "A31 noise or text": (one_large, compressible),
    "A32 many sizes or two": (rising, two_sizes),
}


@pytest.mark.parametrize("game", GAMES)
async def test_coarse_sizes_are_the_same_whatever_is_stored(tmp_path, game):
    """A31, A32."""
    left, right = await played(tmp_path, COARSE, GAMES[game], FEW)
    assert len({*left, *right}) == 1, "one transcript for every round of both worlds"


@pytest.mark.parametrize("game", GAMES)
async def test_control_fine_sizes_tell_the_worlds_apart(tmp_path, game):
    """The game is not won by a transcript that sees nothing (A31, A32)."""
    left, right = await played(tmp_path, FINE, GAMES[game], FEW)
    assert not {*left} & {*right}


@pytest.mark.fuzz
@pytest.mark.parametrize("game", GAMES)
async def test_games_at_length(tmp_path, game, request):
    """A31."""
    rounds = request.config.getoption("--rounds") or MANY
    for name, settings, count in (("fine", FINE, min(MANY, rounds)), ("coarse", COARSE, rounds)):
        left, right = await played(tmp_path / name, settings, GAMES[game], count)
        won, most = advantage(left, right)
        kinds = len({*left}), len({*right}), len({*left} & {*right})
        print(f"{game}, {name}: {2 * count} trials, transcripts {kinds}, advantage {won:.3f}, at most {most:.3f}")
        assert most < 0.05 if name == "coarse" else won > 0.5, "the control: where sizes are fine the game is won"


def test_the_classifier_wins_where_there_is_something_to_see():
    """A31."""
    assert advantage([("a",)] * 10, [("b",)] * 10) == (1, 1)
    assert advantage([("a",)] * 10, [("a",)] * 10) == (0, 0)
    won, most = advantage([("a",), ("b",)] * 50, [("a",), ("a",)] * 50)
    assert 0.3 < won < most < 0.7


# A35

SECRET = b"session token: " + os.urandom(9).hex().encode()


def shown(filler, guess, *, coarse):
    """The size of the pack that holds one chunk with the secret, a guess and what the attacker fills up with."""
    codec = Codec(enabled=not coarse)
    plain = SECRET + b"\n" + b"session token: " + guess + filler
    _, data = codec.compress(plain)
    return layout(sealed_bytes(len(data)), 1, full=False, coarse=coarse).stored_bytes


def guesses(count):
    """The right one, one that shares its first half, and others of the same length."""
    right = SECRET.removeprefix(b"session token: ")
    yield right
    yield right[:9] + os.urandom(5).hex().encode()[:9]
    yield from (os.urandom(9).hex().encode() for _ in range(count))


def test_with_coarse_sizes_a_right_guess_looks_like_a_wrong_one():
    """Whatever is filled up with, so also where a size is about to change (A35)."""
    for size in (0, 500, 3000, 40_000, 250_000):
        assert len({shown(os.urandom(size), guess, coarse=True) for guess in guesses(50)}) == 1


def test_control_by_default_who_may_choose_the_rest_of_a_file_can_try_guesses():
    """What the default profile leaks, said in THREAT-MODEL.md: with filler up to the edge of a size, the right guess
    is the one that stays below it (A35)."""
    right, half, *wrong = guesses(20)
    noise = os.urandom(20_000).hex().encode()  # compresses to half
    for size in itertools.count(9000):
        filler = noise[:size]
        if all(shown(filler, guess, coarse=False) > shown(filler, right, coarse=False) for guess in wrong):
            break
        assert size < 12_000, "no edge was met"
    assert {shown(filler, guess, coarse=True) for guess in (right, half, *wrong)} == {1 << 20}


@pytest.mark.fuzz
def test_a_hundred_thousand_guesses():
    seen = Counter(shown(b"", guess, coarse=True) for guess in guesses(100_000))
    print(f"A35, coarse: {sum(seen.values())} guesses, {len(seen)} size")
    assert len(seen) == 1
