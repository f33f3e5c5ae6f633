"""What a set of images holds, before anything is trained on it: one decoding pass, and what follows from it."""
