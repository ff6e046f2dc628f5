"""Tests, in the rooms of the package: `tests/data` tests `resnet_repro.data`; `tests/commands` tests whole commands."""

import pytest

pytest.register_assert_rewrite("tests.helpers")
