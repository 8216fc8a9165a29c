import pytest

from nexus_tasks.exporters.labarchives.signature import signature, signed, without_signature


def test_the_example_of_the_api_notebook_is_signed_alike() -> None:
    made = signature("0234wedkfjrtfd34er", "entry_attachment", 264433207000, "1234567890")
    assert made == "mT7pS+KgqlNseR0bo4YLQOVIsgOugMWzlQGllInXS25Q7VpA6lRmL0nUq/UUdrlF+WV7POYE1vcwvN/pnac7bw=="


def test_the_password_is_not_among_the_parameters() -> None:
    parameters = signed("key", "add_entry", 1, "password")
    assert set(parameters) == {"akid", "expires", "sig"}
    assert "password" not in parameters.values()


@pytest.mark.parametrize(
    ("words", "left"),
    [
        ("refused: akid=k1&expires=99&sig=a+b/c== by us", "refused: by us"),
        ("refused: ?uid=u&amp;nbid=n", "refused: &nbid=n"),
        ('refused: {"sig"=>"a+b/c==", "nbid"=>"n"}', 'refused: {" ", "nbid"=>"n"}'),
        ("refused: <expires>99</expires> by us", "refused: by us"),
        ("refused: akid%3Dk1%26sig%3Da%252Bb by us", "refused: by us"),
        ("refused: a b/c and a+b\\/c==", "refused: *** and ***"),
    ],
)
def test_what_signs_a_call_is_taken_out_of_words(words: str, left: str) -> None:
    assert " ".join(without_signature(words, ("a+b/c==",)).split()) == left


@pytest.mark.parametrize(
    "words",
    [
        "The expires parameter is too old, or too far ahead.",
        "The supplied signature is not valid (100 % of them).",
        "Größe: 5 µm, limit = 10; see http://x.example/a?b",
        "",
    ],
)
def test_other_words_stay_as_they_are(words: str) -> None:
    assert without_signature(words, ("secret", "")) == words
