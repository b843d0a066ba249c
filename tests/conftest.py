"""What all suites share: one async backend, the one the server runs on."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Which servers, beside the embedded one, tests/backends runs against."""
    parser.addoption(
        "--backends",
        default="",
        metavar="NAME,…",
        help="also run the teacher contract against these",
    )
    parser.addoption(
        "--page", action="store_true", help="also run the page over the embedded models"
    )
    parser.addoption(
        "--clients", action="store_true", help="also run tests/clients against what is installed"
    )
    parser.addoption(
        "--real", action="store_true", help="also run tests/real, which fetches a language model"
    )
