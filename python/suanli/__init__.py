"""Regions of other computers as numpy arrays and PyTorch tensors.

    import suanli

    with suanli.connect(ticket="suanli1...") as node:
        region = node.open("job/ID/theta")
        weights = region.tensor("model.embed_tokens.weight")

``suanli.connect`` reaches a node, ``suanli.Holder`` offers regions of this process. Waiting leaves the
interpreter to other threads. Do not fork a process that has connections: start workers by "spawn".
"""

from ._catalogue import Tensor
from ._errors import ConnectionLost, Error, RefusedError
from ._holder import Holder
from ._node import Node, RegionStat, Stat, connect
from ._region import Gathered, Region
from ._suanli import node_of
from ._train import Batch, Settings, Task, Trainer, train

__all__ = [
    "Batch",
    "ConnectionLost",
    "Error",
    "Gathered",
    "Holder",
    "Node",
    "RefusedError",
    "Region",
    "RegionStat",
    "Settings",
    "Stat",
    "Task",
    "Tensor",
    "Trainer",
    "connect",
    "node_of",
    "train",
]
