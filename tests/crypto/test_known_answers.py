"""Published vectors: Wycheproof and C2SP for sealing (library and range reader), RFCs and NIST for what lies below.

Of Wycheproof there is what is typed in below: the package ``cryptography-vectors`` brings C2SP's vectors of chunked
encryption, and RFCs and NIST for AES-GCM, HKDF, HMAC, Argon2id and Ed25519, but none of Wycheproof's files.
"""

import json
import re
import zlib
from base64 import b64decode
from hashlib import sha256
from hmac import digest as hmac_digest
from importlib.resources import files

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from megafs.crypto.identity import SigningKey
from megafs.crypto.partial import cover, open_derived, open_range
from megafs.crypto.seal import ALGORITHM, expand, open_sealed, plain_bytes
from megafs.errors import Unauthentic

PUBLISHED = files("cryptography_vectors")


def published(*path):
    return PUBLISHED.joinpath(*path).read_text()


def records(text):
    """Blocks of ``name = value`` lines."""
    for block in re.split(r"\n\s*\n", text):
        pairs = re.findall(r"^(\w+)\s*=[ ]?(.*)$", block, re.M)
        if pairs:
            yield dict(pairs)


# The construction with HKDF-SHA-256; Cobblestone-256 takes SHA-512. So these run on our reader of segments, whose
# derivation is pinned to SHA-512 by the two vectors below and by opening what the library sealed (test_partial).
CHUNKED = [
    vector
    for vector in json.loads(published("chunked-encryption", "vectors.json"))["vectors"]
    if vector["aead"] == "AEAD_AES_256_GCM"
]

# Wycheproof, c2sp_chunked_encryption_aes_256_gcm_test.json, tests 1 and 2 (SHA-512).
WYCHEPROOF = [
    {
        "key": "59454c4c4f57205355424d4152494e452059454c4c4f57205355424d4152494e",
        "ct": "78da004800b7ff43a2e39431cbae0389d3fc86adf46f7c3a24de88d9311617e53f3164cc1d5dc738a66b97f0bf"
        "786565c31799c2f463d50a7e10046011dc6fc3c939e3a5db7affb6191551669554fb010000ffff4bc124df"
        "",
        "aeadKey": "781b72bce3c966fffb09e5d596e1d21b029b21a9599852fb9b9f644e23b86ae8",
        "baseNonce": "f206a92ac0ba380c8e9e3843",
        "length": 0,
    },
    {
        "key": "59454c4c4f57205355424d4152494e452059454c4c4f57205355424d4152494e",
        "ct": "78da004f00b0ffa1a1b56f6db58cd1ede0c5c9db62aef20d3f96a6c594bb9252bb38122de91236502b42a1d7fc"
        "ab820ffa292940d2f86add212cfa42c38df19d3cc9139ee61a5990d3db57433514229beea49a8a72bd010000ff"
        "ffdb4f2a44",
        "aeadKey": "14769f63d5e1008908efe8662d188e058d05be2ef94d5b4bc626bc33be412568",
        "baseNonce": "e73f670906cb3124dea731e1",
        "length": 7,
    },
]


def sealed_of(vector):
    data = b64decode(vector["ciphertext"] or "")
    return zlib.decompress(data) if vector.get("compressed") else data


def by_ranges(reader, sealed, pieces):
    """The whole object, opened range by range."""
    total = plain_bytes(len(sealed))
    plain = b""
    for start in range(0, total + 1, pieces):
        stop = min(start + pieces, total)
        low, high = cover(total, start, stop)
        plain += reader(total_bytes=total, start=start, stop=stop, header=sealed[:56], part=sealed[low:high])
    return plain


def test_the_package_brings_no_files_of_wycheproof():
    """Fails once it does: then they are to be used here."""
    assert not PUBLISHED.joinpath("wycheproof").is_dir()


def test_there_are_vectors():
    assert len([vector for vector in CHUNKED if vector["expect"] == "success"]) == 9
    assert len([vector for vector in CHUNKED if vector["expect"] == "failure"]) == 25


@pytest.mark.parametrize("pieces", [1 << 30, 100_000, 16_384, 5_000])
@pytest.mark.parametrize("vector", CHUNKED, ids=lambda vector: vector["name"])
def test_chunked_encryption(vector, pieces):
    key, context, sealed = bytes.fromhex(vector["key"]), vector["context"].encode(), sealed_of(vector)
    derived = by_hand(key, ALGORITHM + sealed[:24] + context, 76, "sha256")
    reader = lambda **place: open_derived(derived, **place)
    if vector["expect"] == "failure":
        if len(key) != 32:
            with pytest.raises(ValueError):  # our own mistake, not an input
                open_sealed(key, context, sealed)
            return
        with pytest.raises(Unauthentic):
            by_ranges(reader, sealed, pieces)
        with pytest.raises(Unauthentic):
            open_sealed(key, context, sealed)
        return
    assert derived[:32].hex() == vector["aead_key"]
    assert derived[32:44].hex() == vector["base_nonce"]
    plain = by_ranges(reader, sealed, pieces)
    assert len(plain) == vector["payload_length"]
    assert sha256(plain).hexdigest() == vector["payload_sha256"]


@pytest.mark.parametrize("vector", WYCHEPROOF, ids=lambda vector: str(vector["length"]))
def test_cobblestone_256(vector):
    key, sealed = bytes.fromhex(vector["key"]), zlib.decompress(bytes.fromhex(vector["ct"]))
    derived = expand(key, ALGORITHM + sealed[:24], 76)
    assert derived[:32].hex() == vector["aeadKey"]
    assert derived[32:44].hex() == vector["baseNonce"]
    assert derived[44:] == sealed[24:56]
    plain = open_sealed(key, b"", sealed)
    assert len(plain) == vector["length"]
    assert by_ranges(lambda **place: open_range(key, b"", **place), sealed, 16_384) == plain
    with pytest.raises(Unauthentic):
        open_sealed(key, b"x", sealed)


def by_hand(secret, info, size, hash_name):
    """HKDF-Expand as RFC 5869 section 2.3 writes it."""
    output = block = b""
    for counter in range(1, 256):
        if len(output) >= size:
            break
        block = hmac_digest(secret, block + info + bytes([counter]), hash_name)
        output += block
    return output[:size]


def test_hkdf_of_rfc_5869():
    text = published("KDF", "rfc-5869-HKDF-SHA256.txt")
    cases = re.findall(r"^info = ?(\w*)\nL +=(.*)\n+PRK  = (\w+)\nOKM  = (\w+)$", text, re.M)
    assert len(cases) == 3
    for info, size, secret, expected in cases:
        inputs = bytes.fromhex(secret), bytes.fromhex(info), int(size)
        assert by_hand(*inputs, "sha256").hex() == expected
        assert HKDFExpand(SHA256(), inputs[2], inputs[1]).derive(inputs[0]).hex() == expected


@pytest.mark.parametrize("size", [1, 32, 64, 65, 76, 200])
def test_expand_is_hkdf_expand_with_sha_512(size):
    assert expand(b"k" * 32, b"info", size) == by_hand(b"k" * 32, b"info", size, "sha512")


def test_argon2id_of_rfc_9106():
    count = 0
    for record in records(published("KDF", "argon2id.txt")):
        if "output" not in record:
            continue
        read = {name: bytes.fromhex(record.get(name, "")) for name in ("salt", "secret", "ad", "pass")}
        argon2 = Argon2id(
            salt=read["salt"],
            length=int(record["length"]),
            iterations=int(record["iter"]),
            lanes=int(record["lanes"]),
            memory_cost=int(record["memcost"]),
            ad=read["ad"] or None,
            secret=read["secret"] or None,
        )
        assert argon2.derive(read["pass"]).hex() == record["output"]
        count += 1
    assert count >= 3


def test_ed25519_of_the_reference():
    lines = published("asymmetric", "Ed25519", "sign.input").split()
    assert len(lines) >= 100
    for line in lines[:100]:
        seed_public, public, message, signature_message = (bytes.fromhex(part) for part in line.split(":")[:4])
        key = SigningKey(seed_public[:32])
        assert key.public == public
        assert key._private.sign(message) == signature_message[:64]


@pytest.mark.parametrize("name", ["gcmEncryptExtIV256.rsp", "gcmDecrypt256.rsp"])
def test_aes_256_gcm_of_nist(name):
    count = 0
    for record in records(published("ciphers", "AES", "GCM", name)):
        if len(record.get("IV", "")) != 24 or len(record["Tag"]) != 32:
            continue
        key, nonce, data, tag, text = (bytes.fromhex(record[part]) for part in ("Key", "IV", "AAD", "Tag", "CT"))
        cipher = AESGCM(key)
        if "PT" in record:
            assert cipher.decrypt(nonce, text + tag, data) == bytes.fromhex(record["PT"])
        else:
            with pytest.raises(InvalidTag):
                cipher.decrypt(nonce, text + tag, data)
        count += 1
        if count == 500:
            break
    assert count >= 100


def test_hmac_sha_256_of_rfc_4231():
    text = published("HMAC", "rfc-4231-sha256.txt")
    cases = re.findall(r"^Key = (\w+)\n(?:#.*\n)*Msg = (\w+)\nMD = (\w+)$", text, re.M)
    assert len(cases) >= 5
    for key, message, expected in cases:
        assert hmac_digest(bytes.fromhex(key), bytes.fromhex(message), "sha256").hex() == expected


@pytest.mark.parametrize("name", ["sha256", "sha512"])
def test_hmac_of_rfc_4231(name):
    """What names are made with, and what HKDF-Expand with SHA-512 is made of (``by_hand`` ties it to ours)."""
    count = 0
    for key, message, expected in re.findall(
        r"^Key = (\w+)\n(?:#.*\n)*Msg = (\w+)\nMD = (\w+)", published("HMAC", f"rfc-4231-{name}.txt"), re.M
    ):
        assert hmac_digest(bytes.fromhex(key), bytes.fromhex(message), name).hex() == expected
        count += 1
    assert count >= 5
