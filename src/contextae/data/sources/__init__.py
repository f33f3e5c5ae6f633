"""Where images come from: folders, lists, Parquet files, and the set that comes with the package."""

from contextae.data.sources.labelled import Labelled, open_labelled, open_labelled_train
from contextae.data.sources.open import continued_index, open_index

__all__ = ["Labelled", "continued_index", "open_index", "open_labelled", "open_labelled_train"]
