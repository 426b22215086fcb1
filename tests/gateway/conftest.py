import pytest
from models import random_head, tiny_backbone
from served import save_guard
from serving import GatewayFactory

from lockgate.backbones import Backbone
from lockgate.classifiers import ProbeHead


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["llama"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return tiny_backbone(request.param)


@pytest.fixture
def head(backbone: Backbone) -> ProbeHead:
    return random_head(backbone)


@pytest.fixture
def make_gateway(tmp_path) -> GatewayFactory:
    return GatewayFactory(tmp_path)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder with a tiny model and a guard for it."""
    return save_guard(tmp_path_factory.mktemp("serve"))
