"""How every Kafka client of ours shows who it is: one function per client library."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import SecretStr

from infra.settings import InfraSettings
from schemas.errors import SettingsError

Protocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Mechanism = Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"]
_NO_PASSWORD = SecretStr("")


@dataclass(frozen=True, slots=True)
class KafkaSecurity:
    """What a client needs to be let in; by default nothing, as with the local stack's broker.

    Its text never holds a password.
    """

    protocol: Protocol = "PLAINTEXT"
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    key_password: SecretStr = _NO_PASSWORD
    mechanism: Mechanism = "SCRAM-SHA-512"
    user: str = ""
    password: SecretStr = _NO_PASSWORD

    @property
    def over_tls(self) -> bool:
        """Whether connections are encrypted, and the broker proves who it is."""
        return self.protocol in ("SSL", "SASL_SSL")

    @property
    def with_password(self) -> bool:
        """Whether a user and a password are shown."""
        return self.protocol in ("SASL_PLAINTEXT", "SASL_SSL")

    def who(self) -> str:
        """Who the client is to the broker, in words."""
        if self.with_password:
            return f"user {self.user}"
        if self.certificate_file is not None:
            return f"the certificate {self.certificate_file}"
        return "nobody (anonymous)"

    def ssl_context(self) -> ssl.SSLContext | None:
        """A context that checks the broker's certificate and its name; None without TLS.

        Raises:
            SettingsError: If a file is missing, or is not what it should be.
        """
        if not self.over_tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except OSError as error:
            raise SettingsError(f"RENTROLL_KAFKA_CA_FILE={self.ca_file}: {_why(error)}") from error
        if self.certificate_file is not None:
            try:
                # Never None: OpenSSL would ask whoever sits at the terminal.
                password = self.key_password.get_secret_value()
                context.load_cert_chain(self.certificate_file, self.key_file, password)
            except OSError as error:
                raise SettingsError(
                    f"RENTROLL_KAFKA_CERTIFICATE_FILE={self.certificate_file},"
                    f" RENTROLL_KAFKA_KEY_FILE={self.key_file}: {_why(error)}"
                ) from error
        return context


PLAINTEXT = KafkaSecurity()


def kafka_security(settings: InfraSettings | None = None) -> KafkaSecurity:
    """How clients are let in, as settings say; without settings, as the environment says.

    Raises:
        SettingsError: If they contradict one another, or something is missing.
    """
    given = settings or InfraSettings()
    security = KafkaSecurity(
        protocol=given.kafka_security_protocol,
        ca_file=given.kafka_ca_file,
        certificate_file=given.kafka_certificate_file,
        key_file=given.kafka_key_file,
        key_password=given.kafka_key_password or _NO_PASSWORD,
        mechanism=given.kafka_sasl_mechanism,
        user=given.kafka_user or "",
        password=given.kafka_password or _NO_PASSWORD,
    )
    fault = _fault(security, given.kafka_bootstrap)
    if fault:
        raise SettingsError(f"RENTROLL_KAFKA_SECURITY_PROTOCOL={security.protocol}{fault}")
    return security


def kafka_python_options(security: KafkaSecurity | None = None) -> dict[str, Any]:
    """What each client of kafka-python is made with; without an argument as settings say.

    Raises:
        SettingsError: As `kafka_security` and `KafkaSecurity.ssl_context`.
    """
    known = kafka_security() if security is None else security
    if known.protocol == "PLAINTEXT":
        return {}
    options: dict[str, Any] = {"security_protocol": known.protocol}
    if known.over_tls:
        options["ssl_context"] = known.ssl_context()
    if known.with_password:
        options |= {
            "sasl_mechanism": known.mechanism,
            "sasl_plain_username": known.user,
            "sasl_plain_password": known.password.get_secret_value(),
        }
    return options


def aiokafka_options(security: KafkaSecurity | None = None) -> dict[str, Any]:
    """What each client of aiokafka is made with; the two libraries agree in all these names.

    Raises:
        SettingsError: As `kafka_python_options`.
    """
    return kafka_python_options(security)


def _fault(security: KafkaSecurity, bootstrap: str | None) -> str:
    """What in the settings cannot be; empty where all is well."""
    name_and_password = bool(security.user and security.password.get_secret_value())
    certificate, key = security.certificate_file, security.key_file
    faults = {
        ", and no RENTROLL_KAFKA_BOOTSTRAP: the local stack's broker speaks PLAINTEXT": (
            security.protocol != "PLAINTEXT" and not bootstrap
        ),
        " needs RENTROLL_KAFKA_USER and RENTROLL_KAFKA_PASSWORD": (
            security.with_password and not name_and_password
        ),
        " shows no password, but RENTROLL_KAFKA_PASSWORD is set: is it to be SASL_SSL?": (
            not security.with_password and bool(security.password.get_secret_value())
        ),
        " would send the password in the clear with PLAIN: use SCRAM-SHA-512, or SASL_SSL": (
            security.protocol == "SASL_PLAINTEXT" and security.mechanism == "PLAIN"
        ),
        ": RENTROLL_KAFKA_CERTIFICATE_FILE and RENTROLL_KAFKA_KEY_FILE belong together": (
            (certificate is None) != (key is None)
        ),
        " uses no certificates, but RENTROLL_KAFKA_CA_FILE or _CERTIFICATE_FILE is set": (
            not security.over_tls and (security.ca_file or certificate) is not None
        ),
    }
    return next((fault for fault, true in faults.items() if true), "")


def _why(error: OSError) -> str:
    """What OpenSSL says of a file, in words."""
    if isinstance(error, ssl.SSLError):
        return f"is not a PEM file that can be used ({error.reason or error})"
    return error.strerror or str(error)
