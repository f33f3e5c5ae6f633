"""Names of an EfficientNet's weights in efficientnet-pytorch and efficientnet-lite-pytorch, turned into timm's.

Both number all blocks in one row; timm numbers stages and the blocks in them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

MARK = "_conv_stem.weight"
OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
SQUEEZE = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
EXPANDING = {  # a block that widens, filters and narrows
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
    **SQUEEZE,
}
PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2", **SQUEEZE}


def to_timm_names(tensors: Mapping[str, Tensor], stages: Sequence[int]) -> dict[str, Tensor]:
    """The same tensors under timm's names, for a network with that many blocks in each stage; other names stay."""
    blocks = [f"blocks.{stage}.{i}" for stage, depth in enumerate(stages) for i in range(depth)]
    renamed = {}
    for name, tensor in tensors.items():
        where, _, rest = name.partition(".")
        number, _, inside = rest.partition(".")
        part, _, last = inside.partition(".")
        table = EXPANDING if f"_blocks.{number}._expand_conv.weight" in tensors else PLAIN
        if where in OUTSIDE:
            renamed[f"{OUTSIDE[where]}.{rest}"] = tensor
        elif where == "_blocks" and number.isdecimal() and int(number) < len(blocks) and part in table:
            renamed[f"{blocks[int(number)]}.{table[part]}.{last}"] = tensor
        else:
            renamed[name] = tensor
    return renamed
