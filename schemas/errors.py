"""Every error that Rentroll raises on purpose.

RentrollError
  ContractError
    MalformedEventError
  InputFileError
    TraceFileError
    FleetFileError
    PriceBookError
  MoneyError
  ConservationError
  MissingPriceError
  PeriodNotReadyError
  InvoiceHeldError
  SettingsError
  ServerError
    ServerStartError
    PortBusyError
    StoppedEarlyError
  MigrationError
  SpoolError
    SpoolFullError
  IngestError
  OffsetMovedError
  StripeCallError
    StripeRetryError
    StripeUncertainError
    StripeRefusedError
    StripeStopError
"""

from typing import ClassVar


class RentrollError(Exception):
    """Base of all errors raised on purpose; `code` is stable and safe to match on."""

    code: ClassVar[str] = "rentroll"


class ContractError(RentrollError):
    """Bytes or values that break a contract in `schemas`."""

    code = "contract"


class MalformedEventError(ContractError):
    """Bytes that are not a valid event; the message names the field and the value."""

    code = "event.malformed"


class InputFileError(RentrollError):
    """A file that a person wrote is wrong; the message starts with `file:line`."""

    code = "input"


class TraceFileError(InputFileError):
    """A trace row has a missing, negative or non-numeric field."""

    code = "input.trace"


class FleetFileError(InputFileError):
    """A fleet or assignment file names something that does not exist or is out of range."""

    code = "input.fleet"


class PriceBookError(InputFileError):
    """A price book has a gap, an overlap, an unknown meter, a float or a bad date."""

    code = "input.price_book"


class MoneyError(RentrollError):
    """Text that is not a plain decimal, or an amount that its currency cannot carry."""

    code = "money"


class ConservationError(RentrollError):
    """A total that must be equal on both sides of a stage is not; the run stops."""

    code = "conservation"


class MissingPriceError(RentrollError):
    """No price in the book covers this usage; the tenant's invoice is held."""

    code = "rating.missing_price"


class PeriodNotReadyError(RentrollError):
    """The period still has hours that are not published; the message lists them."""

    code = "billing.period_not_ready"


class InvoiceHeldError(RentrollError):
    """An invoice cannot go on until a person looks; the message says at what."""

    code = "billing.held"


class SettingsError(RentrollError):
    """A setting is missing or out of range; the message names the variable."""

    code = "settings"


class ServerError(RentrollError):
    """A server that we stand on cannot be used."""

    code = "server"


class ServerStartError(ServerError):
    """A local server did not start; the message holds its last log lines."""

    code = "server.start"


class PortBusyError(ServerError):
    """A port that was asked for by number belongs to another process."""

    code = "server.port_busy"


class StoppedEarlyError(ServerError):
    """Somebody asked a server to stop before it was ready."""

    code = "server.stopped_early"


class MigrationError(RentrollError):
    """A migration that was applied before has changed, is missing, or failed."""

    code = "migration"


class SpoolError(RentrollError):
    """The spool or the outbox on local disk cannot be read or written."""

    code = "spool"


class SpoolFullError(SpoolError):
    """The disk bound of the spool is reached and its policy is to refuse new work."""

    code = "spool.full"


class IngestError(RentrollError):
    """Ingest cannot go on without losing or doubling events, so it stops."""

    code = "ingest"


class OffsetMovedError(RentrollError):
    """A partition of live spend was summed by somebody else meanwhile: it has another owner."""

    code = "live.offset_moved"


class StripeCallError(RentrollError):
    """A call to Stripe gave no usable answer."""

    code = "stripe"


class StripeRetryError(StripeCallError):
    """Same body, same key, later: Stripe is busy or away."""

    code = "stripe.retry"


class StripeUncertainError(StripeCallError):
    """A 5xx is kept under this key and would only be replayed: look, then take a new key."""

    code = "stripe.uncertain"


class StripeRefusedError(StripeCallError):
    """Stripe says no to this request; the invoice is held until a person looks."""

    code = "stripe.refused"


class StripeStopError(StripeCallError):
    """Nothing will work, such as with a wrong API key; the whole run ends."""

    code = "stripe.stop"
