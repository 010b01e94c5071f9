"""A hub that cannot be reached is said at once, and by name."""

import time

import pytest

from hybrid.checkpoint import load


def test_hub_out_of_reach_is_said_at_once(monkeypatch):
    import huggingface_hub  # noqa: F401  its import is not what is timed

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for offline in (None, "HF_HUB_OFFLINE"):
        if offline:
            monkeypatch.setenv(offline, "1")
        start = time.monotonic()
        with pytest.raises(ConnectionError, match=r"nobody/nothing-340M.*local folder") as error:
            load("nobody/nothing-340M")
        assert time.monotonic() - start < 1
        assert (offline or "127.0.0.1:9") in str(error.value)
