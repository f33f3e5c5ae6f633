"""The folded head against the published form, written out token by token."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from contextae.errors import UserError
from contextae.evaluation.heads.attentive import AttentiveHead, attend, normalise

WIDTH, HEADS, CLASSES = 12, 3, 5


def plain(head: AttentiveHead, tokens: Tensor) -> Tensor:
    """LN_q, LN_k, LN_v, projections with q_bias and v_bias, softmax over tokens, proj, BatchNorm, Linear."""
    b = len(tokens)
    query = head.norm_q(head.query).expand(b, 1, WIDTH)
    q = F.linear(query, head.q.weight, head.q_bias)
    k = F.linear(head.norm_k(tokens), head.k.weight)
    v = F.linear(head.norm_v(tokens), head.v.weight, head.v_bias)
    q, k, v = (part.reshape(b, -1, HEADS, WIDTH // HEADS).transpose(1, 2) for part in (q, k, v))
    attention = (q @ k.transpose(2, 3) / (WIDTH // HEADS) ** 0.5).softmax(dim=-1)
    summary = head.proj((attention @ v).transpose(1, 2).reshape(b, WIDTH))
    return head.classifier(head.norm(summary))


def stirred(seed: int = 0) -> AttentiveHead:
    """A head none of whose parameters is at a value that hides a mistake."""
    torch.manual_seed(seed)
    head = AttentiveHead(width=WIDTH, num_heads=HEADS, num_classes=CLASSES)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return head


@pytest.mark.parametrize("training", [True, False])
def test_equals_the_published_form_with_its_gradients(training: bool) -> None:
    head = stirred().train(training)
    tokens = 2 * torch.randn(7, 11, WIDTH) + 1
    wanted_scores, scores = plain(head, tokens), head(tokens)
    assert torch.allclose(scores, wanted_scores, atol=1e-5)
    labels = torch.arange(7) % CLASSES
    gradients = [
        torch.autograd.grad(F.cross_entropy(each, labels), list(head.parameters()), allow_unused=True)
        for each in (scores, wanted_scores)
    ]
    for (name, _), ours, wanted in zip(head.named_parameters(), *gradients, strict=True):
        if name == "norm_k.bias":  # a constant over tokens, which a softmax does not see
            assert ours is None and wanted.abs().max() < 1e-7
        else:
            assert torch.allclose(ours, wanted, atol=1e-5), name
            unseen = training and name in {"v_bias", "proj.bias", "norm_v.bias"}  # taken out by batch normalisation
            assert unseen or wanted.abs().max() > 1e-4, name


def test_tokens_normalised_once_are_enough() -> None:
    head, tokens = stirred().eval(), 3 * torch.randn(7, 11, WIDTH) - 1
    assert torch.allclose(head.classify(attend(normalise(tokens), head.keys())), head(tokens), atol=1e-6)


def test_starts_as_published() -> None:
    head = AttentiveHead(width=64, num_heads=4, num_classes=500)
    assert not head.query.any() and not head.classifier.bias.any() and not head.q_bias.any() and not head.v_bias.any()
    assert head.classifier.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert (head.norm.affine, head.norm.eps, head.norm.momentum) == (False, 1e-5, 0.1)
    assert head.k.bias is None


def test_evaluation_uses_running_statistics() -> None:
    head, tokens = stirred(), torch.randn(9, 11, WIDTH)
    for _ in range(50):
        head(tokens)
    head.eval()
    assert torch.allclose(head(tokens)[:2], head(tokens[:2]), atol=1e-6), "a prediction must not depend on its batch"


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(UserError, match=r"num_heads must divide width\. Got num_heads=5 and width=12"):
        AttentiveHead(width=12, num_heads=5, num_classes=2)
