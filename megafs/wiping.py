"""How secrets end: their bytes are overwritten, as far as CPython allows. Pure, and imports nothing heavy."""

import ctypes

KEY_BYTES = 32
HALF_BYTES = KEY_BYTES // 2


def wipe(*secrets: bytes) -> None:
    """Overwrite the bytes of objects that nobody will use again. A copy that something else made (a conversion, a
    slice, a library) is not reached."""
    for secret in secrets:
        if len(secret) >= HALF_BYTES:  # shorter ones may be shared constants
            ctypes.memset(id(secret) + bytes.__basicsize__ - 1, 0, len(secret))


def own(secret: bytes) -> bytes:
    """A copy that only its maker has, to be wiped without harm to others."""
    return bytes(bytearray(secret))
