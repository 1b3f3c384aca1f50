"""The root of a Merkle tree as RFC 9162, section 2.1, draws it.

Leaves and nodes are hashed with different first bytes, so no inner node can pass for a leaf. A
tree is named by its root and its number of leaves together.
"""

import hashlib
from collections.abc import Sequence

_LEAF, _NODE = b"\x00", b"\x01"


def leaf_hash(leaf: bytes) -> bytes:
    """Hash of one leaf's content."""
    return hashlib.sha256(_LEAF + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of a node, from the hashes of what is below it."""
    return hashlib.sha256(_NODE + left + right).digest()


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """The root over the leaves in their order, 32 bytes; of none, SHA-256 of nothing."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    hashes = [leaf_hash(leaf) for leaf in leaves]
    while len(hashes) > 1:
        hashes = _level_above(hashes)
    return hashes[0]


def _level_above(hashes: Sequence[bytes]) -> list[bytes]:
    """Pairs become nodes; a last one without a neighbour moves up as it is."""
    above = [node_hash(hashes[at], hashes[at + 1]) for at in range(0, len(hashes) - 1, 2)]
    return [*above, hashes[-1]] if len(hashes) % 2 else above
