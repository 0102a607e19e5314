from __future__ import annotations

from bidsschematools.schema import load_schema
from hypothesis import given
from hypothesis import strategies as st
from skeletons import name_of

from h2lo_bids.bids.names import LONG_TO_SHORT, ORDER, parse_name

LABELS = st.text("abcXYZ0189", min_size=1, max_size=6)


def test_the_order_is_that_of_the_bids_schema() -> None:
    schema = load_schema()
    short = {long: entity["name"] for long, entity in schema.objects.entities.to_dict().items()}
    official = [short[long] for long in schema.rules.entities]
    assert [entity for entity in official if entity in ORDER] == list(ORDER)
    for long, name in LONG_TO_SHORT.items():
        assert short.get(long, long) == name


@given(st.dictionaries(st.sampled_from(ORDER), LABELS), st.sampled_from(["T1w", "T2w", "mask"]))
def test_names_come_back(entities: dict[str, str], suffix: str) -> None:
    ordered = tuple((key, entities[key]) for key in ORDER if key in entities)
    text = "_".join([*(f"{key}-{label}" for key, label in ordered), suffix]) + ".nii.gz"
    name = name_of(text)
    assert (name.entities, name.suffix, name.extension) == (ordered, suffix, ".nii.gz")
    assert name.stem + name.extension == text


@given(st.text(max_size=30))
def test_any_text_is_read_without_a_crash(text: str) -> None:
    name = parse_name(text)
    if name is not None:
        assert name.suffix.isalnum()
        assert all("/" not in label for _, label in name.entities)
