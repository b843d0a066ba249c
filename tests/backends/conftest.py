"""Which servers the contract runs against: the embedded one always, others where asked for by `--backends`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.backends.servers import KINDS, Backend, running


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test that takes a backend runs against each of those asked for."""
    if "backend" in metafunc.fixturenames:
        asked = metafunc.config.getoption("--backends").split(",")
        metafunc.parametrize(
            "backend", ["embedded", *filter(None, asked)], indirect=True, scope="session"
        )


@pytest.fixture(scope="session")
def backend(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Backend]:
    assert request.param in KINDS, f"unknown backend {request.param}; known are {', '.join(KINDS)}"
    with running(request.param, tmp_path_factory.mktemp(request.param) / "log") as started:
        yield started
