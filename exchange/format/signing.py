"""Who sealed a batch: Ed25519 over the exact bytes of the manifest's line 1.

Which keys are trusted is the receiver's own setting, never the file's: a file only names a key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from exchange.format.errors import Untrusted, printable
from exchange.format.manifest import KEY_NAME, Signature

ALGORITHM: Final = "ed25519"


@dataclass(frozen=True)
class SigningKey:
    """A named private key. Its repr shows only the name."""

    name: str
    private: Ed25519PrivateKey

    def __post_init__(self) -> None:
        """Refuse, with ``ValueError``, a name that no manifest can carry."""
        _checked_name(self.name)

    @classmethod
    def generate(cls, name: str) -> Self:
        """Make a new key."""
        return cls(name, Ed25519PrivateKey.generate())

    @classmethod
    def from_pem(cls, name: str, pem: bytes) -> Self:
        """Read an unencrypted PKCS 8 key; ``ValueError`` if this is none or not Ed25519."""
        try:
            private = load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise ValueError(
                f"the signing key {printable(name)} is not an unencrypted private key in PEM form"
            ) from error
        if not isinstance(private, Ed25519PrivateKey):
            raise ValueError(f"the signing key {printable(name)} is not an Ed25519 key")  # noqa: TRY004 - a wrong file, not a wrong type
        return cls(name, private)

    def to_pem(self) -> bytes:
        """Write the private key: whoever reads this can sign as us."""
        return self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def public_pem(self) -> bytes:
        """Write the public key, which the other side is to trust."""
        return self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def sign(self, line: bytes) -> Signature:
        """Sign line 1 of a manifest, given without its newline."""
        return Signature(ALGORITHM, self.name, self.private.sign(line))


@dataclass(frozen=True)
class TrustedKeys:
    """The public keys whose signatures count, by the name that manifests use."""

    keys: Mapping[str, Ed25519PublicKey]

    @classmethod
    def from_pems(cls, pems: Mapping[str, bytes]) -> Self:
        """Read public keys by name; ``ValueError`` names the first that is none or not Ed25519."""
        return cls({_checked_name(name): _public_key(name, pem) for name, pem in pems.items()})

    def check(self, line: bytes, signature: Signature | None, what: str = "the manifest") -> None:
        """Return if a trusted key signed exactly this line of ``what``; ``Untrusted`` otherwise."""
        if signature is None:
            raise Untrusted(f"{what} is not signed")
        if signature.algorithm != ALGORITHM:
            raise Untrusted(f'the signature: expected "{ALGORITHM}", found "{printable(signature.algorithm, 40)}"')
        key = self.keys.get(signature.key)
        if key is None:
            raise Untrusted(f'{what} is signed by "{printable(signature.key, 80)}", a key that is not trusted here')
        try:
            key.verify(signature.signature, line)
        except InvalidSignature as error:
            raise Untrusted(f'{what} is not what "{printable(signature.key, 80)}" signed') from error


def _checked_name(name: str) -> str:
    if not KEY_NAME.fullmatch(name):
        raise ValueError(f'"{printable(name)}" cannot name a key: expected {KEY_NAME.pattern}')
    return name


def _public_key(name: str, pem: bytes) -> Ed25519PublicKey:
    try:
        public = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError(f"the key {printable(name)} is not a public key in PEM form") from error
    if not isinstance(public, Ed25519PublicKey):
        raise ValueError(f"the key {printable(name)} is not an Ed25519 key")  # noqa: TRY004 - a wrong file, not a wrong type
    return public
