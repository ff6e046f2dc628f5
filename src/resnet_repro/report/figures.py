"""Every chart that a group of runs allows, with its caption."""

from collections.abc import Iterator

from resnet_repro.report import layer_figures, training_curves
from resnet_repro.report.charts import Chart
from resnet_repro.runs.groups import Comparison

NAMES = ("training_curves", "constructed_solution", "ablations", "comparators", "layer_responses", "gradient_norms")
CONSTRUCTED = (
    "v1 Sec. 1's argument: “constructed” is the deeper network that began as the trained shallower one with identity "
    "layers inserted, and trained on at the shallower one's last rate."
)
RESPONSES = (
    "Standard deviation of each 3x3 layer's response on training images, after batch norm and before ReLU or "
    "addition, for the trained networks: in order from the image on, and sorted; lines are cut off at the top. As v1 "
    "Fig. 7; v2 has no such figure."
)
GRADIENTS = (
    "L2 norm of the gradient of each layer's weights on one mini-batch, without weight decay, from the image on. v1 "
    "Sec. 4.1 says that the gradients of plain networks are healthy, and draws none."
)


def draw(comparison: Comparison) -> Iterator[Chart]:
    """Yield the charts of runs that may be compared, in the order of `NAMES`."""
    kinds = {
        "training_curves": (training_curves.by_architecture(comparison), "As v1 Fig. 6."),
        "constructed_solution": (training_curves.constructed(comparison), CONSTRUCTED),
        "ablations": (training_curves.ablations(comparison), "As v2 Figs. 3 and 5."),
        "comparators": (training_curves.comparators(comparison), "Networks of other libraries, by the same recipe."),
    }
    for name, (networks, caption) in kinds.items():
        if networks:
            yield training_curves.chart(comparison, networks, name=name, caption=caption)
    if responses := layer_figures.response_chart(comparison, RESPONSES):
        yield responses
    if gradients := layer_figures.gradient_chart(comparison, GRADIENTS):
        yield gradients
