"""Where tokens stand in a text, and the probabilities of answers, by hand."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dermo_ray.cct import Sample, decode_tokens
from dermo_ray.cct.confidence import option_probabilities, span_probability, token_spans


def sample(tokens: list[str], probabilities: list[float], top: list[dict[str, float]] | None = None) -> Sample:
    """A completion of these tokens; `top` holds probabilities, the written token's among them."""
    logs = [{token: math.log(p) for token, p in place.items()} for place in top or []]
    return Sample("".join(tokens), tokens, [math.log(p) for p in probabilities], logs)


def test_tokens_are_found_in_their_text() -> None:
    assert token_spans(sample(["ab", " c", "de"], [1, 1, 1])) == [(0, 2), (2, 4), (4, 6)]
    stopped = Sample("ab", ["ab", "<|im_end|>", ""], [0.0, 0.0, 0.0])
    assert token_spans(stopped) == [(0, 2), (2, 2), (2, 2)]
    cut_by_a_stop_string = Sample("see\nUs", ["see", "\nUser"], [0.0, 0.0])
    assert token_spans(cut_by_a_stop_string) == [(0, 3), (3, 6)]


@pytest.mark.parametrize(("text", "tokens"), [("abc", ["ab", "x"]), ("abc", ["ab"]), ("abc", []), ("bc", ["a", "bc"])])
def test_tokens_of_another_text_are_refused(text: str, tokens: list[str]) -> None:
    with pytest.raises(ValueError, match="do not spell the text"):
        token_spans(Sample(text, tokens, [0.0] * len(tokens)))


def decode(pieces: list[bytes]) -> str:
    return b"".join(pieces).decode(errors="replace")


def test_a_character_over_several_tokens_belongs_to_the_last() -> None:
    assert decode_tokens(decode, [b"n", b"\xc3", b"\xa9v", b"e"]) == ["n", "", "\u00e9v", "e"]
    assert decode_tokens(decode, [b"a", b"\xc3"]) == ["a", "\ufffd"]  # cut off by the length limit
    assert decode_tokens(decode, []) == []


@given(st.text(max_size=30), st.data())
def test_any_cut_of_a_texts_bytes_spells_the_text(text: str, data: st.DataObject) -> None:
    encoded = text.encode()
    cuts = sorted(data.draw(st.sets(st.integers(0, len(encoded)), max_size=8)) | {0, len(encoded)})
    tokens = [encoded[a:b] for a, b in pairwise(cuts)]
    pieces = decode_tokens(decode, tokens)
    assert len(pieces) == len(tokens)
    assert "".join(pieces) == text


def test_a_spans_probability_is_the_geometric_mean_of_its_tokens() -> None:
    said = sample(["<d>", "Mel", "anoma", "</d>"], [0.1, 0.9, 0.4, 0.2])
    assert span_probability(said, 3, 11) == pytest.approx(math.sqrt(0.9 * 0.4))
    assert span_probability(said, 3, 6) == pytest.approx(0.9)
    assert span_probability(said, 2, 6) == pytest.approx(math.sqrt(0.1 * 0.9))  # a token that only overlaps counts
    with pytest.raises(ValueError, match="no token"):
        span_probability(said, 15, 15)


def test_letters_get_the_probability_of_their_tokens() -> None:
    said = sample(["B", ") Nevus"], [0.6, 1.0], [{"B": 0.6, "A": 0.3, "C": 0.05}, {}])
    assert option_probabilities(said, 0, "ABCD") == pytest.approx({"A": 0.3, "B": 0.6, "C": 0.05, "D": 0.0})


def test_case_space_and_what_a_token_goes_on_with_do_not_matter_but_other_words_do() -> None:
    said = sample([" B"], [0.5], [{" B": 0.5, "B": 0.1, "B)": 0.05, " a": 0.2, "Acne": 0.1, "\n": 0.02, "": 0.01}])
    assert option_probabilities(said, 1, "AB") == pytest.approx({"A": 0.2, "B": 0.65})


def test_what_stands_before_the_answer_in_its_token_is_passed_over() -> None:
    said = sample(['"B', '"'], [0.7, 1.0], [{'"B': 0.7, '"A': 0.2, "A": 0.1}, {}])
    assert option_probabilities(said, 1, "AB") == pytest.approx({"A": 0.3, "B": 0.7})


def test_words_part_where_their_tokens_do() -> None:
    options = ["Basal Cell Carcinoma", "Basal Cell Papilloma", "Nevus"]
    said = sample(
        ["Basal", " Cell", " Carc", "inoma"],
        [0.8, 1.0, 0.75, 0.5],
        [{"Basal": 0.8, "N": 0.2}, {" Cell": 1.0}, {" Carc": 0.75, " Pap": 0.25}, {"inoma": 0.5, "x": 0.5}],
    )
    # the last token tells no options apart, so its probability does not count
    assert option_probabilities(said, 0, options) == pytest.approx(
        {"Basal Cell Carcinoma": 0.6, "Basal Cell Papilloma": 0.2, "Nevus": 0.2}
    )


def test_an_option_that_begins_another_is_told_by_what_follows() -> None:
    options = ["Melanoma", "Melanoma in situ"]
    ending = [{"Melanoma": 1.0}, {"<|im_end|>": 0.9, " in": 0.1}]
    short = Sample("Melanoma", ["Melanoma", "<|im_end|>"], [0.0, math.log(0.9)], [
        {token: math.log(p) for token, p in place.items()} for place in ending
    ])  # fmt: skip
    assert option_probabilities(short, 0, options) == pytest.approx({"Melanoma": 0.9, "Melanoma in situ": 0.1})
    long = sample(["Melanoma", " in", " situ"], [1.0, 0.1, 1.0], [{"Melanoma": 1.0}, {" in": 0.1, ".": 0.8}, {}])
    assert option_probabilities(long, 0, options) == pytest.approx({"Melanoma": 0.8, "Melanoma in situ": 0.1})
    bare = sample(["Melanoma"], [0.7], [{"Melanoma": 0.7}])
    assert option_probabilities(bare, 0, options) == pytest.approx({"Melanoma": 0.7, "Melanoma in situ": 0.0})


def test_options_that_no_token_tells_apart_share_its_probability() -> None:
    said = sample(["Nevus"], [0.5], [{"Nevus": 0.5, "M": 0.4}])
    assert option_probabilities(said, 0, ["Nevus", "Melanoma", "Melasma"]) == pytest.approx(
        {"Nevus": 0.5, "Melanoma": 0.2, "Melasma": 0.2}
    )


def test_a_character_over_several_tokens_is_followed() -> None:
    said = sample(["Sj", "", "\u00f6", "gren"], [0.5, 0.8, 1.0, 1.0], [{"Sj": 0.5, "S": 0.2}, {}, {}, {}])
    options = ["Sj\u00f6gren", "Sjx", "Scabies"]
    found = option_probabilities(said, 0, options)
    assert found == pytest.approx({"Sj\u00f6gren": 0.4 + 0.2 / 3, "Sjx": 0.2 / 3, "Scabies": 0.2 / 3})


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="each token needs its own"):
        Sample("ab", ["a", "b"], [0.0])
    with pytest.raises(ValueError, match="each token needs its own"):
        Sample("ab", ["a", "b"], [0.0, 0.0], [{}])
