"""contextae: pretrain Vision Transformers on your own unlabelled images with a Context Autoencoder."""

__version__ = "0.1.0"
