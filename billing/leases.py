"""Leases on invoices, so that runners share the work instead of repeating it.

A lease saves work; it does not carry the promise. If two runners do walk the same invoice, the
journal and the derived keys still make it one at Stripe.
"""

import os
import socket

from sqlalchemy import Engine, select, update

from billing.issuer import OPEN_STATES
from infra.store.tables import invoices
from schemas.ids import derived_hex

_HOST_LENGTH = 32
_TOKEN_LENGTH = 12


def runner_name(token: str) -> str:
    """Names one run on one host: `host/pid/token`, at most 64 characters."""
    host = socket.gethostname()[:_HOST_LENGTH]
    return f"{host}/{os.getpid()}/{derived_hex(token)[:_TOKEN_LENGTH]}"


def take_lease(store: Engine, invoice_id: str, runner: str, *, now_ms: int, until_ms: int) -> bool:
    """Whether the invoice is this runner's until `until_ms`.

    A lease that another runner holds is taken over when it has run out, or at once when its
    process on this host is gone (it was killed).
    """
    with store.connect() as connection:
        row = connection.execute(
            select(invoices.c.lease_owner, invoices.c.lease_until_ms).where(
                invoices.c.id == invoice_id
            )
        ).one_or_none()
    if row is None:  # planned again with other figures since it was listed
        return False
    held = row.lease_owner and row.lease_until_ms > now_ms
    if held and row.lease_owner != runner and not _is_gone(row.lease_owner):
        return False
    same_owner = (
        invoices.c.lease_owner.is_(None)
        if row.lease_owner is None
        else invoices.c.lease_owner == row.lease_owner
    )
    with store.begin() as connection:
        taken = connection.execute(
            update(invoices)
            .where(
                invoices.c.id == invoice_id,
                invoices.c.state.in_(OPEN_STATES),
                same_owner,
                invoices.c.lease_until_ms == row.lease_until_ms,
            )
            .values(lease_owner=runner, lease_until_ms=until_ms)
        )
    return taken.rowcount == 1


def release_lease(store: Engine, invoice_id: str, runner: str) -> None:
    """Let the next runner have the invoice."""
    with store.begin() as connection:
        connection.execute(
            update(invoices)
            .where(invoices.c.id == invoice_id, invoices.c.lease_owner == runner)
            .values(lease_owner=None, lease_until_ms=0)
        )


def _is_gone(runner: str) -> bool:
    """Whether a runner's process was on this host and is no more."""
    host, _, rest = runner.partition("/")
    pid = rest.partition("/")[0]
    if host != socket.gethostname()[:_HOST_LENGTH] or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
