"""The Methods text says what the scans say, and cites what exists."""

from __future__ import annotations

import re
from dataclasses import replace

from report_samples import Page, make_scan
from targets import read_card

from h2lo_bids.bids.discover import Discovery
from h2lo_bids.cli.participant import SubjectTask, write_report
from h2lo_bids.reports.methods import Work, describe, works
from h2lo_bids.reports.page import render_markdown
from h2lo_bids.reports.records import ModelInfo, ScanReport, SubjectReport, load_subject_report
from h2lo_bids.settings import Settings
from pipelines.scan_steps import method_text


def of_models(*models: dict[str, str]) -> str:
    """Describe scans, one of a model with each of these fields."""
    scans = (replace(make_scan(), model=ModelInfo(**{"name": str(m), **m})) for m in models)
    return describe(SubjectReport("01", tuple(scans))).markdown


def test_every_fact_is_in_the_text_and_every_citation_leads_to_the_references():
    mni = "MNI152NLin2009cAsym", "https://templateflow.s3.amazonaws.com/x"
    templates = mni, ("Ours", "file:///data/templateflow/tpl-Ours/x")
    scan = replace(make_scan(), templates=templates, model=ModelInfo("x", scaling="robust"))
    methods = ("deepbet", "synthstrip", "given", "shared", "stripped", "skip")
    scans = [scan, *(replace(make_scan(), mask_method=method_text(name)) for name in methods)]
    scans.append(replace(make_scan(), suffix="T2w", task="enhance", parts=("a", "b", "c")))
    software = "h2lo-bids nipype pybids torch nibabel numpy deepbet antspyx"
    versions = tuple((name, "1.2.3") for name in software.split())
    grids = ("on a grid of 1.6 x 1.6 x 5 mm",)
    everything = describe(SubjectReport("01", tuple(scans), versions=versions, grids=grids))
    keys = list(dict.fromkeys(re.findall(r"@([\w]+)", everything.markdown)))
    assert set(keys) <= set(works())
    assert re.findall(r"^@\w+\{(\w+),", everything.bibtex, re.MULTILINE) == keys
    page = Page(everything.html)
    assert page.anchors == set(page.values("id")) == {f"ref-{key}" for key in keys}
    assert "[@" not in page.text
    assert "Gao et al., 2026" in page.text
    for words in (
        "Low-field T1-weighted and T2-weighted images were enhanced",
        "and low-field MRI was synthesized by",
        "deepbet 1.2.3", "SynthStrip", "existing derivatives", "shared one brain mask",
        "had no skull", "No brain extraction was", "The three orthogonal thick-slice scans",
        "voxels of 2 x 2 x 4 mm", "divided by their maximum", " or mapped affinely to fixed levels",
        "MNI152NLin2009cAsym from TemplateFlow [@templateflow]", "(antspyx 1.2.3)",
        "Ours from a file of the user's own",
        "on a grid of 1.6 x 1.6 x 5 mm", "performed in fp32 precision. The random seed was 7.",
        "PyTorch 1.2.3 [@pytorch], NiBabel 1.2.3 [@nibabel], NumPy 1.2.3 [@numpy].\n",
    ):  # fmt: skip
        assert words in everything.markdown
    assert "  " not in everything.markdown


def test_nothing_is_claimed_without_a_fact():
    bare = ScanReport("sub-01_T1w", "x", (), "T1w")
    for report in (SubjectReport("01"), SubjectReport("01", (bare,))):
        text = describe(report).markdown
        for word in ("deepbet", "SynthStrip", "registered", "seed", "Nipype", "model `", "None"):
            assert word not in text
        assert "[@h2lo]" in text


def test_scaling_training_and_method_are_those_of_the_model():
    robust = of_models({"scaling": "robust"})
    assert "N4 bias field correction [@n4]" in robust
    assert "maximum" not in robust
    assert "simulated" in of_models({"training_kind": "simulated"})
    assert "simulated" not in of_models({"training_kind": "real"})
    assert "was not trained." in of_models({"training_kind": "none"})
    pix = of_models({"method": "pix2pix"})
    assert "by the Pix2Pix network in 3D [@pix2pix] with" in pix
    assert "with cubic splines" in pix
    assert "operator" not in pix
    own = of_models({"method": "h2lo"})
    assert "by the H2LO neural operator [@h2lo] with" in own
    assert "splines" not in own
    assert "returned without synthesis, with" in of_models({"method": "identity"})
    both = of_models({"method": "arnold"}, {"method": "inr"})
    assert "the simulator of Arnold et al. [@arnold] and the conditional implicit" in both


def test_noise_and_deviations_are_in_the_text(tmp_path):
    how = {"noise": "calibrated", "realisations": 2, "noise_scale": 0.5, "uncertainty": True}
    settings = Settings(tmp_path, tmp_path / "out", **how)
    write_report(SubjectTask(settings, "01", Discovery(), tmp_path), [], [make_scan()])
    text = describe(load_subject_report(tmp_path / "out", "01")).markdown
    assert "made with 0.5 times the noise of the model's training pairs, 2 draws of each." in text
    assert "made by the model of each fold, for the standard deviation over them." in text


def test_a_reference_is_escaped_and_linked():
    fields = {"author": "Müller, J. and others", "title": "A {B}rain & <b>", "journal": "C"}
    more = {"volume": "3", "pages": "1--9", "year": "1999", "url": "https://e.org/?a=1&b=2"}
    assert Work(fields | more).html == (
        "J. Müller et al. (1999). A Brain &amp; &lt;b&gt;. C 3: 1-9. "
        '<a href="https://e.org/?a=1&amp;b=2" rel="noopener noreferrer">'
        "https://e.org/?a=1&amp;b=2</a>"
    )


def test_our_bibliography_is_complete():
    shown = {key: (work.short, work.link) for key, work in works().items()}
    doi = "https://doi.org/10.1016/S0140-6736(86)90837-8"
    assert shown["bland"] == ("Bland and Altman, 1986", doi)
    assert shown["diffi2i"] == ("Xia et al., 2023", "https://arxiv.org/abs/2308.13767")
    for key, work in works().items():
        assert work.link.startswith("https://"), key
        assert {"type", "author", "title"} <= work.fields.keys(), key
        assert all(type(value) is str and value for value in work.fields.values()), key


# Markdown: headings in their place, and nothing that can harm.


def test_markdown_has_headings_below_the_pages_and_tables_that_the_keyboard_reaches():
    text = "---\nlicense: mit\n---\n# One\n#### Four\n[a](#b 'c')\n\n"
    html = render_markdown(f"{text}| a | b |\n|---|:-:|\n| 1 | **2** |\n| 3 |")
    assert re.sub(r"\s*(</?[^>]+>)\s*", r"\1", html) == (
        '<h3>One</h3><h6>Four</h6><p><a href="#b" rel="noopener noreferrer">a</a></p>'
        '<div class="scroll" tabindex="0" role="group" aria-label="Table"><table><thead><tr>'
        '<th scope="col">a</th><th scope="col">b</th></tr></thead><tbody>'
        "<tr><td>1</td><td><strong>2</strong></td></tr><tr><td>3</td><td></td></tr>"
        "</tbody></table></div>"
    )


def test_nothing_harmful_passes():
    for text in (
        "<script>alert(1)</script>",
        "[x](JaVaScRiPt:alert(1))",
        '[x](https://e.org/"onmouseover="alert(1))',
        "![x](https://e.org/pixel.png)",
        "| <i> | b |\n|---|---|\n| <script> | </table> |",
        "[x][y]\n\n[y]: javascript:alert(1)",
        "[x](&#106;avascript:alert(1))",
        "<javascript:alert(1)>",
        "[x](//e.org)",
        '``` x" onclick="alert(1)\nx\n```',
    ):
        read_card(text.encode())
