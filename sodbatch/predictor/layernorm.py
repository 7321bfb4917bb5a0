"""Puts right the LayerNorm epsilons of a converted graph.

paddle2onnx 2.1.0 reads double attributes of a Paddle 3 graph as uninitialised floats
(Paddle2ONNX #1646), so the epsilon under a LayerNorm's square root can be anything.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np

log = logging.getLogger(__name__)


def repair_layer_norm(graph: Path, program: Path) -> None:
    """Write the epsilons of a Paddle program into the ONNX file made from it, where they differ.

    Only if the program is in JSON, all its LayerNorms have one epsilon, and the ONNX file has
    exactly as many square roots of a sum with a constant as the program has LayerNorms.

    Args:
        graph: The ONNX file, rewritten in place if anything differs.
        program: The Paddle program.
    """
    import onnx
    from onnx import numpy_helper

    epsilons = _epsilons(program)
    if len(set(epsilons)) != 1:
        return
    model = onnx.load(str(graph))
    sums = {node.output[0]: node for node in model.graph.node if node.op_type == "Add"}
    roots = [node for node in model.graph.node if node.op_type == "Sqrt" and node.input[0] in sums]
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    tensors |= {node.output[0]: node.attribute[0].t for node in model.graph.node if node.op_type == "Constant"}
    constants = [tensors[name] for root in roots for name in sums[root.input[0]].input if name in tensors]
    if len(constants) != len(epsilons):
        return
    epsilon = np.float32(epsilons[0])
    wrong = [tensor for tensor in constants if not np.all(numpy_helper.to_array(tensor) == epsilon)]
    for tensor in wrong:
        shape = numpy_helper.to_array(tensor).shape
        tensor.CopyFrom(numpy_helper.from_array(np.full(shape, epsilon, np.float32), tensor.name))
    if wrong:
        log.warning("put right %d of %d LayerNorm epsilons after paddle2onnx", len(wrong), len(constants))
        onnx.save(model, str(graph))


def _epsilons(program: Path) -> list[float]:
    if program.suffix != ".json":
        return []
    operations = json.loads(program.read_bytes())["program"]["regions"][0]["blocks"][0]["ops"]
    return [
        attribute["AT"]["D"]
        for operation in operations
        if operation["#"].rpartition(".")[2] == "layer_norm"
        for attribute in operation["A"]
        if attribute["N"] == "epsilon"
    ]
