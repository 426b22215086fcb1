import pytest
from parts import make_guard


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """Three bundles that differ, and one that is damaged."""
    root = tmp_path_factory.mktemp("bundles")
    for number, name in enumerate(["a", "b", "c", "damaged"]):
        make_guard(seed=number).save(root / name)
    (root / "damaged" / "probe.safetensors").write_bytes(b"")
    return root
