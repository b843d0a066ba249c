"""What is read of a GGUF file's head, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from proxy.decoder.types import Message
from proxy.errors import ConfigError
from proxy.teachers.template import ChatTemplate
from runtime.gguf import GgufMetadata, NotGguf, is_gguf, read_metadata
from tests.runtime.gguf_files import METADATA, write_gguf


def test_a_head_tells_architecture_length_template_and_special_tokens(tmp_path: Path) -> None:
    found = read_metadata(write_gguf(tmp_path / "m.gguf"))
    template = METADATA["tokenizer.chat_template"]
    assert found == GgufMetadata(
        "llama", 512, str(template), {"bos_token": "<s>", "eos_token": "</s>"}
    )


def test_a_location_is_gguf_by_its_ending() -> None:
    assert is_gguf("models/A.GGUF") and not is_gguf("models/gguf")


def test_what_the_file_does_not_tell_is_none(tmp_path: Path) -> None:
    found = read_metadata(write_gguf(tmp_path / "m.gguf", {"general.architecture": "llama"}))
    assert found == GgufMetadata("llama", None, None, {})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotGguf, match=r"nothing\.gguf as GGUF: No such file"):
        read_metadata(tmp_path / "nothing.gguf")


@pytest.mark.parametrize("kept", [0, 3, 20, 60, -1])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, kept: int) -> None:
    file = write_gguf(tmp_path / "m.gguf")
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(NotGguf, match=r"m\.gguf"):
        read_metadata(file)


def test_another_format_is_refused_by_how_it_begins(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(b"PK\x03\x04" + bytes(64))
    with pytest.raises(NotGguf, match="no GGUF file: it begins with b'PK"):
        read_metadata(file)


def test_an_unknown_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotGguf, match="GGUF of version 9; known are 2, 3"):
        read_metadata(write_gguf(tmp_path / "m.gguf", version=9))


def test_a_teachers_template_is_the_one_in_its_file(tmp_path: Path) -> None:
    template = ChatTemplate.load(str(write_gguf(tmp_path / "m.gguf")))
    assert template.render([Message("user", "2+2?")]) == "<s>[2+2?]"


def test_a_base_model_is_refused_as_a_teacher(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "m.gguf", {"general.architecture": "llama"})
    with pytest.raises(ConfigError, match="has no chat template"):
        ChatTemplate.load(str(file))


def test_the_server_refuses_another_format_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(b"PK\x03\x04" + bytes(64))
    ended = subprocess.run(
        [sys.executable, "-m", "serving.llama", str(file)], capture_output=True, text=True
    )
    assert ended.returncode == 2
    assert (
        ended.stderr == f"serving.llama: {file} is no GGUF file: it begins with b'PK\\x03\\x04'\n"
    )
