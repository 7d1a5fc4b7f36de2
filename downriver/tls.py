"""TLS towards a server: the context that verifies it, and in words what is wrong where it can't be agreed on."""

from __future__ import annotations

import ssl

from downriver.exits import BadInput
from downriver.settings import Tls


def context(tls: Tls, whose: str) -> ssl.SSLContext:
    """Return a verifying TLS context for the client side.

    Args:
        whose: the group of settings that `tls` is of, such as `connect`.

    Raises:
        BadInput: a file is missing, or holds no certificate.
    """
    try:
        made = ssl.create_default_context(cafile=str(tls.ca_file) if tls.ca_file else None)
        if tls.cert_file:
            made.load_cert_chain(str(tls.cert_file), str(tls.key_file) if tls.key_file else None)
    except OSError as error:  # ssl.SSLError is one: the file is there, and is no certificate
        files = [str(path) for path in (tls.ca_file, tls.cert_file, tls.key_file) if path]
        msg = f"{whose}.tls: one of {', '.join(files)} can't be used: {error.strerror or error}"
        raise BadInput(msg) from None
    return made


def explained(error: BaseException, whose: str) -> str:
    """Say what is wrong with TLS where that is the reason of `error`, and what to do; empty where it is not."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return ""
    prefix = f"DOWNRIVER_{whose.upper()}__"
    if isinstance(cause, ssl.SSLCertVerificationError):
        said = cause.verify_message
        if "expired" in said or "not yet valid" in said:
            return f"{said}; renew the server's certificate (or set this machine's clock)"
        if "mismatch" in said:
            return f"{said}; write the name that its certificate carries into {prefix}URL"
        return f"{said}; name the authority that signed it: {prefix}TLS__ENABLED, {prefix}TLS__CA_FILE"
    said = cause.reason or str(cause)
    if "CERTIFICATE_REQUIRED" in said or "HANDSHAKE_FAILURE" in said:
        return f"{said}; it may want a client certificate: {prefix}TLS__CERT_FILE and {prefix}TLS__KEY_FILE"
    return f"{said}; does {prefix}URL name a port that speaks TLS?"
