import pytest

from nexus_tasks.exporters.written_text import is_ours, packed, unpacked, visible, while_changing

PICTURE = '<img src="data:image/png;base64,AA==">'
ANNOTATED = '<img src="data:image/png;base64,BB==">'


@pytest.mark.parametrize(
    "purified",
    [
        "<h1>A & b</h1><p>c d</p>",
        "<h1>A &amp; b</h1>\n\n<p>c&nbsp;d</p>",
        "<div><h1>A &#38; b</h1> <p>c <em>d</em></p><script>x()</script></div>",
        "<h1>A &amp; b</h1><!-- note --><p>c\u200b d</p>",
    ],
)
def test_markup_entities_and_white_space_are_not_seen(purified: str) -> None:
    assert visible(purified) == visible("<h1>A &amp; b</h1>\n<p>c d</p>\n")


def test_a_word_a_link_and_a_picture_are_seen() -> None:
    wanted = visible('<p>a <a href="https://a">x</a></p>')
    assert visible('<p>a b <a href="https://a">x</a></p>') != wanted
    assert visible('<p>a <a href="https://b">x</a></p>') != wanted
    assert visible(f'<p>a <a href="https://a">x</a>{PICTURE}</p>') != wanted


def test_what_stands_as_it_was_written_is_ours_and_what_differs_is_not() -> None:
    known = {"text": visible("<p>old</p>").mark}
    assert is_ours(visible("<div>old</div>"), known, visible("new"))
    assert is_ours(visible("new"), known, visible("new"))
    assert not is_ours(visible("<p>old, and people's</p>"), known, visible("new"))
    assert not is_ours(visible(""), known, visible("new"))


def test_a_picture_less_may_be_the_services_doing_a_picture_more_is_peoples() -> None:
    known = {"text": visible(f"old{PICTURE}").mark}
    assert is_ours(visible("old"), known, visible("new"))
    assert not is_ours(visible(f"old{PICTURE}{PICTURE}"), known, visible("new"))


def test_a_picture_that_replaces_ours_is_peoples() -> None:
    known = {"text": visible(f"old{PICTURE}").mark}
    assert is_ours(visible(f"old{PICTURE}"), known, visible("new"))
    assert not is_ours(visible(f"old{ANNOTATED}"), known, visible("new"))
    assert not is_ours(visible('old<img src="/uploads/1.png">'), known, visible("new"))
    assert not is_ours(visible("old<svg></svg>"), known, visible("new"))


@pytest.mark.parametrize(
    "kept",
    [
        "",
        "<img>",
        '<img src="" alt="a.dm3">',
        '<img alt="a.dm3" src="data:image/png;\nbase64,AA==" width="10">',
        ANNOTATED,
    ],
)
def test_what_a_service_makes_of_our_pictures_is_not_taken_for_peoples(kept: str) -> None:
    known = {"text": visible(f"old{PICTURE}{ANNOTATED}").mark}
    assert is_ours(visible(f"old{kept}"), known, visible("new"))


@pytest.mark.parametrize(
    "marked",
    [
        "<s>old</s>",
        "<del>old</del>",
        "<strike>old</strike>",
        "o<mark>ld</mark>",
        '<span style="text-decoration: line-through;">old</span>',
        '<span style="background-color: #f1c40f">old</span>',
    ],
)
def test_text_that_people_have_struck_through_or_highlighted_is_theirs(marked: str) -> None:
    assert not is_ours(visible(marked), {"text": visible("old").mark}, visible("new"))


def test_without_memory_only_nothing_and_what_we_may_have_written_are_ours() -> None:
    wanted, earlier = visible("new"), visible("earlier")
    assert is_ours(visible(" <p></p>"), {}, wanted, earlier)
    assert is_ours(earlier, {}, wanted, earlier)
    assert is_ours(wanted, {}, wanted, earlier)
    assert not is_ours(visible("people's"), {}, wanted, earlier)
    assert not is_ours(earlier, {"text": visible("old").mark}, wanted, earlier)


def test_after_a_lost_answer_both_texts_are_ours() -> None:
    old, lost, newest = visible("old"), visible("lost"), visible("newest")
    known = unpacked(packed(while_changing({"text": old.mark, "body": "x"}, old, lost)))
    assert set(known) == {"text"}
    assert is_ours(old, known, newest)
    assert is_ours(lost, known, newest)
    assert not is_ours(visible("people's"), known, newest)


def test_what_is_no_marks_has_none() -> None:
    assert unpacked("unknown") == unpacked(None) == {}
    assert unpacked(packed({"b": "1", "a": "x,y"})) == {"a": "x,y", "b": "1"}
