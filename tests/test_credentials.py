"""Credentials in an address are used, and shown nowhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from proxy import config as configuration
from proxy.announce import plan
from proxy.app import build_parts

pytestmark = pytest.mark.anyio


async def test_credentials_in_an_address_become_a_header_and_are_not_shown(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": "{{ messages }}"})
    )
    raw = {
        "model_list": [
            {
                "model_name": "far",
                "litellm_params": {
                    "model": "hosted_vllm/far",
                    "api_base": "http://user:secret@127.0.0.1:1/v1",
                },
                "model_info": {"tokenizer": "t"},
            }
        ],
        "scorer": {
            "models": {"meta": "far"},
            "meta_prover": "meta",
            "url": "http://user:secret@127.0.0.1:2",
        },
        "ensembles": {"cord": {"teachers": ["far"]}},
        "traces": {"folder": None},
    }
    config = configuration.parse(raw, tmp_path)
    parts = build_parts(config, tmp_path)
    await parts.background.probes.once()
    shown = [state.detail for state in parts.background.probes.states().values()]
    assert not [line for line in (*shown, *plan(config)) if "secret" in line]
    client = parts.upstreams[0].client
    sent = next(client.auth.auth_flow(client.build_request("GET", "models")))  # type: ignore[union-attr]
    assert sent.headers["authorization"].startswith("Basic ") and sent.url.userinfo == b""
    for opened in parts.clients:
        await opened.aclose()
