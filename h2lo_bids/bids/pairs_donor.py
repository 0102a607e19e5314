"""The T1w scan that may lend its brain mask to the T2w scan of its session."""

from __future__ import annotations

from h2lo_bids.bids.choose import not_an_input, rank
from h2lo_bids.bids.filters import matches
from h2lo_bids.bids.gather import Image, is_low, read_scan
from h2lo_bids.bids.index import folder_names
from h2lo_bids.bids.metadata import Sidecars
from h2lo_bids.bids.names import in_place, parse_name
from h2lo_bids.bids.pairquery import PairQuery
from h2lo_bids.bids.scan import Scan
from h2lo_bids.errors import H2loError
from h2lo_bids.io import check_content


def mask_donor(hf: Scan, query: PairQuery) -> Scan | None:
    """Find the high-field T1w scan beside a T2w scan, if there is one.

    It is looked for in the scan's own folder and not among the pairs, so that a
    pair comes out the same whether T1w pairs are asked for or not, exist or not.

    Parameters
    ----------
    hf : Scan
        The high-field scan of a pair.
    query : PairQuery
        What is asked of T1w scans holds here, too.

    Returns
    -------
    Scan or None
        None for a T1w scan, and where nothing is there that can be read.
    """
    if hf.suffix != "T2w":
        return None
    asked, sidecars = query.conditions("hf", "T1w"), Sidecars(hf.root)
    for image in _beside(hf):
        if not matches(image.name, asked) or not_an_input(image.name, asked):
            continue
        try:
            check_content(image.path)
            scan = read_scan(image, sidecars, hf.dataset)
        except H2loError:
            continue
        # Of unknown strength, it may be the low-field scan.
        if not is_low(scan) and (asked or scan.field_strength is not None):
            return scan
    return None


def _beside(hf: Scan) -> list[Image]:
    """List the T1w images of a scan's folder, the preferred one first."""
    paths = [hf.path.with_name(filename) for filename in folder_names(hf.path.parent)]
    images = [Image(path, name) for path in paths if (name := parse_name(path.name))]
    wanted = [i for i in images if i.name.suffix == "T1w" and in_place(i.path, i.name)]
    return sorted(wanted, key=lambda i: (*rank(i.path, i.name), i.name.extension == ".nii"))
