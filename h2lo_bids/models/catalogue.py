"""What each method is: its paper, its size, what is exact and what is our choice.

Imports nothing heavy, so that the command line can print it at once; a test counts the
parameters of the classes and compares.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from h2lo_bids.models.registry import task_of


@dataclass(frozen=True)
class Entry:
    """What a reader is shown of a method."""

    name: str  # a key of `h2lo_bids.models.registry.METHODS`
    title: str  # its row in the paper's Table 1; of an enhancer its usual name
    kind: str  # what it is, as a sentence calls it
    parameters: int  # of the model that a bundle holds, at the paper's sizes
    reference: str
    link: str
    key: str  # in bids_app_spec/references.yml
    exact: str  # what follows a publication or its authors' code
    ours: str  # what is our choice
    trained: int | None = None  # of all networks that are trained, if those are more

    def to_dict(self) -> dict[str, Any]:
        """Return the entry as JSON-ready values."""
        values = asdict(self)
        trained = self.parameters if self.trained is None else self.trained
        return {**values, "task": self.task, "trained": trained}

    @property
    def task(self) -> str:
        """One of `h2lo_bids.vocabulary.TASKS`."""
        return task_of(self.name)


_H2LO = ("Gao et al. 2026, arXiv 2603.24968", "https://arxiv.org/abs/2603.24968", "h2lo")

CATALOGUE: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(
            "identity", "HF image", "the high-field image itself", 0,
            *_H2LO,
            exact="The first row of the paper's Table 1: the image is returned as it is.",
            ours="None.",
        ),
        Entry(
            "arnold", "Arnold et al.", "the simulator of Arnold et al.", 4,
            "Arnold et al. 2022, Magnetic Resonance Imaging 87, 67-76",
            "https://doi.org/10.1016/j.mri.2021.12.007", "arnold",
            exact="The four steps, the noise (additive, uniform) and the objective of the "
            "authors' code.",
            ours="Nelder-Mead in place of fminunc for the local search; it is fitted on the "
            "model's grid.",
        ),
        Entry(
            "pix2pix", "Pix2Pix", "the Pix2Pix network in 3D", 4_165_537,
            "Isola et al. 2017, CVPR",
            "https://doi.org/10.1109/CVPR.2017.632", "pix2pix",
            exact="Adversarial loss and L1 of weight 100, halved discriminator loss, Adam 2e-4 "
            "(0.5, 0.999), rate constant, then linear to 0; the number of parameters of the "
            "paper's Table 1.",
            ours="The 3D sizes of generator and discriminator, found from that number; patches "
            "that overlap.",
            trained=4_864_370,
        ),
        Entry(
            "diffi2i", "DiffI2I", "the DiffI2I diffusion transformer", 16_389_619,
            "Xia et al. 2023, arXiv 2308.13767",
            "https://arxiv.org/abs/2308.13767", "diffi2i",
            exact="Two stages, the compact prior, the chain of four steps and the transformer's "
            "blocks after the authors' public code for DiffIR; the number of parameters of the "
            "paper's Table 1.",
            ours="Widths and depths, found from that number; axial slices, one after the other.",
            trained=17_499_443,
        ),
        Entry(
            "inr", "Conditional INR", "the conditional implicit neural representation", 845_473,
            "Wu et al. 2023, IEEE Journal of Biomedical and Health Informatics 27, 1004-1015",
            "https://doi.org/10.1109/JBHI.2022.3223106", "arssr",
            exact="Features of an encoder, decoded with position and cell by one network; 8000 "
            "points, L1; the number of parameters of the paper's Table 1.",
            ours="H2LO's encoder, and a decoder of eight layers of 256, found from that number; "
            "the cell is constant.",
        ),
        Entry(
            "h2lo-mlp", "H2LO w/o SIREN", "the H2LO neural operator with a ReLU trunk", 581_409,
            *_H2LO,
            exact="The paper's ablation: a ReLU trunk of the same sizes.",
            ours="The default protocol, as for h2lo.",
        ),
        Entry(
            "h2lo-nograd", "H2LO w/o L_grad",
            "the H2LO neural operator without the gradient loss", 581_409,
            *_H2LO,
            exact="The paper's ablation: the weight of the gradient loss is 0.",
            ours="The default protocol, as for h2lo.",
        ),
        Entry(
            "h2lo", "H2LO", "the H2LO neural operator", 581_409,
            *_H2LO,
            exact="Sizes, weights' names, loss, sampling and schedule of the authors' release, "
            "with --protocol paper.",
            ours="The default protocol: crops with exact halos in place of whole volumes; frames "
            "centred on the brain.",
        ),
        Entry(
            "pfsr", "PF-SR-style", "a PF-SR-style enhancement network", 3_553_793,
            "Man et al. 2023, Science Advances 9, eadi9327",
            "https://doi.org/10.1126/sciadv.adi9327", "pfsr",
            exact="As the H2LO paper says of its enhancer: no upsampling, the output is the input "
            "plus a predicted residual; L1; the rates, warm-up and epochs of its fine-tuning and "
            "the epochs of its other arms.",
            ours="Groups, blocks, channels and attention of the network, patches of 48 voxels, "
            "batches of 4 and Adam at 1e-4 along a cosine: PF-SR's full text could not be had.",
        ),
    )
}  # fmt: skip
"""In the order of the paper's Table 1, then the methods for other tasks."""


def cited(names: Iterable[str]) -> str:
    """Name methods for a sentence, each with the key of its paper, in the catalogue's order."""
    wanted = set(names)
    parts = [f"{e.kind} [@{e.key}]" for name, e in CATALOGUE.items() if name in wanted]
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
