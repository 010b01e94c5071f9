"""A hub that cannot be reached is said at once, and by name."""

import time

import pytest
import torch
from flat import flat_config

import hybrid.checkpoints.checkpoint
from hybrid.checkpoints.checkpoint import load, save
from hybrid.models.hybrid_lm import HybridLM


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


def test_from_the_hub_only_json_and_safetensors_are_asked_for(tmp_path, monkeypatch):
    ours = HybridLM(flat_config(layout="L", mixer="hgrn", hidden_size=32, vocab_size=9))
    save(ours, tmp_path)
    asked = {}

    def snapshot_download(repo_id, **options):
        asked.update(options, repo_id=repo_id)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.setattr(hybrid.checkpoints.checkpoint, "unreachable", lambda: None)
    assert torch.equal(load("somebody/model").lm_head.weight, ours.lm_head.weight)
    wanted = {"repo_id": "somebody/model", "allow_patterns": ["*.json", "*.safetensors"]}
    assert asked == wanted | {"local_files_only": False, "revision": None}
    load("somebody/model", revision="abc123")
    assert asked["revision"] == "abc123"


def test_a_folder_has_no_revision(tmp_path):
    with pytest.raises(ValueError, match=r"local folder, which has no revision; got 'main'"):
        load(tmp_path, revision="main")


def test_neither_a_folder_nor_a_hub_id(tmp_path):
    with pytest.raises(FileNotFoundError, match="OWNER/NAME"):
        load(tmp_path / "absent")
