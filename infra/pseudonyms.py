"""Pseudonyms: what stands for a tenant's own texts, such as end users' labels, in events."""

import hmac

END_USER = "end-user"
_HEX_DIGITS = 32


def pseudonym(tenant_key: str, purpose: str, text: str) -> str:
    """The HMAC-SHA256 of a text under a tenant's key, cut to 32 hex digits.

    Without the key nobody can say which text it stands for, nor try a text: replacing the key
    erases what all earlier pseudonyms stood for, and leaves every byte that holds them as it is.

    Args:
        tenant_key: The tenant's 32 secret bytes, as hex.
        purpose: Keeps equal texts of different uses apart.
        text: What it stands for.
    """
    message = f"{purpose}\0{text}".encode()
    return hmac.digest(bytes.fromhex(tenant_key), message, "sha256").hex()[:_HEX_DIGITS]
