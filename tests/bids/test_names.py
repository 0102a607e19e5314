from __future__ import annotations

from bidsschematools.schema import load_schema

from h2lo_bids.bids.names import LONG_TO_SHORT, ORDER


def test_the_order_is_that_of_the_bids_schema() -> None:
    schema = load_schema()
    short = {long: entity["name"] for long, entity in schema.objects.entities.to_dict().items()}
    official = [short[long] for long in schema.rules.entities]
    assert [entity for entity in official if entity in ORDER] == list(ORDER)
    for long, name in LONG_TO_SHORT.items():
        assert short.get(long, long) == name
