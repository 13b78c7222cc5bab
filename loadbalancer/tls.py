"""The listener's own TLS, by the standard library: one certificate, TLS 1.2 and later, HTTP/1.1."""

import ssl

from loadbalancer.config import SETTINGS, Config, ConfigError


def context(config: Config) -> ssl.SSLContext | None:
    """What to speak to clients; None for plain HTTP. Raises ConfigError if the files are not a certificate and its key."""
    cert, key = (SETTINGS[name] for name in ("tls_cert", "tls_key"))
    if not config.tls_cert and not config.tls_key:
        return None
    if not config.tls_cert or not config.tls_key:
        missing = key if config.tls_cert else cert
        raise ConfigError([f"{missing.variable} is not given; allowed: {missing.kind.allowed}"])
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.set_alpn_protocols(["http/1.1"])
    try:
        # A key with a pass phrase would be asked for at a terminal that a worker does not have.
        made.load_cert_chain(config.tls_cert, config.tls_key, password="")
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        given = f"{cert.variable} is {config.tls_cert!r} and {key.variable} is {config.tls_key!r}: {why}"
        raise ConfigError([f"{given}; allowed: {cert.kind.allowed}, and {key.kind.allowed}"]) from None
    return made
