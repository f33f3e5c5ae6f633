"""Semantic segmentation: a class for every pixel, from frozen latents or by an encoder that is trained on."""
