"""What is told of the methods is what their classes are."""

from __future__ import annotations

import pytest
import torch

from h2lo_bids.models.diffi2i import DiffI2IArchitecture
from h2lo_bids.models.pix2pix import PatchDiscriminator, Pix2PixArchitecture
from h2lo_bids.models.registry import (
    CATALOGUE,
    METHODS,
    make_architecture,
    make_model,
)
from h2lo_bids.reports.methods import works
from h2lo_bids.training.methods import ADAPT as TRAINED
from h2lo_bids.training.options import FitOptions
from h2lo_bids.vocabulary import METHODS as OFFERED


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_parameters_are_those_of_the_classes() -> None:
    assert {*CATALOGUE} == {*TRAINED} == {*OFFERED, "pfsr"}
    with torch.device("meta"):
        for name, entry in CATALOGUE.items():
            sizes = TRAINED[name](FitOptions()).architecture
            assert entry.parameters == count(make_model(METHODS[name], sizes))
        critic = PatchDiscriminator(Pix2PixArchitecture())
        extractor = DiffI2IArchitecture().extractor(2)
    told = {name: e.trained - e.parameters for name, e in CATALOGUE.items() if e.trained}
    assert told == {"pix2pix": count(critic), "diffi2i": count(extractor)}
    assert CATALOGUE["pix2pix"].trained == 4_864_370


def test_references_are_in_the_bibliography() -> None:
    known = works()
    for entry in CATALOGUE.values():
        assert known[entry.key].link == entry.link
        assert known[entry.key].fields["year"] in entry.reference


@pytest.mark.parametrize(
    ("family", "sizes", "text"),
    [
        ("h2lo", {"trunk": "rnn"}, "trunk"),
        ("inr", {"layers": 1}, "2 layers"),
        ("pix2pix", {"channels": 0}, "at least 1"),
        ("pix2pix", {"downs": 1}, "at least 2 halvings"),
        ("diffi2i", {"width": 33}, "width"),
        ("diffi2i", {"blocks": (1, 1)}, "need 4"),
        ("diffi2i", {"chain": 0}, "chain must be at least 1"),
        ("pfsr", {"features": 10, "reduction": 4}, "features"),
    ],
)
def test_sizes_that_make_no_network_are_refused(family: str, sizes: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make_architecture(family, sizes)
