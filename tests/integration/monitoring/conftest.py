from tests.integration.delivery.conftest import closed_port, deploy

__all__ = ["closed_port", "deploy"]
