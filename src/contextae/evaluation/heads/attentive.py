"""The head of attentive probing (CAE, arXiv 2202.03026, section 4): one query attends to all frozen tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from contextae.errors import UserError

EPS = 1e-6
"""Of the published LayerNorms."""


def normalise(tokens: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
    """What LN_k and LN_v have in common; it holds no weights, so frozen tokens are normalised once."""
    return F.layer_norm(tokens.float(), tokens.shape[-1:], eps=EPS)


def attend(normalised: Float[Tensor, "b t d"], keys: Float[Tensor, "q d"]) -> Float[Tensor, "b q d"]:
    """For every folded key the mean of the tokens, weighted by the softmax of their products with it."""
    attention = (normalised @ keys.T).softmax(dim=1)
    return attention.transpose(1, 2) @ normalised


class AttentiveHead(nn.Module):
    """LN_q, LN_k, LN_v, cross-attention of one learned query with q_bias and v_bias, projection, BatchNorm, Linear.

    A single query needs no key and value per token. Its product with a key is linear in the token, so W_k, LN_k's
    gain and the query fold into one vector per attention head (what is constant over tokens leaves a softmax as it
    is); attention weights sum to one, so W_v, LN_v's affine part and v_bias follow after the weighted mean. Equal to
    the plain form up to rounding, at a share of the work.
    Initialisation: query zero, classifier N(0, 0.01) with zero bias as published; projections truncated normal 0.02.
    """

    def __init__(self, *, width: int, num_heads: int, num_classes: int) -> None:
        super().__init__()
        if width % num_heads:
            raise UserError(f"num_heads must divide width. Got num_heads={num_heads} and width={width}.")
        self.num_heads = num_heads
        self.query = nn.Parameter(torch.zeros(width))
        self.norm_q, self.norm_k, self.norm_v = (nn.LayerNorm(width, eps=EPS) for _ in range(3))
        self.q, self.k, self.v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)
        self.norm = nn.BatchNorm1d(width, affine=False, eps=1e-5, momentum=0.1)
        self.classifier = nn.Linear(width, num_classes)
        for linear in (self.q, self.k, self.v, self.proj):
            nn.init.trunc_normal_(linear.weight, std=0.02)
        nn.init.zeros_(self.proj.bias)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, tokens: Float[Tensor, "b t d"]) -> Float[Tensor, "b k"]:
        return self.classify(attend(normalise(tokens), self.keys()))

    def keys(self) -> Float[Tensor, "q d"]:
        """The query seen from the normalised tokens, one vector per attention head."""
        query = (self.q(self.norm_q(self.query)) + self.q_bias).unflatten(0, (self.num_heads, -1))
        weight = self.k.weight.unflatten(0, (self.num_heads, -1))
        return torch.einsum("qw,qwd->qd", query * query.shape[-1] ** -0.5, weight) * self.norm_k.weight

    def classify(self, attended: Float[Tensor, "b q d"]) -> Float[Tensor, "b k"]:
        """From the weighted means of `attend` to scores of classes."""
        values = attended * self.norm_v.weight + self.norm_v.bias
        weight = self.v.weight.unflatten(0, (self.num_heads, -1))
        summary = torch.einsum("bqd,qwd->bqw", values, weight).flatten(1) + self.v_bias
        return self.classifier(self.norm(self.proj(summary)))
