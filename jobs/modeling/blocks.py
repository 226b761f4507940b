"""Find the decoder blocks of a network of any family."""

from __future__ import annotations

from typing import Any

from torch import nn


def find_blocks(network: nn.Module) -> list[nn.Module]:
    """Return the decoder blocks in order; empty if the network does not hold them as one ModuleList.

    They are the shallowest list that is as long as the config's `num_hidden_layers`: lists of experts lie deeper. Works
    on a network with adapters as well.
    """
    config: Any = network.config
    count = getattr(config.get_text_config(decoder=True), "num_hidden_layers", None)
    lists = [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    ]
    return list(min(lists, key=lambda entry: entry[0].count("."))[1]) if lists else []
