"""One run, from its options to its manifest."""

from resnet_repro.training.lean_import import import_lightning

import_lightning()  # before any module of this room imports Lightning
