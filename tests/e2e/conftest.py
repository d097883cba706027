"""Two hosts for the tests that want them."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from hosts import Hosts, two_hosts


@pytest.fixture
def hosts(tmp_path) -> Iterator[Hosts]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("hosts of their own need root and iproute2: they are network namespaces")
    with two_hosts(tmp_path) as made:
        yield made
