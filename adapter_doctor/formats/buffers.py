"""Names of tensors in a checkpoint that are computed anew, such as masks and positions: whether they are there says nothing."""

from __future__ import annotations

import re

BUFFERS = re.compile(
    r"(?:^|\.)(?:position_ids|inv_freq|num_batches_tracked|masked_bias|attn\.bias|rotary_emb\.\w+|attention\.bias"
    r"|token_type_ids|_float_tensor|relative_position_index)$"
)
