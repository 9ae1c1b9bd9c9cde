from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from exchange.format.errors import Untrusted
from exchange.format.manifest import Signature
from exchange.format.signing import SigningKey, TrustedKeys

LINE = b'{"format":"exchange-batch/1"}'


@pytest.fixture
def key() -> SigningKey:
    return SigningKey.generate("request-2026a")


@pytest.fixture
def trusted(key: SigningKey) -> TrustedKeys:
    return TrustedKeys.from_pems({"other": SigningKey.generate("other").public_pem(), key.name: key.public_pem()})


def test_a_signature_of_a_trusted_key_is_trusted(key: SigningKey, trusted: TrustedKeys) -> None:
    trusted.check(LINE, key.sign(LINE))


def test_every_changed_bit_is_noticed(key: SigningKey, trusted: TrustedKeys) -> None:
    signature = key.sign(LINE)
    for place in range(len(LINE) * 8):
        changed = bytearray(LINE)
        changed[place // 8] ^= 1 << place % 8
        with pytest.raises(Untrusted, match="is not what"):
            trusted.check(bytes(changed), signature)
    for place in range(64 * 8):
        changed = bytearray(signature.signature)
        changed[place // 8] ^= 1 << place % 8
        with pytest.raises(Untrusted, match="is not what"):
            trusted.check(LINE, Signature("ed25519", key.name, bytes(changed)))


def test_strangers_are_not_trusted(key: SigningKey, trusted: TrustedKeys) -> None:
    signature = key.sign(LINE)
    with pytest.raises(Untrusted, match="not signed"):
        trusted.check(LINE, None)
    with pytest.raises(Untrusted, match="not trusted here"):
        trusted.check(LINE, SigningKey.generate("stranger").sign(LINE))
    with pytest.raises(Untrusted, match="not what"):
        trusted.check(LINE, SigningKey.generate(key.name).sign(LINE))
    with pytest.raises(Untrusted, match="not what"):
        trusted.check(LINE, Signature("ed25519", "other", signature.signature))
    with pytest.raises(Untrusted, match="not trusted here"):
        TrustedKeys({}).check(LINE, signature)


@pytest.mark.parametrize("algorithm", ["none", "ED25519", "rsa", "ed25519 ", "\x1b[2J"])
def test_another_algorithm_is_not_trusted(key: SigningKey, trusted: TrustedKeys, algorithm: str) -> None:
    with pytest.raises(Untrusted, match="expected") as refused:
        trusted.check(LINE, Signature(algorithm, key.name, key.sign(LINE).signature))
    assert refused.value.sentence.isprintable()


@pytest.mark.parametrize("length", [0, 63, 65, 128])
def test_a_signature_of_another_length_is_not_trusted(key: SigningKey, trusted: TrustedKeys, length: int) -> None:
    with pytest.raises(Untrusted):
        trusted.check(LINE, Signature("ed25519", key.name, b"\0" * length))


def test_a_key_reads_back_from_its_pem(key: SigningKey, trusted: TrustedKeys) -> None:
    again = SigningKey.from_pem(key.name, key.to_pem())
    trusted.check(LINE, again.sign(LINE))
    assert again.public_pem() == key.public_pem()


def test_a_key_does_not_show_itself(key: SigningKey) -> None:
    secret = key.to_pem().splitlines()[1].decode()
    assert secret not in repr(key)
    assert key.private.private_bytes_raw().hex() not in repr(key)


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "a b", "a\n", "é", "x" * 65])
def test_a_name_that_no_manifest_can_carry_is_refused(name: str, key: SigningKey) -> None:
    with pytest.raises(ValueError, match="cannot name a key"):
        SigningKey.generate(name)
    with pytest.raises(ValueError, match="cannot name a key"):
        TrustedKeys.from_pems({name: key.public_pem()})


def test_a_bad_private_key_is_refused_in_one_sentence(key: SigningKey) -> None:
    locked = key.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    another_curve = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    for pem in (b"", b"\xff", key.public_pem(), locked, key.to_pem()[:60], another_curve):
        with pytest.raises(ValueError, match="the signing key mine is not an") as refused:
            SigningKey.from_pem("mine", pem)
        assert "\n" not in str(refused.value)


def test_a_bad_public_key_is_refused_in_one_sentence(key: SigningKey) -> None:
    for_agreement = x25519.X25519PrivateKey.generate().public_key()
    pem_of_another_kind = for_agreement.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for pem in (b"", b"\xff", key.to_pem(), key.public_pem()[:60], pem_of_another_kind):
        with pytest.raises(ValueError, match=r"the key theirs is not an? ") as refused:
            TrustedKeys.from_pems({"theirs": pem})
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("where", ["above", "below", "inside", "twice"])
def test_a_key_that_is_not_alone_in_its_file_is_refused(key: SigningKey, where: str) -> None:
    def spoiled(pem: bytes) -> bytes:
        first, *rest = pem.splitlines(keepends=True)
        note = b"a note\n"
        return {"above": note + pem, "below": pem + note, "inside": first + b" " + b"".join(rest), "twice": pem * 2}[
            where
        ]

    with pytest.raises(ValueError, match="expected one PEM block, found"):
        TrustedKeys.from_pems({"theirs": spoiled(key.public_pem())})
    if where != "inside":  # a private key is shown to nobody: what counts is that there is one
        with pytest.raises(ValueError, match="expected one PEM block, found"):
            SigningKey.from_pem("mine", spoiled(key.to_pem()))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl command here")
def test_openssl_verifies_what_we_sign(key: SigningKey, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(key.public_pem())
    (tmp_path / "claim").write_bytes(LINE)
    (tmp_path / "signature").write_bytes(key.sign(LINE).signature)
    words = "openssl pkeyutl -verify -pubin -inkey key.pem -rawin -in claim -sigfile signature"
    subprocess.run(words.split(), cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "claim").write_bytes(LINE + b" ")
    assert subprocess.run(words.split(), cwd=tmp_path, check=False, capture_output=True).returncode != 0
