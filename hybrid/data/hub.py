"""Whether the Hugging Face hub can be reached, without its client's half minute of retries."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from urllib.parse import urlparse
from urllib.request import getproxies

OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")


def unreachable(seconds: float = 0.5) -> str | None:
    """Why the hub cannot be used now, in words; None when it can.

    Args:
        seconds: how long the hub, or the proxy before it, may take to accept a connection.
    """
    for name in OFFLINE:
        if os.environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"}:
            return f"{name} is set"
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    address = urlparse(getproxies().get("https", endpoint))
    answers = []

    def connect() -> None:
        port = address.port or (80 if address.scheme == "http" else 443)
        with contextlib.suppress(OSError):
            socket.create_connection((address.hostname, port), timeout=seconds).close()
            answers.append(True)

    # A thread, because looking up the name has no timeout of its own.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(seconds)
    return None if answers else f"{endpoint} cannot be reached"
