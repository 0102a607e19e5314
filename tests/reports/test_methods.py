"""The Methods text says what the facts say, and cites what exists."""

from __future__ import annotations

import re

import pytest
from report_page import Page
from report_samples import make_report, make_scan

from h2lo_bids.reports.methods import Work, describe, facts_of, works

EVERYTHING = {
    "version": "0.1.0",
    "versions": dict.fromkeys(
        ("nipype", "pybids", "torch", "nibabel", "numpy", "deepbet", "antspyx"), "1.2.3"
    ),
    "contrasts": ["T1w", "T2w"],
    "masks": ["deepbet", "synthstrip", "given", "shared", "stripped", "skip"],
    "templates": ["MNI152NLin2009cAsym from TemplateFlow [@templateflow]"],
    "grids": ["on a grid of 1.6 x 1.6 x 5 mm"],
    "models": [
        {
            "name": kind,
            "contrast": "T1w",
            "sha256": "a" * 64,
            "training_kind": kind,
            "scaling": "robust" if kind == "simulated" else "max",
            "parameters": 1,
        }
        for kind in ("simulated", "real", "unknown", "other")
    ],
    "precision": "fp32",
    "seed": 0,
}


def test_every_citation_exists_once():
    text = describe(EVERYTHING)
    assert set(text.keys) <= set(works())
    assert len(set(text.keys)) == len(text.keys)
    assert set(re.findall(r"@([\w]+)", text.markdown)) == set(text.keys)
    assert re.findall(r"^@\w+\{(\w+),", text.bibtex, re.MULTILINE) == list(text.keys)


def test_links_lead_to_the_references():
    page = Page.of(describe(EVERYTHING).html)
    ids = {value for _, name, value in page.attributes if name == "id"}
    targets = {v[1:] for _, n, v in page.attributes if n == "href" and v.startswith("#")}
    assert targets
    assert targets <= ids
    assert "[@" not in page.text
    assert "Gao et al., 2026" in page.text


def test_nothing_is_claimed_without_a_fact():
    text = describe({}).markdown
    for word in ("deepbet", "SynthStrip", "registered", "seed", "Nipype", "model `", "None"):
        assert word not in text
    assert "[@h2lo]" in text


def test_scaling_is_that_of_the_models():
    both = describe(EVERYTHING).markdown
    assert "divided by their maximum" in both
    assert "fixed levels of cerebrospinal fluid and white matter" in both
    one = describe({"models": [{"name": "x", "scaling": "robust"}]}).markdown
    assert "N4 bias field correction [@n4]" in one
    assert "maximum" not in one


def test_simulated_training_is_said():
    simulated = describe({"models": [{"name": "m", "training_kind": "simulated"}]}).markdown
    real = describe({"models": [{"name": "m", "training_kind": "real"}]}).markdown
    assert "simulated" in simulated
    assert "simulated" not in real


def test_facts_come_from_the_scans():
    report = make_report((make_scan(), make_scan("sub-01_ses-HF_T2w", "T2w")))
    text = describe(facts_of(report)).markdown
    for part in ("0.1.0", "T1-weighted and T2-weighted", "deepbet 1.0.2", "MNI", "`h2lo_T2w`"):
        assert part in text
    assert "The random seed was 7." in text


def test_data_cannot_inject_html():
    name = "`<script>alert(1)</script>`"
    facts = {
        "models": [{"name": name, "sha256": "<b>"}],
        "version": "<img src=x>",
        "templates": ["<i>"],
    }
    assert not {"script", "b", "img", "i"} & set(Page.of(describe(facts).html).tags)


@pytest.mark.parametrize(
    ("author", "short"),
    [
        ("Solo, A.", "Solo, 1999"),
        ("Müller, J. and Čapek, K.", "Müller and Čapek, 1999"),
        ("Big, A. and others", "Big et al., 1999"),
        ("A, A. and B, B. and C, C.", "A et al., 1999"),
    ],
)
def test_short_citations(author, short):
    assert Work("a", {"author": author, "year": "1999"}).short == short


def test_a_reference_is_escaped_and_linked():
    fields = {"author": "Müller, J. and others", "title": "A {B}rain & <b>", "journal": "C"}
    more = {"volume": "3", "pages": "1--9", "year": "1999", "url": "https://e.org/?a=1&b=2"}
    assert Work("a", fields | more).html == (
        "J. Müller et al. (1999). A Brain &amp; &lt;b&gt;. C 3: 1-9. "
        '<a href="https://e.org/?a=1&amp;b=2" rel="noopener noreferrer">'
        "https://e.org/?a=1&amp;b=2</a>"
    )
    for fields, link in (
        ({"doi": "10.1/x", "eprint": "1"}, "https://doi.org/10.1/x"),
        ({"eprint": "1.2"}, "https://arxiv.org/abs/1.2"),
    ):
        assert Work("a", fields).link == link


def test_our_bibliography_is_complete():
    for key, work in works().items():
        assert work.link.startswith("https://"), key
        assert work.fields["title"], key
        assert work.fields["author"], key


def test_the_method_that_made_the_images_is_named():
    pix = describe({"models": [{"name": "m", "method": "pix2pix", "training_kind": "real"}]})
    assert "by the Pix2Pix network in 3D [@pix2pix] with" in pix.markdown
    assert "by cubic splines" in pix.markdown
    assert "operator" not in pix.markdown
    assert "@inproceedings{pix2pix," in pix.bibtex
    own = describe({"models": [{"name": "m", "method": "h2lo"}]})
    assert "by the H2LO neural operator [@h2lo] with" in own.markdown
    assert "splines" not in own.markdown
    both = describe({"models": [{"name": n, "method": n} for n in ("arnold", "inr")]})
    assert "the simulator of Arnold et al. [@arnold] and the conditional implicit" in both.markdown
    none = describe({"models": [{"name": "m", "method": "identity", "training_kind": "none"}]})
    assert "returned as they are, not synthesized, with" in none.markdown
    assert "was not trained on anything" in none.markdown
    report = make_report((make_scan(),))
    assert [model["method"] for model in facts_of(report)["models"]] == ["h2lo"]
