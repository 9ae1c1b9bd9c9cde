"""Who sealed a batch: Ed25519 over the exact bytes of the manifest's line 1.

Which keys are trusted, when and for what, is the receiver's own setting, never the file's: a file only names a key.
People compare keys by their fingerprint, which is of the key that was loaded and never of the file it came in.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
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
from exchange.format.key_terms import NO_LIMITS, Terms
from exchange.format.manifest import Manifest, Signature
from exchange.format.moments import in_words
from exchange.format.names import KEY_NAME

ALGORITHM: Final = "ed25519"

FINGERPRINT: Final = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")
_DASHES: Final = b"-----"
_BLOCK: Final = b"-----BEGIN "


def fingerprint(key: Ed25519PublicKey) -> str:
    """Give the one form in which a key is shown: as ssh does, over its SubjectPublicKeyInfo in DER form."""
    hashed = hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    return f"SHA256:{base64.b64encode(hashed).decode('ascii').rstrip('=')}"


def to_pem(key: Ed25519PublicKey) -> bytes:
    """Write a public key, anew from what was loaded."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


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
        """Read an unencrypted PKCS 8 key; ``ValueError`` if this is none, not Ed25519, or one of several."""
        try:
            private = load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise ValueError(
                f"the signing key {printable(name)} is not an unencrypted private key in PEM form"
            ) from error
        if not isinstance(private, Ed25519PrivateKey):
            raise ValueError(f"the signing key {printable(name)} is not an Ed25519 key")  # noqa: TRY004 - a wrong file, not a wrong type
        if beside := _beside(pem):
            raise ValueError(f"the signing key {printable(name)} is not alone: expected one PEM block, found {beside}")
        return cls(name, private)

    def to_pem(self) -> bytes:
        """Write the private key: whoever reads this can sign as us."""
        return self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def public_pem(self) -> bytes:
        """Write the public key, which the other side is to trust."""
        return to_pem(self.private.public_key())

    @property
    def fingerprint(self) -> str:
        """What people compare this key by."""
        return fingerprint(self.private.public_key())

    def sign(self, line: bytes) -> Signature:
        """Sign line 1 of a manifest, given without its newline."""
        return Signature(ALGORITHM, self.name, self.private.sign(line))


@dataclass(frozen=True)
class TrustedKeys:
    """The public keys whose signatures count, by the name that manifests use, and the limits of those that have any."""

    keys: Mapping[str, Ed25519PublicKey]
    terms: Mapping[str, Terms] = field(default_factory=dict)

    @classmethod
    def from_pems(cls, pems: Mapping[str, bytes]) -> Self:
        """Read public keys by name; ``ValueError`` names the first that is none or not Ed25519."""
        return cls({_checked_name(name): read_public_key(name, pem) for name, pem in pems.items()})

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

    def check_terms(self, name: str, manifest: Manifest | None, at: datetime) -> None:
        """Return if a key may sign a batch that was first seen ``at`` that moment; ``Untrusted`` otherwise.

        None stands for what is no batch: a key that is for some channels alone may not sign it.
        """
        terms = self.terms.get(name, NO_LIMITS)
        if not terms.in_force(at):
            raise Untrusted(f'it is signed by "{name}", a key that is trusted {terms}, and came here {in_words(at)}')
        if manifest is None and terms.channels is not None:
            raise Untrusted(f'it is signed by "{name}", a key that is trusted {terms}, and is no batch of those')
        if manifest is not None and not terms.allow(manifest):
            raise Untrusted(f'it is signed by "{name}", a key that is trusted {terms}, and is of {manifest.channel}')

    def in_force(self, at: datetime) -> frozenset[str]:
        """Name the keys whose time it is."""
        return frozenset(name for name in self.keys if self.terms.get(name, NO_LIMITS).in_force(at))


def _checked_name(name: str) -> str:
    if not KEY_NAME.fullmatch(name):
        raise ValueError(f'"{printable(name)}" cannot name a key: expected {KEY_NAME.pattern}')
    return name


def read_public_key(name: str, pem: bytes) -> Ed25519PublicKey:
    """Read the one block of a PEM file; ``ValueError`` if there is anything beside it, or if it is no Ed25519 key.

    What stands beside a block is not what signatures are checked with, but people and other programs may read it.
    """
    try:
        public = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError(f"the key {printable(name)} is not a public key in PEM form") from error
    if not isinstance(public, Ed25519PublicKey):
        raise ValueError(f"the key {printable(name)} is not an Ed25519 key")  # noqa: TRY004 - a wrong file, not a wrong type
    if beside := _beside(pem):
        raise ValueError(f"the key {printable(name)} is not alone: expected one PEM block, found {beside}")
    if pem.replace(b"\r\n", b"\n").strip() != to_pem(public).strip():  # whatever else readers may overlook
        raise ValueError(f"the key {printable(name)} is not alone: expected one PEM block, found something within it")
    return public


def _beside(pem: bytes) -> str | None:
    """Say what a file has beside its one block."""
    blocks = pem.count(_BLOCK)
    if blocks > 1:
        return str(blocks)
    alone = pem.strip().startswith(_BLOCK) and pem.strip().endswith(_DASHES)
    return None if alone else "something beside it"
