"""Ed25519 for sources: a source signs the ranges of events it vouches for; anyone verifies."""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from schemas.fleet import RangePurpose, SignedRange, signed_bytes


class SourceKey:
    """The private key of one source."""

    def __init__(self, seed: bytes) -> None:
        """Take the 32 secret bytes of the key.

        Raises:
            ValueError: If there are not 32 bytes.
        """
        self._key = Ed25519PrivateKey.from_private_bytes(seed)

    def public_key_hex(self) -> str:
        """The public key as 64 hex digits, as the billing store registers it."""
        return self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()

    def sign_range(
        self, source: str, purpose: RangePurpose, first: int, last: int, sha256: str
    ) -> SignedRange:
        """Vouch for the events `first` to `last` (inclusive) of `source`."""
        message = signed_bytes(source, purpose, first, last, sha256)
        return SignedRange(
            sequence_first=first,
            sequence_last=last,
            sha256=sha256,
            signature=self._key.sign(message).hex(),
        )


def range_is_signed(
    public_key_hex: str, source: str, purpose: RangePurpose, signed: SignedRange
) -> bool:
    """Whether `signed` carries a valid signature of that key for that source and purpose."""
    message = signed_bytes(
        source, purpose, signed.sequence_first, signed.sequence_last, signed.sha256
    )
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key_hex))
    try:
        key.verify(bytes.fromhex(signed.signature), message)
    except InvalidSignature:
        return False
    return True
