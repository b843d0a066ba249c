"""The markup that a chat template calls for, and where a prompt has opened it already."""

from __future__ import annotations

import pytest

from runtime.markup import BRACKETS, HARMONY, MARKUPS, PLAIN, THINKING, Markup, markup_of


@pytest.mark.parametrize(
    ("template", "found"),
    [
        ("{{ content.split('</think>') }}", THINKING),
        ("<|start|>assistant<|channel|>final </think>", HARMONY),
        ("[THINK]{{ content }}[/THINK]", BRACKETS),
        ("{{ content }}", PLAIN),
    ],
)
def test_a_template_calls_for_the_first_markup_whose_sign_it_contains(
    template: str, found: Markup
) -> None:
    assert markup_of(template) is found


def test_a_name_overrules_what_the_template_says() -> None:
    assert markup_of("</think>", "plain") is PLAIN


@pytest.mark.parametrize("markup", MARKUPS.values())
def test_an_opener_is_written_once(markup: Markup) -> None:
    once = markup.opened("assistant\n")
    assert once == "assistant\n" + markup.opener
    assert markup.opened(once) == once
