"""What is told of the methods is what their classes are."""

from __future__ import annotations

import pytest
import torch

from h2lo_bids.models.catalogue import CATALOGUE
from h2lo_bids.models.diffi2i import DiffI2IArchitecture
from h2lo_bids.models.pix2pix import PatchDiscriminator, Pix2PixArchitecture
from h2lo_bids.models.registry import FAMILIES, METHODS, make_architecture, make_model
from h2lo_bids.reports.methods import works
from h2lo_bids.training.methods import METHODS as TRAINED
from h2lo_bids.training.options import FitOptions
from h2lo_bids.vocabulary import METHODS as OFFERED


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_bundle_holds_as_many_parameters_as_is_told(name: str) -> None:
    with torch.device("meta"):
        model = make_model(METHODS[name], TRAINED[name].adapt(FitOptions()).architecture)
    assert CATALOGUE[name].parameters == count(model)


def test_what_is_trained_besides_is_told() -> None:
    with torch.device("meta"):
        critic = PatchDiscriminator(Pix2PixArchitecture())
        extractor = DiffI2IArchitecture().extractor(2)
    told = {name: e.trained - e.parameters for name, e in CATALOGUE.items() if e.trained}
    assert told == {"pix2pix": count(critic), "diffi2i": count(extractor)}
    assert CATALOGUE["pix2pix"].trained == 4_864_370


def test_every_method_is_offered_trained_and_built() -> None:
    # pfsr is another task's, whichever of the tables knows it already.
    names = [set(table) - {"pfsr"} for table in (CATALOGUE, METHODS, TRAINED, OFFERED)]
    assert all(own == names[0] for own in names)
    assert [TRAINED[name].title for name in CATALOGUE] == [e.title for e in CATALOGUE.values()]
    assert {METHODS[name] for name in CATALOGUE} <= FAMILIES.keys()


def test_references_are_in_the_bibliography() -> None:
    known = works()
    for entry in CATALOGUE.values():
        assert known[entry.key].link == entry.link
        assert known[entry.key].fields["year"] in entry.reference


@pytest.mark.parametrize("name", sorted(set(METHODS.values())))
def test_architectures_survive_json(name: str) -> None:
    architecture = make_architecture(name, {})
    lists = {k: list(v) if isinstance(v, tuple) else v for k, v in architecture.to_dict().items()}
    assert make_architecture(name, lists) == architecture
    options = FitOptions(family=name, architecture=architecture, max_seconds=60)
    assert FitOptions.from_dict(options.to_dict()) == options
