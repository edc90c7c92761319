"""Words that stand nowhere in the program: old modes, padding, weak randomness, other ways to open (A05, A06, A23).

Who may import which library is in tests/test_tidy.py: only megafs.crypto imports cryptography.
"""

import re
from pathlib import Path

import pytest

import megafs

ROOT = Path(megafs.__file__).parent
SOURCES = sorted(ROOT.rglob("*.py"))
FORBIDDEN = {
    "a mode or padding": re.compile(r"\b(ECB|CBC|CTR|CFB|OFB|PKCS7|PKCS1v15|ARC4|TripleDES|MD5|SHA1)\b"),
    "RSA": re.compile(r"\brsa\b"),
    "unpickling": re.compile(r"^\s*(import|from) (pickle|marshal|shelve)\b", re.M),
    "evaluation": re.compile(r"(?<![.\w])(eval|exec)\("),
    "a shell": re.compile(r"shell=True|os\.system\("),
    "tls without checks": re.compile(r"verify=False|CERT_NONE|known_hosts=None"),
}
RANDOM = re.compile(r"^\s*(import random\b|from random import)", re.M)
JITTER = {"hosts/wrappers.py", "hosts/measured.py"}  # pauses between tries, nothing secret
OPENERS = {"crypto/seal.py", "crypto/partial.py"}  # the only modules that name an AEAD
AEAD = re.compile(r"Cobblestone256|AESGCM|\bAESSIV\b|ChaCha20Poly1305")
COMPARED = re.compile(r"\b(tag|mac|digest|signature|secret|seed|key)\b *== *[a-z]|== *\b(tag|mac|secret|seed)\b")


def found(text: str, name: str) -> list[str]:
    """What is wrong with a module of this name."""
    wrong = [kind for kind, pattern in FORBIDDEN.items() if pattern.search(text)]
    if RANDOM.search(text) and name not in JITTER:
        wrong.append("random")
    if AEAD.search(text) and name not in OPENERS:
        wrong.append("opens bytes by itself")
    if name.startswith("crypto/") and COMPARED.search(text):
        wrong.append("compares a secret with ==")
    return wrong


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_clean(path: Path) -> None:
    """A05."""
    assert found(path.read_text(), str(path.relative_to(ROOT))) == []


@pytest.mark.parametrize(
    "line",
    [
        "cipher = Cipher(AES(key), modes.CBC(iv))",
        "from cryptography.hazmat.primitives.asymmetric import rsa",
        "import random",
        "from random import randbytes",
        "import pickle",
        "subprocess.run(x, shell=True)",
        "httpx.AsyncClient(verify=False)",
        "AESGCM(key).decrypt(nonce, data, None)",
    ],
)
def test_control_a_forbidden_word_is_found(line: str) -> None:
    """A05."""
    assert found(f"{line}\n", "store/reader.py")


def test_control_comparing_a_secret_is_found() -> None:
    """A23."""
    assert found("if key == given:\n", "crypto/keys.py")
