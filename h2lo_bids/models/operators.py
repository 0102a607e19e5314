"""The models that can be asked at any position: an encoder, and what reads its features."""

from __future__ import annotations

from h2lo_bids.models.h2lo import H2lo
from h2lo_bids.models.inr import ConditionalInr

Operator = H2lo | ConditionalInr
"""Both have ``encoder``, a `h2lo_bids.models.branch.Branch`, and ``architecture``."""
