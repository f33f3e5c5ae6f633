"""What a trained detector sees in images: in one view or in tiles, merged, in pixels of the image."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torchvision.ops import batched_nms

from contextae.evaluation.detection.network import MULTIPLE, Detector
from contextae.evaluation.detection.objects import Detections, Mask, PackedMasks
from contextae.evaluation.detection.settings import DetectionSettings
from contextae.evaluation.detection.views import Normalisation, View, pixels_of, scale_of, stacked, tiles_of
from contextae.training.precision import autocast

AT_ONCE = 8
"""Tiles in a batch."""
EDGE = 2.0
"""Pixels of a tile: a detection that comes so near to an inner edge goes beyond it."""
SURE = 0.5
"""Of a pixel's probability, from which on it belongs to the mask [arXiv 1703.06870]."""


def detect(
    detector: Detector, image: np.ndarray, *, normalise: Normalisation, factor: float, settings: DetectionSettings
) -> Detections:
    """In an image h w c, at the size of tests; the detector is in evaluation mode.

    Tiles each give their detections. One that touches an inner edge of its tile is left out where it is shorter across
    that edge than tiles overlap, for the neighbouring tile shows it whole. The others are merged by the suppression
    that also merges within a tile, and the best `detections` stay.
    """
    device = next(detector.parameters()).device
    height, width = image.shape[:2]
    views = tiles_of(height, width, scale_of(height, width, factor, settings), settings)
    grid = detector.backbone.trunk.grid
    multiple = MULTIPLE * grid.patch_size[0]
    own = None if settings.tile is None else (grid.image_size[0], grid.image_size[1])
    boxes, scores, labels, masks = [], [], [], []
    for start in range(0, len(views), AT_ONCE):
        part = views[start : start + AT_ONCE]
        batch = stacked([normalise(pixels_of(image, view)) for view in part], multiple, own)
        with autocast(settings.precision, device):
            all_found = detector.find(batch.to(device), [view.size for view in part])
        for view, found in zip(part, all_found, strict=True):
            kept = _whole(found["boxes"], view, (height, width), settings.overlap)
            boxes.append(_in_image(found["boxes"][kept].cpu().double(), view))
            scores.append(found["scores"][kept].cpu().double())
            labels.append(found["labels"][kept].cpu())
            if "masks" in found:
                masks.append(found["masks"][kept].cpu())
    all_boxes, all_scores, all_labels = torch.cat(boxes), torch.cat(scores), torch.cat(labels)
    best = batched_nms(all_boxes, all_scores, all_labels, settings.nms)[: settings.detections]
    chosen = all_boxes[best].numpy()
    return Detections(
        boxes=np.concatenate([chosen[:, :2], chosen[:, 2:] - chosen[:, :2]], axis=1),
        scores=all_scores[best].numpy(),
        classes=all_labels[best].numpy() - 1,
        masks=PackedMasks.of(_pasted(torch.cat(masks)[best], chosen, height, width)) if masks else None,
    )


def _whole(boxes: Float[Tensor, "n 4"], view: View, image_size: tuple[int, int], overlap: int) -> Tensor:
    """Which of a view's boxes are not cut by an edge beyond which the image goes on."""
    (left, top, right, bottom), (high, wide) = view.box, view.size
    tolerance = 1e-6 * max(image_size)
    cut_across = ((boxes[:, 0] < EDGE) & (left > tolerance)) | (
        (boxes[:, 2] > wide - EDGE) & (right < image_size[1] - tolerance)
    )
    cut_down = ((boxes[:, 1] < EDGE) & (top > tolerance)) | (
        (boxes[:, 3] > high - EDGE) & (bottom < image_size[0] - tolerance)
    )
    short = boxes[:, 2:] - boxes[:, :2] < overlap
    return ~(cut_across & short[:, 0]) & ~(cut_down & short[:, 1])


def _in_image(boxes: Float[Tensor, "n 4"], view: View) -> Float[Tensor, "n 4"]:
    left, top, right, bottom = view.box
    across, down = (right - left) / view.size[1], (bottom - top) / view.size[0]
    factors, first = torch.tensor([across, down] * 2).double(), torch.tensor([left, top] * 2).double()
    return boxes * factors + first


def _pasted(
    probabilities: Float[Tensor, "n m m"], boxes: Float[np.ndarray, "n 4"], height: int, width: int
) -> tuple[Mask, ...]:
    """Each in the pixels of the image whose middle lies in its box, read between the middles of its cells.

    Differs from torchvision's, which rounds boxes to whole pixels first.
    """
    masks = []
    for grid, (left, top, right, bottom) in zip(probabilities, boxes.tolist(), strict=True):
        first, last = max(0, int(np.ceil(top - 0.5))), min(height, int(np.ceil(bottom - 0.5)))
        begin, end = max(0, int(np.ceil(left - 0.5))), min(width, int(np.ceil(right - 0.5)))
        if last <= first or end <= begin:
            masks.append(Mask(first, begin, np.zeros((0, 0), bool)))
            continue
        y = (torch.arange(first, last) + 0.5 - top) / (bottom - top) * 2 - 1
        x = (torch.arange(begin, end) + 0.5 - left) / (right - left) * 2 - 1
        at = torch.stack(torch.meshgrid(x.float(), y.float(), indexing="xy"), dim=-1)
        values = F.grid_sample(grid[None, None].float(), at[None], align_corners=False, padding_mode="border")
        masks.append(Mask(first, begin, (values[0, 0] > SURE).numpy()))
    return tuple(masks)
