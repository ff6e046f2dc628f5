"""Every figure that a group of runs allows, with its caption and its description."""

from collections.abc import Iterator
from typing import NamedTuple

from matplotlib.figure import Figure

from resnet_repro.report import layer_figures, training_curves
from resnet_repro.runs.finished import SPLITS
from resnet_repro.runs.groups import Comparison

NAMES = ("training_curves", "constructed_solution", "ablations", "layer_responses", "gradient_norms")
CONSTRUCTED = (
    "v1 Sec. 1's argument: “constructed” is the deeper network that began as the trained shallower one with identity "
    "layers inserted, and trained on at the shallower one's last rate."
)
RESPONSES = (
    "Standard deviation of each 3x3 layer's response on training images, after batch norm and before ReLU or "
    "addition, for the trained networks: in the layers' order and sorted. As v1 Fig. 7; v2 has no such figure."
)
GRADIENTS = (
    "L2 norm of the gradient of each layer's weights on one mini-batch, without weight decay. v1 Sec. 4.1 says that "
    "the gradients of plain networks are healthy, and draws none."
)


class Drawn(NamedTuple):
    """A figure. `narrow` is the same for a narrow screen; None if the figure has one panel."""

    name: str
    caption: str
    alt: str
    wide: Figure
    narrow: Figure | None = None


def draw(comparison: Comparison) -> Iterator[Drawn]:
    """Yield the figures of runs that may be compared, in the order of `NAMES`."""
    bold = SPLITS[training_curves.held_out_split(comparison)]
    lines = f"Dashed: training error on the augmented mini-batches since the last point; bold: {bold} error."
    kinds = {
        "training_curves": (training_curves.training_panels(comparison), "As v1 Fig. 6."),
        "constructed_solution": (training_curves.constructed_panels(comparison), CONSTRUCTED),
        "ablations": (training_curves.ablation_panels(comparison), "As v2 Figs. 3 and 5."),
    }
    for name, (panels, source) in kinds.items():
        if panels:
            alt = f"Error in % over training steps on {comparison.title}, one panel each for {', '.join(panels)}."
            narrow = training_curves.curves(comparison, panels, columns=1) if len(panels) > 1 else None
            yield Drawn(name, f"{lines} {source}", alt, training_curves.curves(comparison, panels), narrow)
    if responses := layer_figures.response_figure(comparison):
        alt = f"Standard deviation of the responses by layer on {comparison.title}."
        yield Drawn("layer_responses", RESPONSES, alt, responses)
    if gradients := layer_figures.gradient_figure(comparison):
        yield Drawn("gradient_norms", GRADIENTS, f"Gradient norms by layer on {comparison.title}.", gradients)
