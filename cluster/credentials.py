"""Credentials in locations are used, and written nowhere: not to files, logs, MLflow or the console.

A location may carry a password (`https://user:password@host/x.txt`) or be signed (`?X-Amz-Signature=…`, `?token=…`).
Without those it is the bare location, which names the same file whoever reads it, today and with tomorrow's signature.
"""

import logging
import re
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress

_URL = re.compile(r"""[A-Za-z][A-Za-z0-9+.-]*://[^\s"'<>\\|]+""")
# Parameters that are secrets, by their names; and those that come with a signature and change with it.
_SECRET = (
    r"[\w.-]*(?:token|secret|passw(?:or)?d|signature|credentials?|api[_-]?key|access[_-]?key(?:[_-]?id)?|authorization)"
    r"|sig|pwd|auth"
)
_SIGNED_TOO = (
    r"x-amz-[\w-]+|x-goog-[\w-]+|googleaccessid|expires|policy|key-pair-id"
    r"|s[verpst]|srt|sip|spr|skoid|sktid|sk[tesv]"  # Azure's
)
_IS_SECRET = re.compile(_SECRET, re.IGNORECASE).fullmatch
_IS_SIGNED_TOO = re.compile(_SIGNED_TOO, re.IGNORECASE).fullmatch
# In what libraries say of a request, without its scheme and host.
_LOOSE = re.compile(rf"([?&])(?:{_SECRET})=[^&\s\"'<>)\]]*", re.IGNORECASE)
_INSTEAD = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN",
    "hf": "HF_TOKEN",
    "postgresql": "PGPASSWORD",
    "http": 'FSSPEC_HTTP=\'{"client_kwargs": {"headers": {"Authorization": "…"}}}\'',
    "https": 'FSSPEC_HTTPS=\'{"client_kwargs": {"headers": {"Authorization": "…"}}}\'',
}
_INSTEAD |= dict.fromkeys(("s3a",), _INSTEAD["s3"]) | dict.fromkeys(("gcs",), _INSTEAD["gs"])
_INSTEAD |= dict.fromkeys(("abfs", "abfss", "adl"), _INSTEAD["az"])


def redact(text: str) -> str:
    """The text with every URL in it bare: without user and password, and without what signs it.

    Of a query, a parameter goes if its name is a secret's (`token`, `X-Amz-Signature`, `sig`, …); where one is, so do
    those that belong to a signature (`X-Amz-Date`, `Expires`, `se`, …). What else selects the file stays. The user of
    a URL stays where no password follows it, except on the web, where it can be a token.
    """
    if "://" in text:
        text = _URL.sub(lambda found: _bare(found[0]), text)
    return _LOOSE.sub(r"\1", text) if "=" in text else text


def _bare(url: str) -> str:
    end = url.rstrip(".,;:!)]}")
    scheme, _, rest = end.partition("://")
    host = re.match(r"[^/?#]*", rest)[0]  # type: ignore[index]  # it matches nothing, too
    user, at, bare_host = host.rpartition("@")
    if at and (":" in user or scheme.lower() in ("http", "https")):
        rest = bare_host + rest[len(host) :]
    place, question, query = rest.partition("?")
    query, hash_, fragment = query.partition("#")
    parts = {part: part.partition("=")[0] for part in query.split("&")}
    if question and any(map(_IS_SECRET, parts.values())):
        query = "&".join(part for part, name in parts.items() if not (_IS_SECRET(name) or _IS_SIGNED_TOO(name)))
        question = "?" if query else ""
    return f"{scheme}://{place}{question}{query}{hash_}{fragment}{url[len(end) :]}"


def instead(location: str, *, tracking: bool) -> str:
    """What to set in the environment, so that a location, or the address of a tracking server, needs no credential."""
    protocol = location.partition("://")[0].rpartition("::")[2].lower()
    is_server = tracking and protocol in ("http", "https")
    names = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" if is_server else _INSTEAD.get(protocol)
    return f"set {names} in the environment" if names else "give it by the environment"


def is_secret_variable(name: str) -> bool:
    """Whether an environment variable of this name may hold a secret."""
    return re.search("KEY|TOKEN|SECRET|PASS|CREDENTIAL|AUTH|CONNECTION_STRING", name.upper()) is not None


class _BareFactory:
    """Makes the records of a process's loggers, redacted before any handler sees them."""

    def __init__(self, make: Callable[..., logging.LogRecord]) -> None:
        self._make = make

    def __call__(self, *args: object, **kwargs: object) -> logging.LogRecord:
        record = self._make(*args, **kwargs)
        with suppress(TypeError, ValueError):  # arguments that do not fit: handlers say so
            record.msg, record.args = redact(record.getMessage()), ()
        if record.exc_info:
            record.exc_text = redact("".join(traceback.format_exception(*record.exc_info)).rstrip("\n"))
        return record


def keep_out_of_logs() -> None:
    """From here on, what this process logs, or dies of, is redacted. Every process of a run calls it when it begins."""
    make = logging.getLogRecordFactory()  # Ray has one of its own
    if not isinstance(make, _BareFactory):
        logging.setLogRecordFactory(_BareFactory(make))
    sys.excepthook = lambda *error: print(redact("".join(traceback.format_exception(*error))), end="", file=sys.stderr)
