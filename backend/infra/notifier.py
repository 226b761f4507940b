"""Sends alerts: JSON to a webhook, text by e-mail."""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import EmailMessage
from typing import Any
from urllib.parse import unquote, urlsplit

from backend.infra.network_errors import system_reason

TIMEOUT_S = 10.0
WEBHOOK, EMAIL = "webhook", "e-mail"


@dataclass(frozen=True, repr=False)
class Notifier:
    """Channels of alerts; an empty one is off. `smtp_url`: smtp://USER:PASSWORD@HOST:587 (with STARTTLS) or smtps."""

    webhook_url: str = ""
    email_to: tuple[str, ...] = ()
    email_from: str = ""
    smtp_url: str = ""

    @property
    def channels(self) -> tuple[str, ...]:
        """Return the channels that are set: webhook, e-mail."""
        is_set = {WEBHOOK: bool(self.webhook_url), EMAIL: bool(self.email_to and self.smtp_url)}
        return tuple(name for name, value in is_set.items() if value)

    @property
    def faults(self) -> tuple[str, ...]:
        """Return what is wrong with the addresses, without the secrets in them."""
        faults = []
        if self.webhook_url and (fault := _fault_of(self.webhook_url, ("http", "https"))):
            faults.append(f"ROUNDHOUSE_ALERT_WEBHOOK {fault}")
        if self.smtp_url and (fault := _fault_of(self.smtp_url, ("smtp", "smtps"))):
            faults.append(f"ROUNDHOUSE_SMTP_URL {fault}")
        if self.email_to and not self.smtp_url:
            faults.append("ROUNDHOUSE_ALERT_EMAIL_TO needs ROUNDHOUSE_SMTP_URL, which is not set")
        return tuple(faults)

    def send(self, channel: str, *, subject: str, text: str, data: Mapping[str, Any]) -> str:
        """Send to one channel; return the problem without secrets, empty where it was taken."""
        try:
            if channel == WEBHOOK:
                self._post(data)
            else:
                self._mail(subject, text)
        except Exception as error:  # whatever a server does, the alert is stored and tried again
            return f"{channel}: {_answer_of(error)}"
        return ""

    def _post(self, data: Mapping[str, Any]) -> None:
        import httpx2  # few processes need it

        httpx2.post(self.webhook_url, json=dict(data), timeout=TIMEOUT_S, follow_redirects=False).raise_for_status()

    def _mail(self, subject: str, text: str) -> None:
        parts = urlsplit(self.smtp_url)
        message = EmailMessage()
        message["Subject"] = " ".join(subject.split())
        message["From"], message["To"] = self.email_from or self.email_to[0], ", ".join(self.email_to)
        message.set_content(text)
        is_tls = parts.scheme == "smtps"
        port = parts.port or (465 if is_tls else 587)
        host = parts.hostname or "localhost"
        kind: type[smtplib.SMTP] = smtplib.SMTP_SSL if is_tls else smtplib.SMTP
        with kind(host, port, timeout=TIMEOUT_S) as server:
            server.ehlo()
            if not is_tls and server.has_extn("starttls"):
                server.starttls(context=ssl.create_default_context())
            if parts.username:
                server.login(unquote(parts.username), unquote(parts.password or ""))
            server.send_message(message)


def _fault_of(url: str, schemes: tuple[str, ...]) -> str:
    try:
        parts = urlsplit(url)
        is_valid = bool(parts.hostname) and parts.port != 0 and not any(letter.isspace() for letter in url)
    except ValueError:  # of a port or an IPv6 address
        return "is no valid address"
    if parts.scheme not in schemes:
        return f"begins with neither {schemes[0]}:// nor {schemes[1]}://"
    return "" if is_valid else "is no valid address"


def _answer_of(error: Exception) -> str:
    """Return what a server answered, or why there was no answer, without its address, which holds secrets."""
    if (status := getattr(getattr(error, "response", None), "status_code", None)) is not None:
        return f"the server answered {status}"
    if isinstance(error, smtplib.SMTPResponseException):
        return f"the server answered {error.smtp_code}"
    if isinstance(error, TimeoutError) or type(error).__name__.endswith("Timeout"):
        return "no answer in time"
    return system_reason(error) or type(error).__name__
