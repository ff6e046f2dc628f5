"""The C compiler of this machine, and the mark of tests that need one."""

import pytest

from resnet_repro.networks.fused import find_compiler

COMPILER = find_compiler()
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler here")
