"""What an operator reads while a proxy starts: what it waits for, when it is ready, and when it is not any more."""

from __future__ import annotations

import ipaddress
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from proxy.api.health import ComponentState, Status, is_ready
from proxy.config import Config
from proxy.logs import say
from proxy.probe import Probes

_FINE: frozenset[Status] = frozenset({"ok", "waiting", "loading", "examining"})


@dataclass(slots=True)
class Announcer:
    """Follows the probes and says every change of a component, and `ready` once requests can be served."""

    config: Config
    probes: Probes
    base_url: str
    _said: dict[str, Status] = field(default_factory=dict)
    _ready: bool = False

    async def run(self) -> None:
        """Say what changes until cancelled."""
        while True:
            self.look()
            await self.probes.changed()

    def look(self) -> None:
        """Say what has changed since the last look."""
        states = self.probes.states()
        for state in states.values():
            if state.name in self._said and self._said[state.name] == state.status:
                continue
            self._said[state.name] = state.status
            if state.name != "teachers" and state.status != "waiting":
                self._say_component(state)
        if is_ready(states) != self._ready:
            self._ready = not self._ready
            self._say_ready(states)

    def _say_component(self, state: ComponentState) -> None:
        level = logging.INFO if state.status in _FINE else logging.WARNING
        detail = f": {state.detail}" if state.detail else ""
        say(
            f"{state.name} {state.status}{detail}",
            {"component": state.name, "status": state.status},
            level=level,
        )

    def _say_ready(self, states: Mapping[str, ComponentState]) -> None:
        fields = {"ready": self._ready, "url": self.base_url}
        if not self._ready:
            down = ", ".join(
                name for name, state in states.items() if state.required and not state.ok
            )
            say(f"not ready: {down}", fields, level=logging.WARNING)
            return
        say(f"ready: {self.base_url}/v1 ({states['teachers'].detail})", fields)
        if self.config.general_settings.ui:
            say(f"watch: {self.base_url}/", {"page": f"{self.base_url}/"})
        say(f"try: {self.curl()}", {"curl": self.curl()})

    def curl(self) -> str:
        """A command that asks the first ensemble."""
        body = {
            "model": next(iter(self.config.ensembles)),
            "messages": [{"role": "user", "content": "What is 6 times 7?"}],
        }
        key = (
            ' -H "Authorization: Bearer $CORD_MASTER_KEY"'
            if self.config.general_settings.master_key
            else ""
        )
        url = f"{self.base_url}/v1/chat/completions"
        sent = f"-H 'Content-Type: application/json'{key} -d '{json.dumps(body)}'"
        return f"curl {url} {sent}"


def plan(config: Config) -> list[str]:
    """What a configuration has the proxy start, a line each."""
    scorer = config.scorer
    judges = ", ".join(f"{name} ({location})" for name, location in scorer.models.items())
    where = f"at {_shown(scorer.url)}" if scorer.url else f"starts, on {scorer.device}"
    lines = [f"scorer {where}: {judges}"]
    for entry in config.model_list:
        params = entry.litellm_params
        served = "starts" if params.provider == "local" else "hosted"
        place = f"at {_shown(params.api_base)}" if params.api_base else served
        lines.append(f"{entry.model_name} {place}: {params.model}")
    for name, ensemble in config.ensembles.items():
        lines.append(f"model {name}: {', '.join(ensemble.teachers)}")
    return lines


def _shown(url: str) -> str:
    """A URL without the credentials in it."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def address(host: str, port: int) -> str:
    """The URL a client on this machine can use; a server on all addresses is reached on the loopback one."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
