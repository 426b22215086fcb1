"""The check that a guard was made for the model that vLLM loads."""

from lockgate.backbones.outline import Outline
from lockgate.errors import BackboneMismatch
from lockgate.guards import GuardRecord


def check_backbone(record: GuardRecord, outline: Outline, dtype: str) -> None:
    """Check a guard's backbone against the folder of vLLM's model.

    The logits of the fixed tokens are not compared: vLLM does not compute them outside a request.

    Args:
        outline: what is known of the folder.
        dtype: precision in which vLLM loads it, such as `float32`.

    Raises:
        BackboneMismatch: the guard was made for another model, or for another precision.
        BackboneError: the weights are unreadable.
    """
    made = record.backbone
    if made.dtype != dtype:
        raise BackboneMismatch(
            f"the guard was made for {made.dtype}, vLLM loads the model in {dtype}; start it with "
            f"--dtype {made.dtype}, or calibrate a guard for {dtype}"
        )
    found = outline.hashes()
    if differing := sorted(key for key in {*made.hashes, *found} if made.hashes.get(key) != found.get(key)):
        raise BackboneMismatch(
            f"the guard was made for backbone {made.name}; {outline.name} differs in {', '.join(differing)}. "
            "Serve the model that the guard was made for, or train a guard on this one"
        )
