"""The recovery key in parts: SLIP-39 shares, of which M of N give it back and fewer say nothing.

A share is 33 words of a list of its own; the sharing is Trezor's reference implementation. What a person types is 24
words, or the words of enough shares one after the other, in any layout; lines that begin with ``#`` are remarks, so a
printed sheet can be read back as it is.
"""

import re
import unicodedata

from shamir_mnemonic import (  # type: ignore[import-untyped]
    MnemonicError,
    Share,
    combine_mnemonics,
    generate_mnemonics,
)

from megafs.crypto.recovery import RecoveryKey
from megafs.crypto.seal import same
from megafs.errors import Usage, WrongKey
from megafs.wiping import KEY_BYTES

SHARE_WORDS = 33  # of 10 bits: who belongs together, which, 256 bits, a checksum
SHARES_MOST = 16
REMARK = re.compile(r"^\s*#.*$", re.M)


def split(key: RecoveryKey, needed: int, count: int) -> list[str]:
    """``count`` shares, any ``needed`` of which are enough. Every call makes others, which do not mix. Raises Usage."""
    if not 1 < needed <= count <= SHARES_MOST:
        raise Usage(f"shares are M-of-N, at least 2-of-2 and at most {SHARES_MOST}-of-{SHARES_MOST}")
    shares: list[str]
    (shares,) = generate_mnemonics(1, [(needed, count)], key.secret)
    assert same(joined(shares[:needed]).secret, key.secret), "parsed back before anybody relies on them"
    return shares


def recovery_key(text: str) -> RecoveryKey:
    """From 24 words or from shares. WrongKey does not repeat a word."""
    words = re.findall(r"[^\W\d_]+", unicodedata.normalize("NFKC", REMARK.sub("", text)).lower())
    if not words or len(words) % SHARE_WORDS:
        return RecoveryKey.from_text(" ".join(words))
    return joined([" ".join(words[at : at + SHARE_WORDS]) for at in range(0, len(words), SHARE_WORDS)])


def joined(texts: list[str]) -> RecoveryKey:
    """From shares of 33 words each; more than enough do no harm. Raises WrongKey."""
    shares: dict[int, Share] = {}
    for number, text in enumerate(texts, 1):
        try:
            share = Share.from_mnemonic(text)
        except MnemonicError:
            raise WrongKey(f"Share {number} is no share: look for a misspelt word, or one in another place.") from None
        first = next(iter(shares.values()), share)
        if share.group_parameters() != first.group_parameters() or share.group_count != 1:
            raise WrongKey(f"Share {number} is not of the same set as the first: shares made at two times do not mix.")
        shares[share.index] = share
    needed = next(iter(shares.values())).member_threshold
    if len(shares) < needed:
        raise WrongKey(f"{needed} different shares are needed, these are {len(shares)}.")
    try:
        secret = combine_mnemonics([share.mnemonic() for share in list(shares.values())[:needed]])
    except MnemonicError:
        secret = b""
    if len(secret) != KEY_BYTES:
        raise WrongKey("These shares do not belong together: one of them was made up.")
    return RecoveryKey(secret)
